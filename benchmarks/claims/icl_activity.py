"""What of ICL's preference task is how much a customer bought: the probes of icl.py once more.

Beside the vectors the probe is given the logarithm of the history's length, which a convex sum of
behaviors (Eq 8) cannot hold and the length of a capsule can; and that number alone. Reads the
snapshots that icl.py keeps.

    python benchmarks/claims/icl.py --tasks preference --seeds 3    # first
    python benchmarks/claims/icl_activity.py [--seeds 3] [--work FOLDER]
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import icl
import numpy as np
import pyarrow.parquet as pq
import torch

from unirep_feast.snapshot import read_vectors

VARIANTS = ("Ours-K", "Ours-1", "Capsule-K")

#: The history's length is one number beside hundreds; repeated, the probe cannot overlook it.
COPIES = 32


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--seeds", type=int, default=3)
    arguments.add_argument("--work", type=Path, default=icl.WORK)
    data = Path(os.environ.get("UNIREP_DATA", icl.HERE.parents[1] / ".." / "shared" / "data"))
    arguments.add_argument("--data", type=Path, default=data)
    options = arguments.parse_args()
    torch.set_num_threads(1)
    for variant in VARIANTS:
        rows = [scores(options.data, options.work, variant, seed) for seed in range(options.seeds)]
        for what in rows[0]:
            values = [row[what] for row in rows]
            print(
                f"{variant:10} {what:24} {np.mean(values):.4f} ± {np.std(values):.4f}", flush=True
            )


def scores(data: Path, work: Path, variant: str, seed: int) -> dict[str, float]:
    """AUC of each question by length alone, by vectors, and by both."""
    place = work / f"preference-{variant}-{seed}"
    (path,) = place.glob("*/snapshots/promoted/*.parquet")
    ids, vectors = read_vectors(path)
    column = pq.read_table(path, columns=["history_length"], partitioning=None)["history_length"]
    length = np.repeat(np.log1p(column.to_numpy())[:, None], COPIES, axis=1)
    found = {}
    for question, label in icl.labels(data, "preference", ids.to_pylist()).items():
        for what, features in (
            ("length alone", length),
            ("vectors", vectors),
            ("vectors and length", np.hstack((vectors, length))),
        ):
            found[f"{question}{what}"] = icl.probe(features, label, "", seed)["auc"]
    return found


if __name__ == "__main__":
    main()
