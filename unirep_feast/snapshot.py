"""Snapshots: one immutable parquet file of user vectors per run and as-of time."""

from __future__ import annotations

import errno
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from unirep_feast.config import MICROSECONDS_PER_SECOND, format_instant
from unirep_feast.errors import SnapshotError, one_line
from unirep_feast.events import TIME_TYPE
from unirep_feast.files import atomic_path, sha256

PROMOTED = "promoted"

#: A list column holds fewer numbers than this, since its offsets are 32 bits wide.
_MOST_NUMBERS = 2**31 - 1

#: Keys of the parquet footer.
RUN, VECTORS, DIM, AS_OF, LEAKAGE, MACHINE = (
    b"unirep.run",
    b"unirep.vectors",
    b"unirep.dim",
    b"unirep.as_of",
    b"unirep.model_leakage",
    b"unirep.machine",
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
class SnapshotFile:
    """A snapshot on disk."""

    path: Path
    rows: int
    checksum: str


def snapshot_path(home: Path, run: str, as_of: int) -> Path:
    """Where the snapshot of a run as of a time lies: ``<home>/snapshots/<run>/<time>.parquet``."""
    seconds, rest = divmod(as_of, MICROSECONDS_PER_SECOND)
    stamp = format_instant(seconds * MICROSECONDS_PER_SECOND).replace("-", "").replace(":", "")
    name = stamp if rest == 0 else f"{stamp[:-1]}.{rest:06d}Z"
    return home / "snapshots" / run / f"{name}.parquet"


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
        path: see :func:`snapshot_path`.
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
    footer = {
        VECTORS: str(num_vectors).encode(),
        DIM: str(dim).encode(),
        AS_OF: str(as_of).encode(),
        **metadata,
    }

    def table(block: VectorBlock) -> pa.Table:
        rows = len(block.users)
        columns: dict[str, pa.Array] = {
            join_key: block.users,
            "event_timestamp": _constant(as_of, rows),
            "created": _constant(created, rows),
            "vector": _vectors(block, width),
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
    return _write(path, tables, footer, expected)


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
        return pa.table({join_key: block.users, "vector": _vectors(block, block.vectors.shape[1])})

    pieces = (piece for block in blocks for piece in _pieces(block, block.vectors.shape[1]))
    return _write(path, map(table, pieces), metadata or {}, None)


def _write(
    path: Path, tables: Iterable[pa.Table], footer: Mapping[bytes, bytes], expected: str | None
) -> SnapshotFile:
    rows = 0
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        with atomic_path(path) as temporary:
            temporary.touch()  # a folder that refuses says so before anything is encoded
            writer: pq.ParquetWriter | None = None
            try:
                for table in tables:
                    if writer is None:
                        schema = table.schema.with_metadata(dict(footer))
                        # Floats of a trained vector do not compress; dictionaries only cost time.
                        writer = pq.ParquetWriter(
                            temporary, schema, compression="zstd", use_dictionary=False
                        )
                    writer.write_table(table.cast(writer.schema))
                    rows += table.num_rows
            finally:
                if writer is not None:
                    writer.close()
            if rows == 0:
                when = ""
                if AS_OF in footer:
                    when = f" before {format_instant(int(footer[AS_OF]))}"
                raise SnapshotError(
                    f"{path}: no user has an event{when} in the encoder's window; give another time"
                )
            checksum = sha256(temporary)
            if expected is not None and checksum != expected:
                raise SnapshotError(
                    f"{path} was recorded with checksum {expected[:12]} and is lost; what is made "
                    f"now has {checksum[:12]}: the events before it or the machine changed; "
                    "restore the file, or train anew"
                )
    except OSError as error:
        raise SnapshotError(
            f"{path} cannot be written: {error.strerror or error}; free space or name another "
            "folder (`storage` in the spec, or --out)"
        ) from None
    return SnapshotFile(path, rows, checksum)


def _pieces(block: VectorBlock, width: int) -> Iterator[VectorBlock]:
    """Cut a block where its numbers would not fit the 32-bit offsets of a list column."""
    rows = max(_MOST_NUMBERS // max(width, 1), 1)
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


def _vectors(block: VectorBlock, width: int) -> pa.ListArray:
    vectors = block.vectors
    if vectors.shape != (len(block.users), width) or vectors.dtype != np.float32:
        raise SnapshotError(
            f"vectors are {vectors.shape} {vectors.dtype}; wanted ({len(block.users)}, {width}) "
            "float32"
        )
    bad = ~np.isfinite(vectors).all(axis=1)
    if bad.any():
        users = block.users.filter(pa.array(bad)).slice(0, 5).to_pylist()
        raise SnapshotError(
            f"{int(bad.sum()):,} vectors hold NaN or infinity (users {', '.join(map(str, users))}"
            f"{', …' if bad.sum() > 5 else ''}); the model diverged, train with a lower "
            "training.learning_rate"
        )
    offsets = np.arange(len(vectors) + 1, dtype=np.int32) * width
    return pa.ListArray.from_arrays(offsets, np.ascontiguousarray(vectors).reshape(-1))


def _constant(microseconds: int, rows: int) -> pa.Array:
    return pa.array(np.full(rows, microseconds, np.int64), TIME_TYPE)


def read_vectors(path: Path, join_key: str = "user_id") -> tuple[pa.Array, np.ndarray]:
    """Read a snapshot or a plain file: (n,) ids and (n, K · D) float32, in file order."""
    try:
        dataset = pq.ParquetDataset(path, partitioning=None)
        missing = {join_key, "vector"} - set(dataset.schema.names)
        if missing:
            raise SnapshotError(
                f"{path} has no column {', '.join(map(repr, sorted(missing)))}; wanted a snapshot, "
                "or a file of `unirep encode --out`"
            )
        table = dataset.read([join_key, "vector"])
        ids = table[join_key].combine_chunks()
        # Chunk by chunk: all of them together may hold more numbers than one list column can.
        flat = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in table["vector"].chunks]
        numbers = np.concatenate([np.empty(0, np.float32), *flat])
        vectors = numbers.reshape(len(ids), -1 if len(ids) else 0).astype(np.float32, copy=False)
    except (pa.ArrowException, OSError, ValueError, AttributeError) as error:
        raise SnapshotError(f"{path} cannot be read: {one_line(error)}") from None
    return ids, vectors


def point_promoted(home: Path, run: str) -> None:
    """Make ``<home>/snapshots/promoted`` point at a run's folder, in one step.

    Feature views read that path, so promoting, and going back, never needs another `feast apply`.
    """
    folder = home / "snapshots"
    link = folder / PROMOTED
    temporary = folder / f".{PROMOTED}.{uuid.uuid4().hex[:8]}.tmp"
    try:
        (folder / run).mkdir(parents=True, exist_ok=True)
        temporary.symlink_to(run, target_is_directory=True)
        temporary.replace(link)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise SnapshotError(
            f"{link} cannot be pointed at run {run}: {error.strerror or error}; it must be free "
            "to be a link"
        ) from None
