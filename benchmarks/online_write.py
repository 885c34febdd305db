"""Writing user vectors online: Feast's own materialize and store against ours, in one session.

    python benchmarks/online_write.py              # minutes; results/online_write.json
    python benchmarks/online_write.py --rounds 1 --users 2000 --width 16    # a quick look

Needs a Redis server (UNIREP_TEST_REDIS, else 127.0.0.1:6379). The view is a representation's: the
vector, `history_length` and `last_event`. Every measurement is a process of its own, A B A B …:

- `materialize-duckdb`, `materialize-dask`: `FeatureStore.materialize` of stock Feast
- `stock-write`: Feast's conversion of an Arrow table and `online_write_batch`
- `stock-batch`: `online_write_batch` alone, its input made beforehand
- `ours`: `write_online`, reading the same snapshot file

Each writes a first snapshot into an empty store and then a newer one over it. All must leave the
same bytes behind (SHA-256 over all that is stored). CPU seconds (of the process with its threads,
not of the Redis server) stand beside wall seconds, for a busy machine disturbs them less.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import os
import platform
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from measuring import ROOT, peak_rss_mb

RESULT = Path(__file__).parent / "results" / "online_write.json"
REDIS = urlsplit(os.environ.get("UNIREP_TEST_REDIS", "redis://127.0.0.1:6379")).netloc
SHAPES = ((50_000, 128), (10_000, 1280))
SIDES = ("ours", "materialize-duckdb", "stock-write", "stock-batch", "materialize-dask")
TIMES = tuple(datetime(2024, 5, day, tzinfo=UTC) for day in (1, 2))
PHASES = ("first", "next")
ROWS_PER_BATCH = 10_000
BYTES_PER_BATCH = 32 << 20


def write_snapshots(folder: Path, users: int, width: int) -> list[Path]:
    """Two snapshots of the same users, a day apart."""
    import numpy as np
    import pyarrow as pa

    from unirep_feast.snapshot import VectorBlock, write_snapshot

    paths = []
    for seed, when in enumerate(TIMES):
        random = np.random.default_rng(seed)
        moment = int(when.timestamp()) * 1_000_000
        blocks = (
            VectorBlock(
                users=pa.array(np.arange(start, min(users, start + ROWS_PER_BATCH))),
                vectors=random.standard_normal(
                    (min(users, start + ROWS_PER_BATCH) - start, width), np.float32
                ),
                history_length=np.arange(start, min(users, start + ROWS_PER_BATCH)) % 500,
                last_event=moment - np.arange(start, min(users, start + ROWS_PER_BATCH)) * 10**6,
            )
            for start in range(0, users, ROWS_PER_BATCH)
        )
        path = folder / "snapshots" / f"{when:%Y%m%d}.parquet"
        write_snapshot(path, blocks, "user_id", moment, moment, 1, width, {})
        paths.append(path)
    return paths


def make_store(folder: Path, online: dict[str, Any], offline: str, project: str) -> Any:
    """A repo with one view over the snapshots."""
    from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType
    from feast.data_format import ParquetFormat
    from feast.types import Array, Float32, Int64, UnixTimestamp

    settings = {
        "project": project,
        "provider": "local",
        "registry": str(folder / "registry.db"),
        "online_store": online,
        "offline_store": {"type": offline},
        "entity_key_serialization_version": 3,
    }
    (folder / "feature_store.yaml").write_text(json.dumps(settings))
    store = FeatureStore(str(folder))
    user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64)
    view = FeatureView(
        name="users",
        entities=[user],
        ttl=timedelta(0),
        schema=[
            Field(name="user_id", dtype=Int64),
            Field(name="vector", dtype=Array(Float32)),
            Field(name="history_length", dtype=Int64),
            Field(name="last_event", dtype=UnixTimestamp),
        ],
        source=FileSource(
            path=str(folder / "snapshots" / "*.parquet"),
            file_format=ParquetFormat(),
            timestamp_field="event_timestamp",
            created_timestamp_column="created",
        ),
    )
    store.apply([user, view])
    return store


def measure(side: str, backend: str, users: int, width: int) -> dict[str, Any]:
    """Write both snapshots with one side; runs in a process of its own."""
    warnings.simplefilter("ignore")
    project = f"bench_{uuid.uuid4().hex[:8]}" if backend == "redis" else "bench"
    folder = Path(tempfile.mkdtemp(prefix="online_write_"))
    online = {"type": "sqlite", "path": str(folder / "online.db")}
    if backend == "redis":
        online = {"type": "redis", "connection_string": REDIS}
    try:
        paths = write_snapshots(folder, users, width)
        # One file at a time: how offline stores read several is not what is measured.
        hidden = paths[1].rename(folder / "later.parquet")
        offline = "dask" if side == "materialize-dask" else "duckdb"
        store = make_store(folder, online, offline, project)
        seconds, cpu = {}, {}
        for phase, when in zip(PHASES, TIMES, strict=True):
            if phase == "next":
                paths[0].unlink()
                hidden.rename(paths[1])
            job = prepare(side, store, paths[PHASES.index(phase)], when)
            gc.collect()
            start, processor = time.perf_counter(), time.process_time()
            job()
            seconds[phase] = time.perf_counter() - start
            cpu[phase] = time.process_time() - processor
        peak = peak_rss_mb()
        checksum, rows = checksum_of(backend, folder, project)
        assert rows == (users if backend == "redis" else 3 * users), rows
    finally:
        shutil.rmtree(folder)
    return {"seconds": seconds, "cpu": cpu, "peak_rss_mb": round(peak), "checksum": checksum}


def prepare(side: str, store: Any, path: Path, when: datetime) -> Callable[[], object]:
    """What is timed, with everything before it done."""
    import pyarrow.parquet as pq

    view = store.get_feature_view("users")
    if side == "ours":
        from unirep_feast.feature_store.online_writer import write_online

        width = len(pq.ParquetFile(path).read_row_group(0, columns=["vector"])["vector"][0])
        batch = max(1, BYTES_PER_BATCH // (4 * width))
        # The store is ready, as the others' is, and its connection is not yet made.
        batches: Iterator[Any] = pq.ParquetFile(path).iter_batches(batch)
        return lambda: write_online(store.config, view, batches)
    if side.startswith("materialize"):
        start, end = when - timedelta(hours=12), when + timedelta(hours=1)
        return lambda: store.materialize(start, end, feature_views=["users"])
    from feast.infra.online_stores.helpers import get_online_store_from_config
    from feast.utils import _convert_arrow_to_proto

    online = get_online_store_from_config(store.config.online_store)
    table = pq.read_table(path).combine_chunks()
    join_keys = {field.name: field.dtype.to_value_type() for field in view.entity_columns}
    if side == "stock-batch":
        data = _convert_arrow_to_proto(table, view, join_keys)
        return lambda: online.online_write_batch(store.config, view, data, None)
    return lambda: online.online_write_batch(
        store.config, view, _convert_arrow_to_proto(table, view, join_keys), None
    )


def checksum_of(backend: str, folder: Path, project: str) -> tuple[str, int]:
    """SHA-256 over all that is stored, and how many rows or keys there are; empties Redis."""
    digest, rows = hashlib.sha256(), 0
    if backend == "sqlite":
        with sqlite3.connect(folder / "online.db") as connection:
            for row in connection.execute("SELECT * FROM bench_users ORDER BY 1, 2"):
                digest.update(repr(row).encode())
                rows += 1
        return digest.hexdigest(), rows
    import redis

    client = redis.Redis.from_url(f"redis://{REDIS}")
    keys = sorted(client.scan_iter(b"*" + project.encode(), count=10_000))
    for start in range(0, len(keys), 1000):
        part = keys[start : start + 1000]
        pipe = client.pipeline(transaction=False)
        for key in part:
            pipe.hgetall(key)
        for key, fields in zip(part, pipe.execute(), strict=True):
            name = key.removesuffix(project.encode())  # a project's name is the run's own
            digest.update(repr((name, sorted(fields.items()))).encode())
        client.delete(*part)
    return digest.hexdigest(), len(keys)


def run(side: str, backend: str, users: int, width: int) -> dict[str, Any]:
    """Measure one side in a fresh process."""
    command = [sys.executable, __file__, "--one", side, backend, str(users), str(width)]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True)
    if done.returncode:
        sys.exit(f"{' '.join(command[2:])} failed:\n{done.stderr[-3000:]}")
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured


def compare(backend: str, users: int, width: int, rounds: int, sides: list[str]) -> dict[str, Any]:
    """Run all sides in turn, some rounds; medians, and ratios to ours round by round."""
    measured: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
    for number in range(rounds):
        for side in sides:
            measured[side].append(run(side, backend, users, width))
            seconds = measured[side][-1]["seconds"]
            print(f"{backend} {users} x {width} round {number + 1} {side}: {seconds}", flush=True)
    checksums = {one["checksum"] for runs in measured.values() for one in runs}
    if len(checksums) != 1:
        sys.exit(f"{backend}: the sides stored different bytes: {checksums}")
    result: dict[str, Any] = {"store": backend, "users": users, "width": width, "sides": {}}
    for side, runs in measured.items():
        entry: dict[str, Any] = {"peak_rss_mb": max(one["peak_rss_mb"] for one in runs)}
        for phase in PHASES:
            entry[phase] = {}
            for clock in ("seconds", "cpu"):
                taken = [one[clock][phase] for one in runs]
                ours = [one[clock][phase] for one in measured["ours"]]
                ratios = [other / own for other, own in zip(taken, ours, strict=True)]
                entry[phase] |= {
                    clock: round(statistics.median(taken), 4),
                    f"{clock}_ratio": round(statistics.median(ratios), 2),
                    f"{clock}_all": [round(one, 4) for one in taken],
                }
        result["sides"][side] = entry
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--users", type=int)
    parser.add_argument("--width", type=int)
    parser.add_argument("--stores", nargs="+", default=["sqlite", "redis"])
    parser.add_argument("--sides", nargs="+", default=list(SIDES), choices=SIDES)
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        side, backend, users, width = given.one
        print(json.dumps(measure(side, backend, int(users), int(width))))
        return
    quick = given.users or given.width
    shapes = ((given.users or 1000, given.width or 16),) if quick else SHAPES
    rows = [
        compare(backend, users, width, given.rounds, given.sides)
        for users, width in shapes
        for backend in given.stores
    ]
    for row in rows:
        for side, entry in row["sides"].items():
            figures = "  ".join(
                f"{phase} {entry[phase][clock]:.3f} {unit} ({entry[phase][clock + '_ratio']:.1f}x)"
                for phase in PHASES
                for clock, unit in (("seconds", "s"), ("cpu", "cpu s"))
            )
            print(
                f"{row['store']:6} {row['users']} x {row['width']:<5} {side:18} {figures}  "
                f"{entry['peak_rss_mb']} MB"
            )
    if not quick:
        about = {
            "measured": datetime.now(UTC).date().isoformat(),
            "python": platform.python_version(),
            "cores": os.cpu_count(),
            "same_bytes": True,
            "rows": rows,
        }
        RESULT.parent.mkdir(exist_ok=True)
        RESULT.write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main()
