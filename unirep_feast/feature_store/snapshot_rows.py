"""Snapshots as rows to be stored: of every key the latest, a batch at a time."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from unirep_feast.errors import StoreError, one_line
from unirep_feast.events import TIME_TYPE
from unirep_feast.feature_store.vector_pages import VectorPages, as_lists

#: Of a batch, roughly.
BATCH_BYTES = 8 << 20

_EMPTY_ROWS = 65_536

_READ_BYTES = 1 << 18


@dataclass(frozen=True)
class _Part:
    """A snapshot, and which of its rows count; None: all of them."""

    path: Path
    mask: pa.BooleanArray | None
    rows: int


@dataclass
class LatestRows:
    """The rows that Feast would materialize from snapshots: of every key the latest.

    Args:
        paths: snapshots of one run, latest first; at least one.
        join_keys: names of the id columns; all but the first hold integers.
        mapping: from column names of a snapshot to those of the view.
    """

    paths: Sequence[Path]
    join_keys: Sequence[str]
    mapping: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        keys = read_keys(self.paths[0], self.join_keys)
        self._parts = [_Part(self.paths[0], None, keys.num_rows)]
        tables = [keys]
        known = as_one(keys) if len(self.paths) > 1 else None
        for path in self.paths[1:]:
            # Who has no event in the encoder's window any more is in an older snapshot only.
            keys = read_keys(path, self.join_keys)
            found = as_one(keys)
            new = pc.invert(pc.is_in(found, value_set=known))
            rows = pc.sum(new).as_py() or 0
            if rows:
                self._parts.append(_Part(path, new, rows))
                tables.append(keys.filter(new))
                known = pa.concat_arrays([known, found.filter(new)])
        #: (n,) ids of the rows, a column each.
        self.keys: pa.Table = pa.concat_tables(tables)

    def __len__(self) -> int:
        """Return the number of rows, one per key."""
        rows: int = self.keys.num_rows
        return rows

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the rows, latest snapshot first."""
        for part in self._parts:
            start = 0
            for batch in _read(part.path):
                rows = batch.num_rows
                if part.mask is not None:
                    batch = batch.filter(part.mask.slice(start, rows))
                start += rows
                if batch.num_rows:
                    yield self._renamed(batch)

    def empty(self, keys: pa.Table, as_of: int, created: int) -> Iterator[pa.RecordBatch]:
        """Yield rows without a value, for keys that must lose the one they have.

        Args:
            keys: (n,) ids, a column each.
            as_of: event time of the rows, microseconds.
            created: their creation time, microseconds.
        """
        schema = pq.read_schema(self.paths[0])
        for start in range(0, keys.num_rows, _EMPTY_ROWS):
            ids = keys.slice(start, _EMPTY_ROWS).combine_chunks()
            rows = ids.num_rows
            known = {
                **{name: ids[name].chunk(0) for name in ids.column_names},
                "event_timestamp": _constant(as_of, rows),
                "created": _constant(created, rows),
            }
            columns = [known.get(each.name, pa.nulls(rows, each.type)) for each in schema]
            yield self._renamed(pa.record_batch(columns, names=schema.names))

    def _renamed(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        names = [self.mapping.get(name, name) for name in batch.schema.names]
        return batch.rename_columns(names)


def read_keys(path: Path, join_keys: Sequence[str]) -> pa.Table:
    """Read the (n,) ids of a snapshot, a column each, in file order.

    Raises:
        StoreError: it cannot be read, or lacks such a column.
    """
    try:
        with pq.ParquetFile(path, memory_map=True) as file:
            table = file.read(columns=list(join_keys))
        return table.select(list(join_keys))
    except (pa.ArrowException, OSError, KeyError) as error:
        raise StoreError(_unreadable(path, error)) from None


def as_one(keys: pa.Table) -> pa.Array:
    """Turn keys of one or several columns into (n,) values that are equal where the keys are.

    Args:
        keys: n rows; all columns but the first hold integers, so that the parts can be told apart.
    """
    columns = [pa.concat_arrays(column.chunks or [_none(column)]) for column in keys.columns]
    if len(columns) == 1:
        return columns[0]
    texts = [column.cast(pa.large_string()) for column in columns]
    return pc.binary_join_element_wise(*texts, pa.scalar("\0", pa.large_string()))


def _none(column: pa.ChunkedArray) -> pa.Array:
    return pa.array([], column.type)


def counted(batches: Iterator[pa.RecordBatch], count: Callable[[int], None]) -> Iterator[pa.Table]:
    """Pass batches through and tell how many rows each had."""
    for batch in batches:
        count(batch.num_rows)
        yield batch


def _read(path: Path) -> Iterator[pa.RecordBatch]:
    try:
        # A piece at a time: of a row group only a few batches are in memory. A mapped file would
        # count in full, and its first touch costs more than copying it.
        with pq.ParquetFile(path, buffer_size=_READ_BYTES, pre_buffer=False) as file:
            width = max(file.metadata.num_rows, 1)
            bytes_per_row = max(_bytes(file) // width, 1)
            size = int(np.clip(BATCH_BYTES // bytes_per_row, 1, 65_536))
            with path.open("rb", buffering=0) as raw:
                pages = VectorPages(file, lambda at, size: os.pread(raw.fileno(), size, at))
                for group in range(file.metadata.num_row_groups):
                    start = pages.start(group)
                    if start is None:
                        yield from file.iter_batches(size, row_groups=[group])
                    else:
                        raw.seek(start)
                        yield from _read_plain(file, raw, pages.row_type.itemsize, group, size)
    except (pa.ArrowException, OSError) as error:
        raise StoreError(_unreadable(path, error)) from None


def _read_plain(
    file: pq.ParquetFile, raw: io.RawIOBase, vector_bytes: int, group: int, size: int
) -> Iterator[pa.RecordBatch]:
    """Read a row group whose vectors follow one another from where ``raw`` stands."""
    schema = file.schema_arrow
    others = [name for name in schema.names if name != "vector"]
    for batch in file.iter_batches(size, row_groups=[group], columns=others):
        vectors = np.empty((batch.num_rows, vector_bytes // 4), np.float32)
        unread = vectors.data.cast("B")
        while unread:
            read = raw.readinto(unread)
            if not read:
                raise OSError("it is cut off")
            unread = unread[read:]
        known = dict(zip(others, batch.columns, strict=True))
        known["vector"] = as_lists(vectors, schema.field("vector").type)
        yield pa.record_batch([known[name] for name in schema.names], schema=schema)


def _bytes(file: pq.ParquetFile) -> int:
    groups = range(file.metadata.num_row_groups)
    return sum(int(file.metadata.row_group(group).total_byte_size) for group in groups)


def _constant(microseconds: int, rows: int) -> pa.Array:
    return pa.array(np.full(rows, microseconds, np.int64), TIME_TYPE)


def _unreadable(path: Path, error: Exception) -> str:
    return f"snapshot {path} cannot be read: {one_line(error)}; remove it and encode again"
