"""What a feature view says of its rows, and reading them from Arrow batches, a slice at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from feast import FeatureView
from feast.value_type import ValueType

from unirep_feast.errors import StoreError
from unirep_feast.feature_store.online_writer.values import encode, microseconds

_T = TypeVar("_T")

_INTEGERS = frozenset(
    map(str, (pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32()))
)


@dataclass(frozen=True)
class Layout:
    """The columns of a view.

    Attributes:
        view: name of the view, for errors.
        join_keys: name and type of each part of the entity key, in the view's order.
        features: name and type of each feature, in the view's order.
        event_time: name of the column.
        created: name of the column, if the source has one.
    """

    view: str
    join_keys: Mapping[str, ValueType]
    features: Mapping[str, ValueType]
    event_time: str
    created: str | None


@dataclass(frozen=True)
class Rows:
    """Consecutive rows of a view.

    Attributes:
        layout: which column is what.
        batch: at least one row.
    """

    layout: Layout
    batch: pa.RecordBatch

    def __len__(self) -> int:
        rows: int = self.batch.num_rows
        return rows

    def column(self, name: str) -> pa.Array:
        """Return a column."""
        return self.batch.column(self.batch.schema.get_field_index(name))

    def ids(self) -> dict[str, pa.Array]:
        """Columns of the join keys: int64 or string where the view says so.

        Raises:
            StoreError: there are nulls, or ids of another type.
        """
        ids = {}
        for name, kind in self.layout.join_keys.items():
            column = self.column(name)
            if column.null_count:
                raise StoreError(
                    f"{self.layout.view}: {column.null_count:,} of {len(column):,} rows have no "
                    f"{name}; drop them before materializing"
                )
            if pa.types.is_dictionary(column.type):
                column = column.dictionary_decode()
            ids[name] = _as_declared(column, kind, f"{self.layout.view}: {name}")
        return ids

    def values(self) -> dict[str, pa.LargeBinaryArray]:
        """Serialized messages of each feature, in the view's order."""
        return {
            name: encode(self.column(name), kind, f"{self.layout.view}: {name}")
            for name, kind in self.layout.features.items()
        }

    def event_times(self) -> np.ndarray:
        """(n,) int64 microseconds.

        Raises:
            StoreError: there are nulls, or the column holds no times.
        """
        column = self._times(self.layout.event_time)
        if column.null_count:
            raise StoreError(
                f"{self.layout.view}: {column.null_count:,} of {len(column):,} rows have no "
                f"{self.layout.event_time}; drop them before materializing"
            )
        return microseconds(column)

    def created(self) -> tuple[np.ndarray, np.ndarray] | None:
        """(n,) int64 microseconds and (n,) bool, which rows have one; None if no row has."""
        if self.layout.created is None:
            return None
        column = self._times(self.layout.created)
        valid = column.is_valid().to_numpy(zero_copy_only=False)
        return microseconds(column.fill_null(0)), valid

    def _times(self, name: str) -> pa.Array:
        column = self.column(name)
        if pa.types.is_null(column.type):
            return column.cast(pa.timestamp("us"))
        if not pa.types.is_timestamp(column.type):
            raise StoreError(
                f"{self.layout.view}: {name} is {column.type}; wanted timestamp[us, tz=UTC]"
            )
        return column


def layout_of(view: FeatureView) -> Layout:
    """Read the layout off a feature view.

    Raises:
        StoreError: it has no batch source, or no features.
    """
    source = view.batch_source
    if source is None or not view.features:
        raise StoreError(
            f"feature view {view.name!r} has no batch source or no features; there is nothing to "
            "materialize"
        )
    return Layout(
        view=view.name,
        join_keys={field.name: field.dtype.to_value_type() for field in view.entity_columns},
        features={field.name: field.dtype.to_value_type() for field in view.features},
        event_time=source.timestamp_field,
        created=source.created_timestamp_column or None,
    )


def slices(
    layout: Layout,
    batches: Iterable[pa.RecordBatch | pa.Table],
    max_bytes: int,
    max_rows: int | None = None,
) -> Iterator[Rows]:
    """Cut batches into runs of rows that fit into memory several times over.

    Args:
        layout: the columns to take; others are left alone.
        batches: the data. Tables may be chunked in any way.
        max_bytes: of the columns of a slice, roughly; a slice has one row at least.
        max_rows: of a slice.

    Raises:
        StoreError: a column is missing.
    """
    names = [*layout.join_keys, *layout.features, layout.event_time]
    names += [layout.created] if layout.created else []
    for data in batches:
        missing = [name for name in names if name not in data.schema.names]
        if missing:
            raise StoreError(
                f"{layout.view}: no column {', '.join(map(repr, missing))}; found "
                f"{', '.join(data.schema.names)}"
            )
        taken = data.select(list(dict.fromkeys(names)))
        for batch in taken.to_batches() if isinstance(taken, pa.Table) else [taken]:
            total = batch.num_rows
            step = max(1, max_bytes * total // max(1, batch.nbytes))
            step = min(step, max_rows or step)
            for start in range(0, total, step):
                yield Rows(layout, batch.slice(start, step))


def per_distinct(times: np.ndarray, convert: Callable[[datetime], _T]) -> list[_T]:
    """Convert (n,) int64 microseconds, each distinct one once, from naive UTC as Feast has them."""
    found, which = np.unique(times, return_inverse=True)
    converted = np.empty(len(found), object)
    converted[:] = [convert(_EPOCH + timedelta(microseconds=time)) for time in found.tolist()]
    as_list: list[_T] = converted[which].tolist()
    return as_list


def created_per_distinct(
    created: tuple[np.ndarray, np.ndarray] | None, rows: int, convert: Callable[[datetime], _T]
) -> list[_T | None]:
    """Convert what :meth:`Rows.created` returns; None where a row has none."""
    if created is None:
        return [None] * rows
    times, valid = created
    converted = np.empty(rows, object)
    converted[:] = None
    some = np.empty(int(valid.sum()), object)
    some[:] = per_distinct(times[valid], convert)
    converted[valid] = some
    as_list: list[_T | None] = converted.tolist()
    return as_list


def as_microseconds(time: datetime) -> int:
    """Microseconds since 1970 of a time; one without a zone is UTC, as everywhere in Feast."""
    if time.tzinfo is not None:
        time = time.astimezone(UTC).replace(tzinfo=None)
    return (time - _EPOCH) // timedelta(microseconds=1)


_EPOCH = datetime(1970, 1, 1)


def _as_declared(column: pa.Array, kind: ValueType, name: str) -> Any:
    if kind == ValueType.INT64 and str(column.type) in _INTEGERS:
        return column.cast(pa.int64())
    is_text = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
    if (kind == ValueType.STRING and is_text) or kind not in (ValueType.INT64, ValueType.STRING):
        return column
    raise StoreError(
        f"{name} is {column.type}, the view says {kind.name}; give the entity the value_type of "
        "the column (view.key_type in the spec) and run `feast apply`"
    )
