"""Encode only the users whose history changed since an earlier snapshot; carry the others over.

A vector is carried over if, and only if, the encoder would see the same as it saw then: the hash of
the history within its window, and of what is known of its items, is the one the snapshot keeps. So
new, late, changed and deleted events all lead to a new vector, and so does an event that has become
too old for a window of so many days. Fixed batch shapes then make the result equal a full encode to
the last bit, as long as the machine is the one of the earlier snapshot.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from unirep_feast.catalog import Catalog, Snapshot
from unirep_feast.config import RepresentationSpec
from unirep_feast.errors import SnapshotError, one_line
from unirep_feast.files import sha256
from unirep_feast.inference import Eligible, Inference, Progress
from unirep_feast.instants import format_instant
from unirep_feast.pipeline.loading import Notify
from unirep_feast.snapshot import MACHINE, VectorBlock, snapshot_path


@dataclass(frozen=True)
class Earlier:
    """What an earlier snapshot of the same run tells of its users.

    Attributes:
        path: the file.
        as_of: its time, microseconds.
        users: (m,) ids, ascending.
        hashes: (m,) int64 of the histories its vectors were made of.
    """

    path: Path
    as_of: int
    users: pa.Array
    hashes: np.ndarray

    def places(self, users: pa.Array, hashes: np.ndarray) -> np.ndarray:
        """(n,) int64 rows of those users whose history is the same still; -1 for the others."""
        found = pc.index_in(users, value_set=self.users)
        places = pc.fill_null(found, -1).to_numpy(zero_copy_only=False).astype(np.int64)
        same = (places >= 0) & (self.hashes[places] == hashes)
        return np.where(same, places, -1)


def find_earlier(
    catalog: Catalog,
    spec: RepresentationSpec,
    run: str,
    as_of: int,
    inference: Inference,
    users: pa.Array,
    notify: Notify,
) -> Earlier | None:
    """Find the latest earlier snapshot that vectors can be carried over from.

    Args:
        catalog: has the snapshots of the run.
        spec: says where they lie.
        run: id of the run whose weights are used.
        as_of: T, microseconds.
        inference: what would encode the others.
        users: ids of the log, for their type.
        notify: told why there is none, or why a later one will not do.
    """
    earlier = [
        one
        for one in catalog.snapshots(run)
        if one.entity == spec.view.entity and one.as_of < as_of
    ]
    for row in reversed(earlier):
        path = snapshot_path(spec.home, run, row.as_of)
        problem = _unfit(path, row, inference, users.type, spec.view.join_key)
        if problem is None:
            table = pq.read_table(
                path, columns=[spec.view.join_key, "history_hash"], partitioning=None
            )
            ids, hashes = (column.combine_chunks() for column in table.columns)
            return Earlier(path, row.as_of, ids, hashes.to_numpy())
        notify(f"nothing is carried over from the snapshot as of {_when(row)}: {problem}")
    if not earlier:
        notify(f"run {run} has no snapshot before {format_instant(as_of)}; all users are encoded")
    else:
        notify("all users are encoded")
    return None


def _unfit(
    path: Path, row: Snapshot, inference: Inference, kind: pa.DataType, join_key: str
) -> str | None:
    if not path.exists():
        return f"{path} is gone"
    if sha256(path) != row.checksum:
        return f"{path} was changed since it was written (its checksum differs)"
    try:
        schema = pq.read_schema(path)
    except (pa.ArrowException, OSError) as error:
        return f"{path} cannot be read: {one_line(error)}"
    if "history_hash" not in schema.names:
        return "it does not keep the hashes of histories"
    if join_key not in schema.names or schema.field(join_key).type != kind:
        return f"its user ids are not {join_key} of type {kind}"
    machine = (schema.metadata or {}).get(MACHINE, b"?").decode()
    if machine != inference.machine:
        return f"it was made with {machine}, here is {inference.machine}"
    return None


def _when(row: Snapshot) -> str:
    return format_instant(row.as_of)


@dataclass(frozen=True)
class Carrying:
    """Vectors of all eligible users, some encoded and some carried over.

    Attributes:
        carried: how many users' vectors are carried over.
        blocks: all users, in the blocks of a full encode.
    """

    carried: int
    blocks: Iterator[VectorBlock]


def encode_changes(
    inference: Inference, eligible: Eligible, earlier: Earlier, progress: Progress | None
) -> Carrying:
    """Encode the users whose history is not that of the earlier snapshot, and carry the others.

    Memory holds one row group of the earlier snapshot and one or two blocks of vectors.

    Args:
        inference: rebuilt from the run that made the earlier snapshot.
        eligible: users and histories as of the new time.
        earlier: see :func:`find_earlier`.
        progress: called after every batch, with numbers of users to be encoded.
    """
    users = eligible.past.users.take(pa.array(eligible.rows.numpy()))
    hashes = eligible.hashes(eligible.rows)
    places = earlier.places(users, hashes)
    carried = int((places >= 0).sum())
    if (np.diff(places[places >= 0]) <= 0).any():
        raise SnapshotError(
            f"{earlier.path}: users are not in ascending order; remove the file and encode again"
        )
    return Carrying(carried, _blocks(inference, eligible, earlier, hashes, places, progress))


def _blocks(
    inference: Inference,
    eligible: Eligible,
    earlier: Earlier,
    hashes: np.ndarray,
    places: np.ndarray,
    progress: Progress | None,
) -> Iterator[VectorBlock]:
    changed = places < 0
    total, done = int(changed.sum()), 0

    def tick(users: int) -> None:
        nonlocal done
        done += users
        if progress is not None:
            progress(done, total)

    size = inference.config.block_users
    source = _Rows(earlier.path)
    for group in _groups(changed, size):
        # Together, because every batch is filled up to its fixed shape: few changed users in each
        # of many blocks would fill many batches with nothing.
        vectors, slots = inference.vectors(eligible, eligible.rows[group][changed[group]], tick)
        used = 0
        for start in range(group.start, group.stop, size):
            part = slice(start, min(start + size, group.stop))
            new = changed[part]
            fresh = slice(used, used + int(new.sum()))
            used = fresh.stop
            old_vectors, old_slots = source.take(places[part][~new])
            both = _interleave(new, vectors[fresh], old_vectors)
            ids = None
            if old_slots is not None or slots is not None:
                ids = _interleave(new, None if slots is None else slots[fresh], old_slots)
            yield eligible.block(eligible.rows[part], both, ids, hashes[part])


def _groups(changed: np.ndarray, size: int) -> Iterator[slice]:
    """Cut users into runs of whole blocks with about a block's worth of changed users in each."""
    counts = np.add.reduceat(changed, np.arange(0, len(changed), size), dtype=np.int64)
    start = held = 0
    for block, count in enumerate(counts.tolist()):
        if held and held + count > size:
            yield slice(start, block * size)
            start, held = block * size, 0
        held += count
    if len(changed):
        yield slice(start, len(changed))


def _interleave(new: np.ndarray, fresh: np.ndarray | None, old: np.ndarray | None) -> np.ndarray:
    """Lay out rows by a mask: fresh ones where it is True, old ones elsewhere."""
    given = [part for part in (fresh, old) if part is not None and len(part)]
    out = np.empty((len(new), given[0].shape[1]), given[0].dtype)
    if fresh is not None and len(fresh):
        out[new] = fresh
    if old is not None and len(old):
        out[~new] = old
    return out


class _Rows:
    """Reads vectors of a snapshot by ascending row, one row group in memory at a time."""

    def __init__(self, path: Path) -> None:
        self._file = pq.ParquetFile(path)
        groups = range(self._file.num_row_groups)
        sizes = [self._file.metadata.row_group(group).num_rows for group in groups]
        self._starts = np.concatenate(([0], np.cumsum(sizes)))
        self._columns = ["vector"]
        if "slots" in self._file.schema_arrow.names:
            self._columns.append("slots")
        self._loaded = -1
        self._held: list[np.ndarray] = []

    def take(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Return (n, K · D) float32 vectors and, if there are any, (n, K) int64 slots.

        Args:
            places: (n,) rows, ascending, none before those of the last call.
        """
        parts = []
        group = np.searchsorted(self._starts, places, side="right") - 1
        for number in np.unique(group).tolist():
            self._load(number)
            inside = places[group == number] - self._starts[number]
            parts.append([column[inside] for column in self._held])
        if not parts:
            return np.empty((0, 0), np.float32), None
        columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
        return columns[0], columns[1] if len(columns) > 1 else None

    def _load(self, number: int) -> None:
        if number == self._loaded:
            return
        self._held = []  # before the next is read, not after
        table = self._file.read_row_group(number, columns=self._columns)
        self._held = [_matrix(table[name]) for name in self._columns]
        self._loaded = number


def _matrix(column: pa.ChunkedArray) -> np.ndarray:
    flat = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in column.chunks]
    matrix: np.ndarray = np.concatenate(flat).reshape(len(column), -1)
    return matrix
