"""Snapshots as rows to be stored: of every user the latest, a batch at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from unirep_feast.errors import StoreError, one_line
from unirep_feast.events import TIME_TYPE

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
    """The rows that Feast would materialize from snapshots: of every user the latest.

    Args:
        paths: snapshots of one run, latest first; at least one.
        join_key: name of the id column.
        mapping: from column names of a snapshot to those of the view.
    """

    paths: Sequence[Path]
    join_key: str
    mapping: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.users: pa.Array = read_users(self.paths[0], self.join_key)
        self._parts = [_Part(self.paths[0], None, len(self.users))]
        for path in self.paths[1:]:
            # Who has no event in the encoder's window any more is in an older snapshot only.
            users = read_users(path, self.join_key)
            new = pc.invert(pc.is_in(users, value_set=self.users))
            rows = pc.sum(new).as_py() or 0
            if rows:
                self._parts.append(_Part(path, new, rows))
                self.users = pa.concat_arrays([self.users, users.filter(new)])

    def __len__(self) -> int:
        """Return the number of rows, one per user."""
        return len(self.users)

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

    def empty(self, users: pa.Array, as_of: int, created: int) -> Iterator[pa.RecordBatch]:
        """Yield rows without a value, for users who must lose the one they have.

        Args:
            users: (n,) ids.
            as_of: event time of the rows, microseconds.
            created: their creation time, microseconds.
        """
        schema = pq.read_schema(self.paths[0])
        for start in range(0, len(users), _EMPTY_ROWS):
            ids = users.slice(start, _EMPTY_ROWS)
            known = {
                self.join_key: ids,
                "event_timestamp": _constant(as_of, len(ids)),
                "created": _constant(created, len(ids)),
            }
            columns = [known.get(each.name, pa.nulls(len(ids), each.type)) for each in schema]
            yield self._renamed(pa.record_batch(columns, names=schema.names))

    def _renamed(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        names = [self.mapping.get(name, name) for name in batch.schema.names]
        return batch.rename_columns(names)


def read_users(path: Path, join_key: str) -> pa.Array:
    """Read the (n,) ids of a snapshot, in file order.

    Raises:
        StoreError: it cannot be read, or has no such column.
    """
    try:
        with pq.ParquetFile(path, memory_map=True) as file:
            table = file.read(columns=[join_key])
        return pa.concat_arrays(table[join_key].chunks)
    except (pa.ArrowException, OSError, KeyError) as error:
        raise StoreError(_unreadable(path, error)) from None


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
            yield from file.iter_batches(batch_size=size)
    except (pa.ArrowException, OSError) as error:
        raise StoreError(_unreadable(path, error)) from None


def _bytes(file: pq.ParquetFile) -> int:
    groups = range(file.metadata.num_row_groups)
    return sum(int(file.metadata.row_group(group).total_byte_size) for group in groups)


def _constant(microseconds: int, rows: int) -> pa.Array:
    return pa.array(np.full(rows, microseconds, np.int64), TIME_TYPE)


def _unreadable(path: Path, error: Exception) -> str:
    return f"snapshot {path} cannot be read: {one_line(error)}; remove it and encode again"
