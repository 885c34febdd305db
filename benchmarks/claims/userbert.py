"""Claim: UserBERT > PTUM > CP > no pre-training, most with few labels (Tables 2 and 3, Fig 5, 6).

One user model, pre-trained in several ways and fine-tuned on the impressions of 10, 25 and 100 % of
the users, then scored on everybody's later impressions; see userbert_tasks.py for the two tasks.

- UserBERT: both tasks, medium-hard negatives. MBP only, BSM only: one of the two. Three tasks: NBP
  beside both.
- PTUM: MBP and NBP against random negatives.
- CP: two views by crop, mask or reorder in the shares of CL4SRec, told from those of other users by
  NT-Xent: clue's sampler and lurm's objective on this encoder.

    python benchmarks/claims/userbert.py [--seeds 5] [--data ../shared/data] [--tasks ctr]

Resumable: every (task, start, share, seed) is kept in benchmarks/results/userbert.json with its
settings; other settings train anew.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from userbert_tasks import SETTINGS, TASKS, finetune, pretrain, task_of

from unirep_feast.files import atomic_path

HERE = Path(__file__).resolve().parent
RESULTS = HERE.parent / "results"
WORK = HERE.parent / "work" / "userbert"
SHARES = (0.1, 0.25, 1.0)


def _tasks(**objective: Any) -> dict[str, Any]:
    return {"objective": {"settings": objective}}


#: Parts of pre-training; None starts from random weights.
STARTS: dict[str, dict[str, Any] | None] = {
    "no pre-training": None,
    "CP": {
        "objective": {"name": "lurm"},
        "sampler": {
            "name": "clue",
            "settings": {"augmentation": "random", "crop": 0.4, "mask": 0.3, "permute": 0.6},
        },
    },
    "PTUM": _tasks(bsm=False, nbp=True, negatives="random"),
    "MBP only": _tasks(bsm=False),
    "BSM only": _tasks(mbp=False),
    "UserBERT": {},
    "three tasks": _tasks(nbp=True),
}


def main() -> None:
    run(__doc__.splitlines()[0], "userbert.json", STARTS, tuple(TASKS), SHARES)


def run(
    about: str,
    file: str,
    starts: dict[str, dict[str, Any] | None],
    tasks: tuple[str, ...],
    shares: tuple[float, ...],
) -> None:
    """Do what is missing in the file of results, and print the table."""
    arguments = argparse.ArgumentParser(description=about)
    arguments.add_argument("--seeds", type=int, default=5)
    data = Path(os.environ.get("UNIREP_DATA", HERE.parents[1] / ".." / "shared" / "data"))
    arguments.add_argument("--data", type=Path, default=data)
    arguments.add_argument("--tasks", nargs="+", default=tasks, choices=tasks)
    options = arguments.parse_args()
    torch.set_num_threads(1)
    path = RESULTS / file
    results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    for name in options.tasks:
        task = task_of(name, options.data, WORK)
        for seed in range(options.seeds):
            for start, parts in starts.items():
                settings = {**SETTINGS, "parts": parts}
                keys = {share: f"{name}: {start}, {share:.0%}, seed {seed}" for share in shares}
                if all(results.get(key, {}).get("settings") == settings for key in keys.values()):
                    continue
                began = time.process_time()
                weights = None if parts is None else pretrain(task, parts, seed)
                seconds = round(time.process_time() - began, 1)
                for share, key in keys.items():
                    scores = finetune(task, share, seed, weights)
                    results[key] = {"settings": settings, **scores, "pretraining_cpu": seconds}
                    print(key, scores, f"{seconds} s", flush=True)
                save(path, results)
        report(name, results, list(starts), shares, options.seeds)


def save(path: Path, results: dict[str, Any]) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(results, indent=1) + "\n")


def report(
    task: str, results: dict[str, Any], starts: list[str], shares: tuple[float, ...], seeds: int
) -> None:
    """Mean and standard deviation over seeds, as rows of a table."""
    print(f"\n{task}, {seeds} seeds")
    for start in starts:
        cells = []
        for share in shares:
            for metric in TASKS[task][1]:
                keys = [f"{task}: {start}, {share:.0%}, seed {seed}" for seed in range(seeds)]
                values = [results[key][metric] for key in keys]
                cells.append(f"{np.mean(values):.4f} ± {np.std(values):.4f}")
        print(f"| {start} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
