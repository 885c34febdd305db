"""Rows of users and of items, as their snapshots have them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from unirep_feast.events import TIME_TYPE
from unirep_feast.snapshot.writing import (
    NO_ITEM,
    NO_USER,
    SnapshotFile,
    constant,
    footer_of,
    rows_per_table,
    vector_column,
    write_tables,
)


@dataclass(frozen=True)
class VectorBlock:
    """Vectors of consecutive users.

    Attributes:
        users: (n,) int64 or string ids, ascending.
        vectors: (n, K · D) float32.
        history_length: (n,) int64 events before the as-of time.
        last_event: (n,) int64 microseconds, time of the latest of them.
        slots: (n, K) int64 interest ids, for encoders that choose interests.
        history_hash: (n,) int64, see ``unirep_feast.history_hash``; lets a later snapshot carry
            vectors over.
    """

    users: pa.Array
    vectors: np.ndarray
    history_length: np.ndarray
    last_event: np.ndarray
    slots: np.ndarray | None = None
    history_hash: np.ndarray | None = None


@dataclass(frozen=True)
class ItemBlock:
    """Vectors of some items.

    Attributes:
        items: (n,) int64 or string ids.
        vectors: (n, D) float32.
    """

    items: pa.Array
    vectors: np.ndarray


def write_snapshot(
    path: Path,
    blocks: Iterable[VectorBlock],
    join_key: str,
    as_of: int,
    created: int,
    num_vectors: int,
    dim: int,
    metadata: Mapping[bytes, bytes],
    expected: str | None = None,
) -> SnapshotFile:
    """Stream blocks of vectors into a snapshot; it appears whole or not at all.

    The same run, events and T give the same bytes, so a snapshot that was lost can be made again.

    Columns: the join key, ``event_timestamp`` (= T), ``created``, ``vector`` (list<float32>, K · D
    numbers), ``history_length``, ``last_event``, and ``slots`` and ``history_hash`` where there are
    any.

    Args:
        path: see ``snapshot_path``.
        blocks: vectors in user order.
        join_key: name of the id column.
        as_of: T, microseconds.
        created: microseconds, when the run that makes the vectors began; between two runs the later
            one wins where Feast has to choose.
        num_vectors: K.
        dim: D.
        metadata: further keys of the parquet footer.
        expected: checksum of the snapshot that was lost and is made again.

    Raises:
        SnapshotError: a vector is not finite (the users are named), there is no user, the disk
            refuses, or the content is not the expected one; no file is left.
    """
    width = num_vectors * dim

    def table(block: VectorBlock) -> pa.Table:
        rows = len(block.users)
        columns: dict[str, pa.Array] = {
            join_key: block.users,
            "event_timestamp": constant(as_of, rows),
            "created": constant(created, rows),
            "vector": vector_column(block.users, block.vectors, width, "users"),
            "history_length": pa.array(block.history_length, pa.int64()),
            "last_event": pa.array(block.last_event, TIME_TYPE),
        }
        if block.slots is not None:
            offsets = np.arange(rows + 1, dtype=np.int32) * block.slots.shape[1]
            columns["slots"] = pa.ListArray.from_arrays(offsets, block.slots.reshape(-1))
        if block.history_hash is not None:
            columns["history_hash"] = pa.array(block.history_hash, pa.int64())
        return pa.table(columns)

    tables = (table(piece) for block in blocks for piece in _pieces(block, width))
    footer = footer_of(num_vectors, dim, as_of, metadata)
    return write_tables(path, tables, footer, expected, NO_USER)


def write_items(
    path: Path,
    blocks: Iterable[ItemBlock],
    item_key: str,
    as_of: int,
    created: int,
    dim: int,
    metadata: Mapping[bytes, bytes],
    expected: str | None = None,
) -> SnapshotFile:
    """Stream item vectors into a snapshot; as :func:`write_snapshot`, with the same promises.

    Columns: the item key, ``event_timestamp`` (= T), ``created``, ``vector`` (list<float32>, D).

    Args:
        path: see ``snapshot_path``.
        blocks: every item once, in any order that the run, events and T decide.
        item_key: name of the id column.
        as_of: T, microseconds.
        created: microseconds, when the run that makes the vectors began.
        dim: D.
        metadata: further keys of the parquet footer.
        expected: checksum of the snapshot that was lost and is made again.

    Raises:
        SnapshotError: as for :func:`write_snapshot`.
    """

    def table(block: ItemBlock) -> pa.Table:
        rows = len(block.items)
        return pa.table(
            {
                item_key: block.items,
                "event_timestamp": constant(as_of, rows),
                "created": constant(created, rows),
                "vector": vector_column(block.items, block.vectors, dim, "items"),
            }
        )

    footer = footer_of(1, dim, as_of, metadata)
    return write_tables(path, map(table, blocks), footer, expected, NO_ITEM)


def write_plain(
    path: Path,
    blocks: Iterable[VectorBlock],
    join_key: str,
    metadata: Mapping[bytes, bytes] | None = None,
) -> SnapshotFile:
    """Write a plain parquet of two columns, the user id and the vector, for use without Feast.

    Args:
        path: a file; one that is there is replaced.
        blocks: vectors in user order.
        join_key: name of the id column.
        metadata: keys of the parquet footer, such as which run and T it is of.

    Raises:
        SnapshotError: as for :func:`write_snapshot`.
    """

    def table(block: VectorBlock) -> pa.Table:
        width = block.vectors.shape[1]
        column = vector_column(block.users, block.vectors, width, "users")
        return pa.table({join_key: block.users, "vector": column})

    pieces = (piece for block in blocks for piece in _pieces(block, block.vectors.shape[1]))
    return write_tables(path, map(table, pieces), metadata or {}, None, NO_USER)


def _pieces(block: VectorBlock, width: int) -> Iterator[VectorBlock]:
    """Cut a block where its numbers would not fit the 32-bit offsets of a list column."""
    rows = rows_per_table(width)
    for start in range(0, len(block.users), rows):
        cut = slice(start, start + rows)
        yield VectorBlock(
            block.users.slice(start, rows),
            block.vectors[cut],
            block.history_length[cut],
            block.last_event[cut],
            None if block.slots is None else block.slots[cut],
            None if block.history_hash is None else block.history_hash[cut],
        )
