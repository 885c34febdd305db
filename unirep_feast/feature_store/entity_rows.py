"""Entity rows and ids that a caller hands in: checked, and brought to Arrow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from feast import FeatureView
from feast.types import Int64

from unirep_feast.errors import StoreError, one_line
from unirep_feast.feature_store.online_writer.values import microseconds

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    Ids: TypeAlias = (
        Sequence[Any] | np.ndarray | pa.Array | Tensor | pd.DataFrame | pa.Table | Mapping[str, Any]
    )

TIME = "event_timestamp"


@dataclass(frozen=True)
class EntityRows:
    """Whom a caller asks for, and as of when.

    Attributes:
        keys: by join key, (n,) int64 or string ids, null where there is none.
        times: (n,) int64 microseconds.
    """

    keys: Mapping[str, pa.Array]
    times: np.ndarray

    def __len__(self) -> int:
        return len(self.times)


class KeyCodes:
    """Numbers entities, so that joins are over integers.

    Attributes:
        of_rows: (n,) int64, the number of each row's entity; -1 where a part of the key is null.
        count: entities there are, whose numbers are 0 to ``count`` - 1.
    """

    def __init__(self, keys: Mapping[str, pa.Array]) -> None:
        """Number the entities of (n,) keys."""
        self._values = {name: pc.unique(column.drop_null()) for name, column in keys.items()}
        self._pairs: np.ndarray | None = None
        combined = self._combine(keys)
        if len(self._values) == 1:  # the numbers of the ids are those of the entities
            self.of_rows, self.count = combined, len(next(iter(self._values.values())))
            return
        known = combined >= 0
        self._pairs, numbers = np.unique(combined[known], return_inverse=True)
        self.of_rows, self.count = np.full(len(combined), -1, np.int64), len(self._pairs)
        self.of_rows[known] = numbers

    def __call__(self, keys: Mapping[str, pa.Array]) -> np.ndarray:
        """Look up (m,) keys of the same types: int64, -1 for entities without a number."""
        combined = self._combine(keys)
        if self._pairs is None:
            return combined
        if self.count == 0:
            return np.full(len(combined), -1, np.int64)
        place = np.minimum(np.searchsorted(self._pairs, combined), self.count - 1)
        return np.where(self._pairs[place] == combined, place, -1)

    def _combine(self, keys: Mapping[str, pa.Array]) -> np.ndarray:
        """One number for all parts of a key; not without gaps."""
        combined: np.ndarray | None = None
        for name, values in self._values.items():
            place = pc.fill_null(pc.index_in(keys[name], value_set=values), -1)
            part = place.to_numpy(zero_copy_only=False).astype(np.int64)
            if combined is None:
                combined = part
            else:
                both = (combined >= 0) & (part >= 0)
                combined = np.where(both, combined * len(values) + part, -1)
        assert combined is not None, "a view has a join key"  # noqa: S101
        return combined


def join_keys(view: FeatureView) -> list[str]:
    """Names of the join keys of a feature view of ours."""
    return [column.name for column in view.entity_columns]


def read_entity_rows(entity_df: pd.DataFrame | pa.Table, view: FeatureView) -> EntityRows:
    """Check entity rows against a view's join keys.

    Raises:
        StoreError: a column is missing or of the wrong type, or a time has no zone or is null.
    """
    keys = join_keys(view)
    table = _columns(entity_df, [*keys, TIME], "entity_df", f"{_named(keys)} and {TIME!r}")
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
    # Rounded down: a row must not see a snapshot that is later by a nanosecond.
    moments = microseconds(times)
    checked = {key: check_ids(table[key], view, key, f"entity_df: {key!r}") for key in keys}
    return EntityRows(checked, moments)


def read_ids(ids: Ids, view: FeatureView) -> dict[str, pa.Array]:
    """Check ids against a view's join keys.

    Args:
        ids: (n,) ids, or columns by join key, which a view with several keys asks for.
        view: the feature view.

    Returns:
        By join key, (n,) int64 or string ids, null where there is none.

    Raises:
        StoreError: a column is missing, or ids are of the wrong type.
    """
    keys = join_keys(view)
    if isinstance(ids, Mapping):
        arrays = {name: _as_array(column) for name, column in ids.items()}
        lengths = {len(column) for column in arrays.values()}
        if len(lengths) > 1:
            raise StoreError(f"ids: columns of {', '.join(map(str, sorted(lengths)))} rows")
        ids = pa.table(arrays)
    if isinstance(ids, pa.Table) or hasattr(ids, "columns"):
        table = _columns(ids, keys, "ids", _named(keys))
        return {key: check_ids(table[key], view, key, f"ids: {key!r}") for key in keys}
    if len(keys) > 1:
        raise StoreError(
            f"feature view {view.name!r} has the join keys {', '.join(map(repr, keys))}; hand "
            "over a dict of columns, a DataFrame or an Arrow table"
        )
    return {keys[0]: check_ids(_as_array(ids), view, keys[0], "ids")}


def check_ids(
    column: pa.Array | pa.ChunkedArray, view: FeatureView, key: str, name: str
) -> pa.Array:
    """Check ids against a join key of a view; never guess that "7" might mean 7.

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
    integers = next(each for each in view.entity_columns if each.name == key).dtype == Int64
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


def unique_pairs(rows: EntityRows) -> tuple[np.ndarray, np.ndarray, EntityRows]:
    """Ask for each (entity, time) once: the dask store would answer only one of equal rows.

    Returns:
        (m,) rows with an entity, (m,) which pair each of them is, and the (p,) pairs.
    """
    codes = KeyCodes(rows.keys).of_rows
    asked = np.flatnonzero(codes >= 0)
    codes, when = codes[asked], rows.times[asked]
    order = np.lexsort((when, codes))
    fresh = np.ones(len(order), bool)
    fresh[1:] = (np.diff(codes[order]) != 0) | (np.diff(when[order]) != 0)
    pairs = np.empty(len(order), np.int64)
    pairs[order] = np.cumsum(fresh) - 1
    first = asked[order[fresh]]
    keys = {name: column.take(pa.array(first)) for name, column in rows.keys.items()}
    return asked, pairs, EntityRows(keys, rows.times[first])


def _columns(data: Any, names: list[str], what: str, wanted: str) -> pa.Table:
    is_table = isinstance(data, pa.Table)
    found = list(data.column_names if is_table else map(str, data.columns))
    missing = [name for name in names if name not in found]
    if missing:
        raise StoreError(
            f"{what}: no column {' and no column '.join(map(repr, missing))}; found "
            f"{', '.join(found)}; wanted {wanted}"
        )
    if is_table:
        return data.select(names)
    try:
        return pa.Table.from_pandas(data[names], preserve_index=False)
    except pa.ArrowException as error:
        raise StoreError(f"{what}: mixed types: {one_line(error)}") from None


def _as_array(ids: Any) -> pa.Array | pa.ChunkedArray:
    if hasattr(ids, "cpu"):  # a tensor, said without importing torch
        ids = ids.cpu().numpy()
    try:
        return ids if isinstance(ids, pa.Array | pa.ChunkedArray) else pa.array(ids)
    except pa.ArrowException as error:
        raise StoreError(f"ids: {one_line(error)}; wanted integers or strings") from None


def _named(keys: list[str]) -> str:
    return f"the join key{'s' if len(keys) > 1 else ''} {', '.join(map(repr, keys))}"
