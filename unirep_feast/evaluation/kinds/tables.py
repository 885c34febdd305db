"""Label tables: parquet files with a user per row, lined up with the log."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from unirep_feast.errors import EvaluationError, EventsError
from unirep_feast.tables import open_dataset
from unirep_feast.task import TaskLog


def read_columns(log: TaskLog, path: str, columns: list[str], what: str) -> pa.Table:
    """Read columns of a parquet table.

    Raises:
        EvaluationError: there is no such file or column, in one line.
    """
    where = path if Path(path).is_absolute() else str(Path(log.folder) / path)
    try:
        dataset = open_dataset(where, what)
    except EventsError as error:
        raise EvaluationError(str(error).replace(f"`{what}.path` in the spec", "`path`")) from None
    missing = [name for name in columns if name not in dataset.schema.names]
    if missing:
        raise EvaluationError(
            f"{where}: no column {', '.join(map(repr, missing))}; found "
            f"{', '.join(dataset.schema.names)}"
        )
    return dataset.to_table(columns=columns).combine_chunks()


def rows_of(ids: pa.ChunkedArray, known: pa.Array, path: str, what: str) -> np.ndarray:
    """(n,) int64 rows of ids among the log's; -1 for those it does not know.

    Raises:
        EvaluationError: ids are of another type than the log's.
    """
    flat = ids.combine_chunks()
    if flat.type != known.type:
        try:
            flat = flat.cast(known.type)
        except pa.ArrowException:
            raise EvaluationError(
                f"{path}: ids of {what} are {ids.type}, those of the log {known.type}; write both "
                "alike"
            ) from None
    places = pc.fill_null(pc.index_in(flat, value_set=known), -1)
    return np.asarray(places.to_numpy(zero_copy_only=False), np.int64)
