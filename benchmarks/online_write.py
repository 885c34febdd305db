"""`feast materialize` of user vectors: our engine beside stock Feast, on SQLite and Redis.

    python benchmarks/online_write.py --prepare      # data; once
    python benchmarks/online_write.py                # quarter of an hour; results/online_write.json
    python benchmarks/online_write.py --rounds 1 --users 2000 --width 16    # a quick look
    python benchmarks/online_write.py --table        # what has been measured so far

Measurements are added to those that are there (`--fresh` begins anew), so a session can be cut into
pieces: `--stores redis --users 50000 --width 128 --rounds 1`.

Needs a Redis server (UNIREP_TEST_REDIS, else 127.0.0.1:6379). One and the same repo is materialized
by three sides in turn, A B C A B C …, each measurement in a process of its own:

- `ours`: `batch_engine` is ours, the offline store duckdb. The snapshots are there already, so what
  is timed is all but the encoding: catalog, checks of the checkpoint and of the snapshot, reading
  it, and writing it online.
- `duckdb`: without that line, stock Feast and its duckdb offline store
- `dask`: stock Feast and its default offline store

Memory flat in the number of users: `--users 500000 --width 128 --sides ours duckdb --rounds 1`.

Timed is `FeatureStore.materialize`, in a process that has materialized another, tiny repo before,
so that imports do not count; first into an empty store, then a newer snapshot over it. All sides
must leave the same bytes behind (SHA-256 over all that is stored). CPU seconds (of the process, not
of the Redis server) stand beside wall seconds, for a busy machine disturbs them less. Memory is the
peak during the two, and what the process held before them.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
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
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from measuring import ROOT, peak_rss_mb
from online_repo import REDIS, TIMES, checksum_of, interval, make_run, make_store, snapshots

RESULT = Path(__file__).parent / "results" / "online_write.json"
WORK = Path(__file__).parent / "work" / "online_write"
STORES = ("sqlite", "redis")
SHAPES = ((50_000, 128), (10_000, 1280))
SIDES = ("ours", "duckdb", "dask")
PHASES = ("first", "next")
WARM_UP = (64, 16)
#: How many times as fast as stock Feast with duckdb we want to be.
WANTED = {
    ("sqlite", 50_000, 128): 5,
    ("redis", 50_000, 128): 10,
    ("sqlite", 10_000, 1280): 5,
    ("redis", 10_000, 1280): 8,
}


def prepared(users: int, width: int) -> Path:
    """The folder with a run and snapshots of this shape; made if it is not there."""
    folder = WORK / f"{users}x{width}"
    if not folder.exists():
        half = folder.with_name(f".{folder.name}.{os.getpid()}")
        make_run(half, users, width)
        half.rename(folder)
    return folder


def measure(side: str, backend: str, users: int, width: int) -> dict[str, Any]:
    """Materialize both snapshots with one side; runs in a process of its own."""
    warnings.simplefilter("ignore")
    materialize(side, backend, *WARM_UP)
    return materialize(side, backend, users, width)


def materialize(side: str, backend: str, users: int, width: int) -> dict[str, Any]:
    """Materialize both snapshots into a store of their own, and clean up."""
    made = prepared(users, width)
    folder = Path(tempfile.mkdtemp(prefix="online_write_"))
    project = f"bench_{uuid.uuid4().hex[:8]}" if backend == "redis" else "bench"
    online = {"type": "sqlite", "path": str(folder / "online.db")}
    if backend == "redis":
        online = {"type": "redis", "connection_string": REDIS}
    found: dict[str, Any] = {"seconds": {}, "cpu": {}}
    earlier, later = snapshots(made)
    hidden = [path.rename(path.with_suffix(".hidden")) for path in (earlier, later)]
    try:
        earlier = hidden[0].rename(earlier)
        store = make_store(folder, made, side, online, project)
        gc.collect()
        found["before_rss_mb"] = forget_peak()
        for phase, when in zip(PHASES, TIMES, strict=True):
            if phase == "next":
                # One file at a time: how offline stores read several is not what is measured.
                hidden[0] = earlier.rename(hidden[0])
                hidden[1].rename(later)
            start, processor = time.perf_counter(), time.process_time()
            with contextlib.redirect_stdout(None):
                store.materialize(*interval(when), feature_views=["users"])
            found["seconds"][phase] = time.perf_counter() - start
            found["cpu"][phase] = time.process_time() - processor
        found["peak_rss_mb"] = round(peak_rss_mb())
        found["checksum"], rows = checksum_of(backend, folder, project)
        assert rows == (users if backend == "redis" else 3 * users), rows
    finally:
        for path in made.rglob("*.hidden"):
            path.rename(path.with_suffix(".parquet"))
        shutil.rmtree(folder)
    return found


def forget_peak() -> int:
    """Let the peak begin anew at what the process holds now, in MB, which is returned."""
    Path("/proc/self/clear_refs").write_text("5")
    return round(peak_rss_mb())


def run(side: str, backend: str, users: int, width: int) -> dict[str, Any]:
    """Measure one side in a fresh process."""
    command = [sys.executable, __file__, "--one", side, backend, str(users), str(width)]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True)
    if done.returncode:
        sys.exit(f"{' '.join(command[2:])} failed:\n{done.stderr[-3000:]}")
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    about = {"side": side, "store": backend, "users": users, "width": width}
    return about | measured


def summary(measured: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Medians per store and shape, and ratios to ours of the same round, which comes first."""
    groups: dict[tuple[str, int, int], dict[str, list[dict[str, Any]]]] = {}
    latest: dict[tuple[str, int, int], dict[str, Any]] = {}
    for one in measured:
        shape = (one["store"], one["users"], one["width"])
        if one["side"] == "ours":
            latest[shape] = one
        groups.setdefault(shape, {}).setdefault(one["side"], []).append(
            one | {"ours": latest.get(shape)}
        )
    found = []
    for shape, sides in groups.items():
        checksums = {one["checksum"] for runs in sides.values() for one in runs}
        if len(checksums) != 1:
            sys.exit(f"{shape}: the sides stored different bytes: {checksums}")
        for side, runs in sides.items():
            entry: dict[str, Any] = dict(zip(("store", "users", "width"), shape, strict=True))
            entry |= {"side": side, "rounds": len(runs), "wanted": WANTED.get(shape)}
            entry["before_rss_mb"] = max(one["before_rss_mb"] for one in runs)
            entry["peak_rss_mb"] = max(one["peak_rss_mb"] for one in runs)
            for phase in PHASES:
                for clock in ("seconds", "cpu"):
                    taken = [one[clock][phase] for one in runs]
                    ratios = [
                        one[clock][phase] / one["ours"][clock][phase] for one in runs if one["ours"]
                    ]
                    entry[f"{phase}_{clock}"] = round(statistics.median(taken), 3)
                    entry[f"{phase}_{clock}_ratio"] = (
                        round(statistics.median(ratios), 2) if ratios else None
                    )
            found.append(entry)
    return found


def show(entries: list[dict[str, Any]]) -> None:
    """Print the table of RESULTS.md."""
    print("| | side | rounds | empty store | over an older snapshot | memory | wanted |")
    print("|---|---|---|---|---|---|---|")
    for entry in entries:
        cells = [f"{entry['store']}, {entry['users']:,} x {entry['width']}", entry["side"]]
        cells.append(str(entry["rounds"]))
        for phase in PHASES:
            cell = f"{entry[f'{phase}_seconds']:.2f} s"
            if entry["side"] != "ours" and entry[f"{phase}_seconds_ratio"]:
                ratios = [entry[f"{phase}_{clock}_ratio"] for clock in ("seconds", "cpu")]
                cell += f", {ratios[0]:.1f} x ({ratios[1]:.1f})"
            cells.append(cell)
        cells.append(f"{entry['before_rss_mb']} → {entry['peak_rss_mb']} MB")
        wanted = entry["wanted"] if entry["side"] == "duckdb" else None
        cells.append(f"≥ {wanted} x" if wanted else "")
        print(f"| {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--users", type=int)
    parser.add_argument("--width", type=int)
    parser.add_argument("--stores", nargs="+", default=list(STORES), choices=STORES)
    parser.add_argument("--sides", nargs="+", default=list(SIDES), choices=SIDES)
    parser.add_argument("--prepare", action="store_true", help="make the data and stop")
    parser.add_argument("--fresh", action="store_true", help="forget earlier measurements")
    parser.add_argument("--table", action="store_true", help="only show what there is")
    parser.add_argument("--result", type=Path, default=RESULT)
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        side, backend, users, width = given.one
        print(json.dumps(measure(side, backend, int(users), int(width))))
        return
    shapes: tuple[tuple[int, int], ...] = SHAPES
    if given.users or given.width:
        shapes = ((given.users or SHAPES[0][0], given.width or SHAPES[0][1]),)
    for shape in () if given.table else (WARM_UP, *shapes):
        prepared(*shape)
    if given.prepare:
        return
    known: dict[str, Any] = {"measured": []}
    if given.result.exists() and not given.fresh:
        known = json.loads(given.result.read_text())
    rounds = range(0 if given.table else given.rounds)
    for users, width in shapes:
        for backend in given.stores:
            for number in rounds:
                for side in given.sides:
                    one = run(side, backend, users, width)
                    taken = {phase: round(one["seconds"][phase], 3) for phase in PHASES}
                    print(f"{backend} {users} x {width} {number + 1} {side} {taken}", flush=True)
                    known["measured"].append(one)
                    save(given.result, known["measured"])
    show(summary(known["measured"]))


def save(path: Path, measured: list[dict[str, Any]]) -> None:
    """Write the result file; after every measurement, so that a session can be cut short."""
    about = {
        "date": datetime.now(UTC).date().isoformat(),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "summary": summary(measured),
        "measured": measured,
    }
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main()
