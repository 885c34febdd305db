"""What every runner shares, ours and the rivals': one thread, the data, the clock, one JSON line.

A runner is a script that does one job, times it a few times and prints one JSON object on
stdout. The rivals' runners are executed by the rivals' own interpreters, so this file keeps
to the standard library, and to pyarrow and numpy inside functions.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Before numpy, pyarrow or torch are imported: their pools read these once.
for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_variable] = "1"
for _variable in ("ARROW_NUM_THREADS", "ARROW_IO_THREADS", "POLARS_MAX_THREADS"):
    os.environ[_variable] = "1"

ROOT = Path(__file__).resolve().parent.parent


def data_folder() -> Path:
    """The folder of real data: $UNIREP_DATA, or ../shared/data beside the checkout."""
    return Path(os.environ.get("UNIREP_DATA", ROOT.parent / "shared" / "data"))


def single_thread() -> None:
    """Keep torch and pyarrow to one thread too."""
    import pyarrow
    import torch

    torch.set_num_threads(1)
    torch.set_num_interop_threads(1)
    pyarrow.set_cpu_count(1)
    pyarrow.set_io_thread_count(1)


def ml1m_table(columns: list[str]) -> Any:
    """The events of ML-1M as a pyarrow table, in the file's (shuffled) order."""
    from pyarrow import parquet

    path = data_folder() / "ml-1m" / "events.parquet"
    if not path.exists():
        sys.exit(f"no {path}: the benchmarks need ML-1M; set UNIREP_DATA to the folder that has it")
    return parquet.read_table(path, columns=columns)


def ml1m_histories() -> tuple[list[Any], list[Any], list[int], int]:
    """ML-1M as one history per user, oldest event first, ties by item.

    Returns:
        per user: item codes from 1 (int64 arrays) and times in seconds (int64 arrays); the
        user ids in the same order; the number of items.
    """
    import numpy as np

    table = ml1m_table(["user_id", "item_id", "event_timestamp"])
    user = table["user_id"].to_numpy()
    item = table["item_id"].to_numpy()
    seconds = table["event_timestamp"].cast("int64").to_numpy() // 1_000_000
    items, codes = np.unique(item, return_inverse=True)
    order = np.lexsort((codes, seconds, user))
    users, starts = np.unique(user[order], return_index=True)
    cuts = starts[1:]
    return (
        np.split(codes[order] + 1, cuts),
        np.split(seconds[order], cuts),
        users.tolist(),
        len(items),
    )


def sample_users(lengths: list[int], size: int) -> list[int]:
    """Rows of `size` users that stand for all: every so-manieth by length of history.

    Args:
        lengths: events per user.
        size: how many; 0 means all of them.

    Returns:
        Rows in ascending order, the same for everyone who asks.
    """
    import numpy as np

    if size == 0 or size >= len(lengths):
        return list(range(len(lengths)))
    place = (np.arange(size) + 0.5) * (len(lengths) / size)
    return sorted(np.argsort(lengths, kind="stable")[place.astype(int)].tolist())


def peak_rss_mb() -> float:
    """The most memory this process has held so far, in MB (2^20 bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1024 if sys.platform != "darwin" else peak / 2**20


class Clock:
    """Wall and CPU seconds of pieces of work, taken together.

    The CPU time of the process is what the work costs on a machine that is busy with something
    else; the wall time is what a user waits.
    """

    def __init__(self) -> None:
        self.wall: list[float] = []
        self.cpu: list[float] = []
        self.start()

    def start(self) -> None:
        """Begin a piece of work."""
        gc.collect()
        self._cpu, self._wall = time.process_time(), time.perf_counter()

    def stop(self) -> None:
        """End it."""
        self.wall.append(time.perf_counter() - self._wall)
        self.cpu.append(time.process_time() - self._cpu)


def repeat(job: Callable[[], Any], *, warmup: int, repetitions: int) -> Clock:
    """Time each repetition of `job`, after `warmup` unmeasured ones."""
    for _ in range(warmup):
        job()
    clock = Clock()
    for _ in range(repetitions):
        clock.start()
        job()
        clock.stop()
    return clock


@contextlib.contextmanager
def one_json_line() -> Iterator[Callable[..., None]]:
    """Send everything a library prints to stderr; yield a function that emits the result.

    Yields:
        `emit(name, unit, count, clock, **details)`: `rate` is `count` over the median wall
        seconds, `cpu_rate` over the median CPU seconds; `details` are recorded as they are.
    """
    stdout = os.dup(1)
    os.dup2(2, 1)

    def emit(name: str, unit: str, count: int, clock: Clock, **details: Any) -> None:
        line = {
            "name": name,
            "unit": unit,
            "rate": count / statistics.median(clock.wall),
            "cpu_rate": count / statistics.median(clock.cpu),
            "count": count,
            "seconds": [round(seconds, 6) for seconds in clock.wall],
            "cpu_seconds": [round(seconds, 6) for seconds in clock.cpu],
            "peak_rss_mb": round(peak_rss_mb(), 1),
            **details,
        }
        sys.stdout.flush()
        os.write(stdout, (json.dumps(line) + "\n").encode())

    try:
        yield emit
    finally:
        sys.stdout.flush()
        os.dup2(stdout, 1)
        os.close(stdout)
