"""Reading user vectors: Feast's own calls and an array made of them, against ours, in one session.

    python benchmarks/reading.py                       # minutes; results/reading.json
    python benchmarks/reading.py --rounds 1 --rows 2000 --width 16    # a quick look

Needs a Redis server (UNIREP_TEST_REDIS, else 127.0.0.1:6379). Jobs:

- `historical`: point-in-time vectors of 50,000 users, in random order, at random times over 5
  snapshots of 50,000 users. Ours is `user_vectors`; `duckdb` and, with `--dask`, `dask` are
  `np.stack(store.get_historical_features(...).to_df()["vector"])` on these offline stores. A user
  is asked for once, since dask drops all but one of equal rows.
- `sqlite`, `redis`: the latest vectors of 1,000 users. Ours is `online_user_vectors`; the other is
  `store.get_online_features(...).to_dict()` and an array of its lists.

Every side is a process of its own that repeats the call; a round is one process of each, A B A B …
The first call of a process is reported apart, for it opens and caches; medians are of the others.
Both sides must give the same bits.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
import warnings
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from measuring import ROOT, peak_rss_mb

RESULT = Path(__file__).parent / "results" / "reading.json"
REDIS = urlsplit(os.environ.get("UNIREP_TEST_REDIS", "redis://127.0.0.1:6379")).netloc
SNAPSHOTS = 5
FIRST = datetime(2024, 1, 1, tzinfo=UTC)
STEP = timedelta(days=30)
SIDES = {
    "historical": ("ours", "duckdb", "dask"),
    "sqlite": ("ours", "stock"),
    "redis": ("ours", "stock"),
}
VIEW = "users"
ROWS_PER_BLOCK = 8_192


def make_repo(folder: Path, users: int, width: int) -> None:
    """A representation of made-up snapshots, promoted; nothing is trained."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from unirep_feast.snapshot import (
        RUN,
        VectorBlock,
        point_promoted,
        snapshot_path,
        write_snapshot,
    )
    from unirep_feast.spec_file import load_spec

    stamp = pa.array([0], pa.timestamp("us", tz="UTC"))
    log = pa.table({"user_id": [1], "item_id": [1], "event_timestamp": stamp})
    pq.write_table(log, folder / "events.parquet")
    spec = {"name": VIEW, "plugin": "clue", "events": {"path": "events.parquet"}}
    (folder / "users.yaml").write_text(json.dumps(spec))
    home = load_spec(folder / "users.yaml").home
    for number in range(SNAPSHOTS):
        moment = int((FIRST + number * STEP).timestamp()) * 1_000_000
        random = np.random.default_rng(number)
        blocks = (
            VectorBlock(
                users=pa.array(np.arange(start, end)),
                vectors=random.standard_normal((end - start, width), np.float32),
                history_length=np.arange(start, end) % 500,
                last_event=moment - np.arange(start, end) * 10**6,
            )
            for start in range(0, users, ROWS_PER_BLOCK)
            for end in [min(users, start + ROWS_PER_BLOCK)]
        )
        path = snapshot_path(home, "run", moment)
        write_snapshot(path, blocks, "user_id", moment, moment, 1, width, {RUN: b"run"})
    point_promoted(home, "run")


def open_store(folder: Path, offline: str, online: dict[str, Any], project: str) -> Any:
    """The repo with some stores, applied."""
    from feast import FeatureStore

    from unirep_feast.feature_store.views import representation

    settings = {
        "project": project,
        "provider": "local",
        "registry": str(folder / f"registry_{uuid.uuid4().hex}.db"),
        "offline_store": {"type": offline},
        "online_store": online,
        "entity_key_serialization_version": 3,
    }
    (folder / "feature_store.yaml").write_text(json.dumps(settings))
    store = FeatureStore(str(folder))
    store.apply(list(representation(folder / "users.yaml")))
    return store


def fill_online(store: Any) -> None:
    """The latest snapshot into the online store, as the bytes that Feast would write."""
    import pyarrow.parquet as pq

    from unirep_feast.feature_store.online_writer import write_online

    view = store.get_feature_view(VIEW)
    latest = sorted(Path(view.batch_source.path).parent.glob("*.parquet"))[-1]
    write_online(store.config, view, pq.ParquetFile(latest).iter_batches(50_000))
    store.registry.apply_materialization(view, store.project, FIRST, datetime.now(UTC))
    store.refresh_registry()


def measure(job: str, side: str, folder: Path, rows: int, calls: int) -> dict[str, Any]:
    """Repeat one side's call; runs in a process of its own."""
    warnings.simplefilter("ignore")
    import numpy as np
    import pandas as pd
    import pyarrow as pa

    from unirep_feast.feature_store.torch_data import online_user_vectors, user_vectors

    pa.set_cpu_count(os.cpu_count())  # all cores for both, as duckdb takes them by itself
    width = json.loads((folder / "shape.json").read_text())["width"]
    users = json.loads((folder / "shape.json").read_text())["users"]
    random = np.random.default_rng(5)
    online = {"type": "sqlite", "path": str(folder / "online.db")}
    if job == "redis":
        online = {"type": "redis", "connection_string": REDIS}
    project = f"reading_{uuid.uuid4().hex[:8]}"
    store = open_store(folder, side if side == "dask" else "duckdb", online, project)
    try:
        if job == "historical":
            days = random.integers(0, SNAPSHOTS * STEP.days, rows)
            frame = pd.DataFrame(
                {
                    "user_id": random.permutation(users)[:rows],
                    "event_timestamp": pd.Timestamp(FIRST) + pd.to_timedelta(days, unit="D"),
                    "row": np.arange(rows),
                }
            )
            if side == "ours":

                def call() -> Any:
                    found = user_vectors(store, VIEW, frame)
                    assert found.mask.all()
                    return found.vectors.numpy()

            else:

                def call() -> Any:
                    job = store.get_historical_features(frame.copy(), [f"{VIEW}:vector"])
                    found = job.to_df()
                    return np.stack(found["vector"].to_numpy()), found["row"].to_numpy()

        else:
            fill_online(store)
            ids = random.permutation(users)[:rows].tolist()
            if side == "ours":

                def call() -> Any:
                    found = online_user_vectors(store, VIEW, ids)
                    assert found.mask.all()
                    return found.vectors.numpy()

            else:

                def call() -> Any:
                    entities = {"user_id": ids}
                    said = store.get_online_features([f"{VIEW}:vector"], entities).to_dict()
                    return np.array(said["vector"], np.float32)

        seconds, cpu = [], []
        for _ in range(calls):
            gc.collect()
            start, processor = time.perf_counter(), time.process_time()
            result = call()
            seconds.append(time.perf_counter() - start)
            cpu.append(time.process_time() - processor)
        if isinstance(result, tuple):  # Feast returns the rows in an order of its own
            vectors, order = result
            result = np.empty((rows, width), np.float32)
            result[order] = vectors
            assert len(order) == rows
        assert result.shape == (rows, width)
        checksum = hashlib.sha256(np.ascontiguousarray(result, np.float32).tobytes()).hexdigest()
        peak = peak_rss_mb()
    finally:
        store.teardown()
    return {"seconds": seconds, "cpu": cpu, "peak_rss_mb": round(peak), "checksum": checksum}


def run(job: str, side: str, folder: Path, rows: int, calls: int) -> dict[str, Any]:
    """Measure one side in a fresh process."""
    command = [sys.executable, __file__, "--one", job, side, str(folder), str(rows), str(calls)]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True)
    if done.returncode:
        sys.exit(f"{' '.join(command[2:])} failed:\n{done.stderr[-3000:]}")
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured


def compare(job: str, sides: list[str], folder: Path, rows: int, rounds: int) -> dict[str, Any]:
    """Run the sides in turn, some rounds; medians of calls, and ratios to ours round by round."""
    measured: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
    for number in range(rounds):
        for side in sides:
            calls = 3 if side == "dask" else 6 if job == "historical" else 31
            measured[side].append(run(job, side, folder, rows, calls))
            middle = statistics.median(measured[side][-1]["seconds"][1:])
            print(f"{job} round {number + 1} {side}: {middle * 1000:.1f} ms", flush=True)
    checksums = {one["checksum"] for runs in measured.values() for one in runs}
    if len(checksums) != 1:
        sys.exit(f"{job}: the sides gave different vectors: {checksums}")
    result: dict[str, Any] = {"job": job, "rows": rows, "sides": {}}
    for side, runs in measured.items():
        entry: dict[str, Any] = {
            "first_call": round(statistics.median(one["seconds"][0] for one in runs), 4),
            "peak_rss_mb": max(one["peak_rss_mb"] for one in runs),
        }
        for clock in ("seconds", "cpu"):
            taken = [statistics.median(one[clock][1:]) for one in runs]
            ours = [statistics.median(one[clock][1:]) for one in measured["ours"]]
            ratios = [other / own for other, own in zip(taken, ours, strict=True)]
            entry |= {
                clock: round(statistics.median(taken), 5),
                f"{clock}_ratio": round(statistics.median(ratios), 2),
                f"{clock}_all": [round(one, 5) for one in taken],
            }
        result["sides"][side] = entry
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, help="of both kinds of jobs")
    parser.add_argument("--users", type=int, default=50_000)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--jobs", nargs="+", default=list(SIDES), choices=SIDES)
    parser.add_argument("--dask", action="store_true", help="it takes minutes")
    parser.add_argument("--one", nargs=5, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        job, side, folder, rows, calls = given.one
        print(json.dumps(measure(job, side, Path(folder), int(rows), int(calls))))
        return
    folder = Path(tempfile.mkdtemp(prefix="reading_"))
    try:
        make_repo(folder, given.users, given.width)
        (folder / "shape.json").write_text(json.dumps({"users": given.users, "width": given.width}))
        results = []
        for job in given.jobs:
            rows = given.rows or (50_000 if job == "historical" else 1_000)
            sides = [side for side in SIDES[job] if side != "dask" or given.dask]
            results.append(compare(job, sides, folder, rows, given.rounds))
    finally:
        shutil.rmtree(folder)
    for result in results:
        for side, entry in result["sides"].items():
            print(
                f"{result['job']:10} {result['rows']} rows  {side:7} {entry['seconds']:.4f} s "
                f"({entry['seconds_ratio']:.1f}x)  {entry['cpu']:.4f} cpu s "
                f"({entry['cpu_ratio']:.1f}x)  first {entry['first_call']:.3f} s  "
                f"{entry['peak_rss_mb']} MB"
            )
    if given.rows is None and given.width == 128:
        about = {
            "measured": datetime.now(UTC).date().isoformat(),
            "python": platform.python_version(),
            "cores": os.cpu_count(),
            "same_bits": True,
            "users": given.users,
            "width": given.width,
            "jobs": results,
        }
        RESULT.parent.mkdir(exist_ok=True)
        RESULT.write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main()
