"""A snapshot of users cut into one row per interest, for stores that search vectors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from unirep_feast.errors import SnapshotError, one_line
from unirep_feast.snapshot.layout import VECTORS
from unirep_feast.snapshot.writing import (
    NO_USER,
    SnapshotFile,
    rows_per_table,
    write_tables,
)

#: Users that are cut at once; part of what makes the bytes repeatable.
_USERS_AT_ONCE = 8_192


def write_interests(
    path: Path,
    users: Path,
    join_key: str,
    interest_key: str,
    num_vectors: int,
    dim: int,
    expected: str | None = None,
) -> SnapshotFile:
    """Cut a snapshot of users into one row per user and vector; it appears whole or not at all.

    Columns: the join key, the interest key (int64: the user's ``slots``, or 0 … K-1 where the
    encoder publishes none), ``event_timestamp``, ``created``, ``vector`` (list<float32>, D).

    Args:
        path: see ``snapshot_path``.
        users: the snapshot of users, of the same run and time.
        join_key: name of its id column.
        interest_key: name of the second id column.
        num_vectors: K.
        dim: D.
        expected: checksum of the snapshot that was lost and is made again.

    Raises:
        SnapshotError: a user has one interest twice, or the snapshot of users cannot be read;
            otherwise as for ``write_snapshot``.
    """

    def tables() -> Iterator[pa.Table]:
        with pq.ParquetFile(users) as file:
            known = ["event_timestamp", "created", "vector", "slots"]
            columns = [join_key, *(name for name in known if name in file.schema_arrow.names)]
            size = min(_USERS_AT_ONCE, rows_per_table(num_vectors * dim))
            for batch in file.iter_batches(batch_size=size, columns=columns):
                yield _interests(batch, path, join_key, interest_key, num_vectors, dim)

    try:
        footer = pq.read_schema(users).metadata or {}
        ours = {key: value for key, value in footer.items() if key.startswith(b"unirep.")}
        return write_tables(path, tables(), {**ours, VECTORS: b"1"}, expected, NO_USER)
    except (pa.ArrowException, KeyError) as error:
        raise SnapshotError(
            f"snapshot {users} cannot be read: {one_line(error)}; remove it and encode again"
        ) from None


def _interests(
    batch: pa.RecordBatch, path: Path, join_key: str, interest_key: str, k: int, dim: int
) -> pa.Table:
    rows = batch.num_rows
    ids = batch.column(join_key)
    if "slots" in batch.schema.names:
        interests = batch.column("slots").flatten().to_numpy().reshape(rows, k)
        ordered = np.sort(interests, axis=1)
        twice = (ordered[:, 1:] == ordered[:, :-1]).any(axis=1)
        if twice.any():
            named = ids.filter(pa.array(twice)).slice(0, 5).to_pylist()
            raise SnapshotError(
                f"{path}: {int(twice.sum()):,} users have one interest twice (users "
                f"{', '.join(map(str, named))}), so (user, interest) names no vector; set "
                "view.per_interest: false, or let the encoder give distinct `slots`"
            )
    else:
        interests = np.tile(np.arange(k, dtype=np.int64), (rows, 1))
    user = pa.array(np.repeat(np.arange(rows), k))
    flat = batch.column("vector").flatten()
    offsets = np.arange(rows * k + 1, dtype=np.int32) * dim
    return pa.table(
        {
            join_key: ids.take(user),
            interest_key: pa.array(interests.reshape(-1), pa.int64()),
            "event_timestamp": batch.column("event_timestamp").take(user),
            "created": batch.column("created").take(user),
            "vector": pa.ListArray.from_arrays(offsets, flat),
        }
    )
