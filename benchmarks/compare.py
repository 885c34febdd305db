"""Ours and the rivals side by side: A B A B … in one session, one thread, medians and ratios.

    benchmarks/rivals/setup.sh                    # once: the rivals' environments
    python benchmarks/compare.py pack             # or: clue-step, guim-step-users, encode, …, all
    python benchmarks/compare.py table            # rewrite the table from what was measured

Every side is a script that measures itself and prints one JSON line (see `measuring.py`). A
round runs ours, then each rival, each in a fresh process; so whatever else the machine is
doing falls on all of them, and the ratio is taken round by round. Beside it stands the ratio by
CPU time, which a busy machine disturbs less. After every round the result is written to
`results/<job>.json`: a session that was broken off goes on with the missing rounds, a complete
one is measured anew. The table in RESULTS.md is made from these files.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
RESULTS = HERE / "results"
TABLE = HERE / "RESULTS.md"
BEGIN, END = "<!-- table: begin (written by compare.py) -->", "<!-- table: end -->"


@dataclass(frozen=True)
class Side:
    """One script, run by one interpreter."""

    label: str
    python: str  # "" is the interpreter that runs this file
    script: str
    arguments: tuple[str, ...] = ()

    def command(self) -> list[str]:
        return [self.python or "python", f"benchmarks/{self.script}", *self.arguments]

    def run(self) -> dict[str, Any]:
        """Run it to the end and return what it measured."""
        command = self.command()
        command[0] = str(ROOT / self.python) if self.python else sys.executable
        if not Path(command[0]).exists():
            sys.exit(f"{self.label}: no {self.python}; run benchmarks/rivals/setup.sh first")
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        done = subprocess.run(command, cwd=ROOT, env=environment, text=True, capture_output=True)
        if done.returncode:
            sys.exit(f"{shlex.join(self.command())} failed:\n{done.stderr[-3000:]}")
        measured: dict[str, Any] = json.loads(done.stdout)
        return measured


@dataclass(frozen=True)
class Job:
    """What is compared: our side first, then one or more rivals."""

    title: str
    sides: tuple[Side, ...]
    rounds: int
    wanted: str = ""
    metric: str = "rate"


LIFESTREAM = ".rivals/lifestream/bin/python"
REPLAY = ".rivals/replay/bin/python"

JOBS = {
    "pack": Job(
        "events in a dataframe → sequences, ML-1M",
        (
            Side("unirep-feast", "", "ours_pack.py"),
            Side("pytorch-lifestream 0.7", LIFESTREAM, "rivals/lifestream_pack.py"),
        ),
        rounds=5,
        wanted="≥ 15x",
    ),
    "pack-20m": Job(
        "21 M synthetic events in parquet, all columns → sequences, peak memory",
        (Side("unirep-feast", "", "ours_pack_20m.py"),),
        rounds=3,
        wanted="< 3,072 MB",
        metric="peak_rss_mb",
    ),
    "clue-step": Job(
        "CLUE training step (two views) vs SASRec step, ML-1M, L 50, d 64, 2 layers, 4 heads, "
        "batch 128",
        (
            Side("unirep-feast clue", "", "ours_clue_step.py"),
            Side("RePlay 0.22 SasRec, full softmax", REPLAY, "rivals/replay_sasrec.py"),
            Side(
                "RePlay 0.22 SasRec, 512 shared negatives",
                REPLAY,
                "rivals/replay_sasrec.py",
                ("--negatives", "512"),
            ),
        ),
        rounds=5,
        wanted="≥ 2x",
    ),
    **{
        f"{plugin}-step-{count}": Job(
            f"{plugin.upper()} training step (history and what follows) vs CoLES step (two "
            f"slices), {count}, ML-1M, up to 100 events, d 64, batch 128",
            (
                Side(f"unirep-feast {plugin}", "", "ours_sets_step.py", (plugin, "--count", count)),
                Side(
                    "pytorch-lifestream 0.7 CoLES, transformer, 2 layers, 4 heads",
                    LIFESTREAM,
                    "rivals/lifestream_coles.py",
                    ("--count", count),
                ),
            ),
            rounds=3,
            wanted="≥ 4x",
        )
        for plugin in ("guim", "icl")
        for count in ("users", "events")
    },
    "encode": Job(
        "whole histories → vectors, ML-1M, transformer, 2 layers, d 64, 4 heads",
        (
            Side("unirep-feast clue", "", "ours_encode.py"),
            Side(
                "pytorch-lifestream 0.7, its inference command's default of 128 (512 users)",
                LIFESTREAM,
                "rivals/lifestream_encode.py",
                ("--batch-size", "128", "--warmup", "0", "--repetitions", "1"),
            ),
            Side(
                "pytorch-lifestream 0.7, its best batch size: 1, so no padding (all users)",
                LIFESTREAM,
                "rivals/lifestream_encode.py",
                ("--batch-size", "1", "--users", "0"),
            ),
        ),
        rounds=3,
        wanted="≥ 20x",
    ),
}


def machine() -> str:
    """CPU model, cores and threads in one line."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    return f"{model}, {os.cpu_count()} cores, 1 thread used"


def compare(name: str, rounds: int | None) -> None:
    """Run the missing rounds of a job, saving after each."""
    job = JOBS[name]
    path = RESULTS / f"{name}.json"
    wanted = rounds or job.rounds
    result = {
        "job": name,
        "title": job.title,
        "metric": job.metric,
        "machine": machine(),
        "labels": [side.label for side in job.sides],
        "commands": [shlex.join(side.command()) for side in job.sides],
        "planned_rounds": wanted,
        "rounds": [],
    }
    if path.exists():
        before = json.loads(path.read_text())
        same = all(before.get(key) == result[key] for key in ("machine", "commands", "metric"))
        if same and len(before["rounds"]) < before["planned_rounds"]:
            result["rounds"] = before["rounds"]
            print(f"{name}: going on after round {len(before['rounds'])}", flush=True)
    measured: list[Any] = result["rounds"]  # type: ignore[assignment]
    while len(measured) < wanted:
        lines = [side.run() for side in job.sides]
        measured.append(lines)
        result["date"] = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
        result["load_average"] = os.getloadavg()
        RESULTS.mkdir(exist_ok=True)
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(result, indent=1) + "\n")
        temporary.replace(path)
        ours = lines[0][job.metric]
        text = [f"{name} round {len(measured)}: ours {number(ours)}"]
        text += [
            f"{side.label} {number(line[job.metric])} (ratio {ours / line[job.metric]:.2f})"
            for side, line in zip(job.sides[1:], lines[1:], strict=True)
        ]
        print("; ".join(text), flush=True)
    for row in rows(result):
        print(" | ".join(row), flush=True)


def rows(result: dict[str, Any]) -> list[list[str]]:
    """One table row per pair of ours and a rival (one without a ratio where there is no rival)."""
    metric = result["metric"]
    sides = [
        [line[index][metric] for line in result["rounds"]] for index in range(len(result["labels"]))
    ]
    unit = "MB peak" if metric == "peak_rss_mb" else result["rounds"][0][0]["unit"]
    ours = f"{spread(sides[0])} {unit}"
    pairs = list(zip(result["labels"], sides, result["commands"], strict=True))[1:]
    about = [JOBS[result["job"]].wanted, str(len(result["rounds"])), result["date"]]
    if not pairs:
        return [
            [
                result["title"],
                ours,
                "none",
                "",
                "",
                *about,
                f"`{result['commands'][0]}`",
                result["machine"],
            ]
        ]
    out = []
    for index, (label, theirs, command) in enumerate(pairs, start=1):
        ratios = [a / b for a, b in zip(sides[0], theirs, strict=True)]
        by_cpu = [line[0]["cpu_rate"] / line[index]["cpu_rate"] for line in result["rounds"]]
        their_unit = result["rounds"][0][index]["unit"]
        out.append(
            [
                result["title"],
                ours,
                f"{label}: {spread(theirs)} {their_unit}",
                f"**{statistics.median(ratios):.3g}x** ({min(ratios):.3g}-{max(ratios):.3g})",
                f"{statistics.median(by_cpu):.3g}x ({min(by_cpu):.3g}-{max(by_cpu):.3g})",
                *about,
                f"`{result['commands'][0]}` / `{command}`",
                result["machine"],
            ]
        )
    return out


def spread(values: list[float]) -> str:
    """Median, and smallest and largest."""
    return f"{number(statistics.median(values))} ({number(min(values))}-{number(max(values))})"


def number(value: float) -> str:
    """Three significant figures, with thousands separated."""
    if value >= 1e6:
        return f"{value / 1e6:.3g} M"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def write_table() -> None:
    """Put the table of everything measured so far between the two marks in RESULTS.md."""
    head = [
        "job",
        "ours, median (min-max)",
        "rival, median (min-max)",
        "ours / rival",
        "by CPU time",
        "wanted",
        "rounds",
        "date",
        "commands",
        "machine",
    ]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for name in JOBS:
        path = RESULTS / f"{name}.json"
        if path.exists():
            result = json.loads(path.read_text())
            lines += [f"| {' | '.join(row)} |" for row in rows(result)]
    text = TABLE.read_text(encoding="utf-8") if TABLE.exists() else f"# Results\n\n{BEGIN}\n{END}\n"
    if BEGIN not in text or END not in text:
        text += f"\n{BEGIN}\n{END}\n"
    before, rest = text.split(BEGIN, 1)
    after = rest.split(END, 1)[1]
    TABLE.write_text("\n".join([before + BEGIN, *lines, END]) + after, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("job", choices=[*JOBS, "all", "table"])
    parser.add_argument("--rounds", type=int, default=None, help="instead of the job's own number")
    options = parser.parse_args()
    for name in JOBS if options.job == "all" else [options.job]:
        if name in JOBS:
            compare(name, options.rounds)
            write_table()
    if options.job == "table":
        write_table()


if __name__ == "__main__":
    main()
