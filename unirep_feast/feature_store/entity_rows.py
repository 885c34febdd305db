"""Entity rows and ids that a caller hands in: checked, and brought to Arrow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from feast import FeatureView
from feast.types import Int64

from unirep_feast.errors import StoreError, one_line
from unirep_feast.events import TIME_TYPE

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

TIME = "event_timestamp"


def key_of(view: FeatureView) -> str:
    """Name of the join key of a feature view of ours, which has exactly one."""
    name: str = view.entity_columns[0].name
    return name


def read_entity_rows(
    entity_df: pd.DataFrame | pa.Table, view: FeatureView
) -> tuple[pa.Array, np.ndarray]:
    """Check entity rows.

    Returns:
        (n,) ids, int64 or string as the view's join key, null where there is none; and (n,) int64
        microseconds.

    Raises:
        StoreError: a column is missing or of the wrong type, or a time has no zone or is null.
    """
    key = key_of(view)
    names = list(
        entity_df.column_names if isinstance(entity_df, pa.Table) else map(str, entity_df.columns)
    )
    missing = [name for name in (key, TIME) if name not in names]
    if missing:
        raise StoreError(
            f"entity_df: no column {' and no column '.join(map(repr, missing))}; found "
            f"{', '.join(names)}; wanted the join key {key!r} and {TIME!r}"
        )
    if isinstance(entity_df, pa.Table):
        table = entity_df.select([key, TIME])
    else:
        try:
            table = pa.Table.from_pandas(entity_df[[key, TIME]], preserve_index=False)
        except pa.ArrowException as error:
            raise StoreError(f"entity_df: mixed types: {one_line(error)}") from None
    kind = table.schema.field(TIME).type
    if not pa.types.is_timestamp(kind):
        raise StoreError(f"entity_df: {TIME!r} is {kind}; wanted a timestamp with a time zone")
    if kind.tz is None:
        raise StoreError(
            f"entity_df: {TIME!r} is {kind} without a time zone, which Feast would take as UTC; "
            f"say so if it is: df[{TIME!r}].dt.tz_localize('UTC')"
        )
    times = table[TIME].combine_chunks()
    if times.null_count:
        raise StoreError(f"entity_df: {times.null_count:,} rows without {TIME!r}; drop them")
    # Cut off, not rounded: a row must not see a snapshot that is later by a nanosecond.
    microseconds = times.cast(TIME_TYPE, safe=False).cast(pa.int64())
    return check_ids(table[key], view, f"entity_df: {key!r}"), microseconds.to_numpy()


def id_array(ids: Sequence[Any] | np.ndarray | pa.Array | Tensor) -> pa.Array:
    """Bring ids of any kind to Arrow.

    Raises:
        StoreError: they are of several types.
    """
    if hasattr(ids, "cpu"):  # a tensor, said without importing torch
        ids = ids.cpu().numpy()
    try:
        return ids if isinstance(ids, pa.Array | pa.ChunkedArray) else pa.array(ids)
    except pa.ArrowException as error:
        raise StoreError(f"ids: {one_line(error)}; wanted integers or strings") from None


def check_ids(column: pa.Array | pa.ChunkedArray, view: FeatureView, name: str) -> pa.Array:
    """Check ids against the view's join key; never guess that "7" might mean 7.

    Returns:
        (n,) int64 or string.

    Raises:
        StoreError: they are of another type; ``name`` is named.
    """
    if isinstance(column, pa.ChunkedArray):
        column = pa.concat_arrays(column.chunks) if column.chunks else pa.nulls(0, column.type)
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    kind = column.type
    integers = view.entity_columns[0].dtype == Int64
    texts = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    wanted = pa.int64() if integers else pa.string()
    if not (pa.types.is_null(kind) or (pa.types.is_integer(kind) if integers else texts)):
        reason = "; pandas makes numbers of ids with gaps, use dtype Int64"
        raise StoreError(
            f"{name} is {kind}; feature view {view.name!r} is keyed by {wanted}"
            + (reason if integers and pa.types.is_floating(kind) else "")
        )
    try:
        return column.cast(wanted)
    except pa.ArrowException as error:
        raise StoreError(f"{name} is {kind}: {one_line(error)}; wanted {wanted}") from None


def unique_pairs(
    ids: pa.Array, times: np.ndarray
) -> tuple[np.ndarray, np.ndarray, pa.Array, np.ndarray]:
    """Ask for each (user, time) once: the dask store would answer only one of equal rows.

    Returns:
        (m,) rows with a user, (m,) which pair each of them is, and the (p,) ids and times of pairs.
    """
    asked = np.flatnonzero(ids.is_valid().to_numpy(zero_copy_only=False))
    encoded = ids.drop_null().dictionary_encode()
    codes, when = encoded.indices.to_numpy(), times[asked]
    order = np.lexsort((when, codes))
    fresh = np.ones(len(order), bool)
    fresh[1:] = (np.diff(codes[order]) != 0) | (np.diff(when[order]) != 0)
    pairs = np.empty(len(order), np.int64)
    pairs[order] = np.cumsum(fresh) - 1
    first = order[fresh]
    return asked, pairs, encoded.dictionary.take(pa.array(codes[first])), when[first]
