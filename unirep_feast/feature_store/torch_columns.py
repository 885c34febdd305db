"""Arrow columns to tensors, nulls as masks, without a Python number on the way."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from feast.infra.offline_stores.offline_store import RetrievalJob
from torch import Tensor

from unirep_feast.errors import StoreError, one_line
from unirep_feast.feature_store.columns import is_list, matrix
from unirep_feast.feature_store.online_writer.values import microseconds

#: What follows a column's name in the name of its mask.
MASK = "_mask"


def to_torch(job: RetrievalJob, columns: Sequence[str] | None = None) -> dict[str, Tensor]:
    """Run anyone's Feast job and return its columns as tensors.

    Of n rows, in the order of the job:

    - numbers and booleans become (n,) of their own type; unsigned integers the next larger signed
    - timestamps become (n,) int64 microseconds since 1970 UTC
    - lists of numbers, such as ``Array(Float32)``, become (n, D) of their own type

    Beside each column ``x`` stands ``x_mask``, (n,) bool, False where the row has a null, an empty
    list, or nothing at all; what the column holds there, zeros, means nothing.

    Args:
        job: what ``store.get_historical_features(...)`` returned, or any other retrieval job.
        columns: those to take; by default all that can be tensors, so no texts.

    Raises:
        StoreError: the job fails, a column named does not exist or cannot be a tensor, or lists of
            a column differ in length.
    """
    try:
        table = job.to_arrow()
    except Exception as error:
        raise StoreError(f"the Feast job failed: {one_line(error)}") from error
    return tensors_of(table, columns)


def tensors_of(table: pa.Table, columns: Sequence[str] | None = None) -> dict[str, Tensor]:
    """Turn the columns of a table into tensors; see :func:`to_torch`."""
    names = list(table.column_names)
    if columns is None:
        taken = [name for name in names if _convertible(table.schema.field(name).type)]
    else:
        taken = list(columns)
        unknown = [name for name in taken if name not in names]
        if unknown:
            raise StoreError(f"no column {', '.join(map(repr, unknown))}; found {', '.join(names)}")
    tensors: dict[str, Tensor] = {}
    for name in taken:
        if name + MASK in taken:
            raise StoreError(
                f"columns {name!r} and {name + MASK!r}: the second is the name of the "
                "first one's mask; rename it"
            )
        values, mask = _tensor(table[name], name)
        tensors[name], tensors[name + MASK] = torch.from_numpy(values), torch.from_numpy(mask)
    return tensors


def _tensor(column: pa.ChunkedArray, name: str) -> tuple[np.ndarray, np.ndarray]:
    """(n,) or (n, D) values and (n,) bool."""
    kind = column.type
    if not _convertible(kind):
        raise StoreError(
            f"column {name!r} is {kind}; wanted numbers, booleans, timestamps or lists of numbers"
        )
    if is_list(kind):
        found, mask = matrix(column, f"column {name!r}")
        found = _signed(found)
        values = np.zeros((len(mask), found.shape[1]), found.dtype)
        values[mask] = found
        return values, mask
    if pa.types.is_timestamp(kind):
        mask = pc.is_valid(column).to_numpy()
        return _signed(
            microseconds(pc.fill_null(column, pa.scalar(0, kind)).combine_chunks())
        ), mask
    if pa.types.is_null(kind):
        column = column.cast(pa.float32())
    mask = pc.is_valid(column).to_numpy()
    filled = pc.fill_null(column, pa.scalar(0).cast(column.type)) if column.null_count else column
    return _signed(filled.to_numpy()), mask


def _signed(values: np.ndarray) -> np.ndarray:
    """A copy that torch can hold: writable, and of a type it computes with."""
    larger = {"uint16": np.int32, "uint32": np.int64, "uint64": np.int64}
    if values.dtype == np.uint64 and len(values) and values.max() > np.iinfo(np.int64).max:
        raise StoreError(
            "a column holds unsigned integers beyond 2^63, which torch has no type for"
        )
    return values.astype(larger.get(values.dtype.name, values.dtype))


def _convertible(kind: pa.DataType) -> bool:
    if is_list(kind):
        return _is_number(kind.value_type)
    return bool(
        _is_number(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_timestamp(kind)
        or pa.types.is_null(kind)
    )


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))
