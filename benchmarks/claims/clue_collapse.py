"""Claim: CLUE collapses without stop-gradient and without predictor, and only then (Fig 6).

Three trainings on ML-1M that differ in one switch. The paper shows the loss, which is low for a
good model too; what tells them apart is `projector_std`, the standard deviation over the batch of
the l2-normalised projector output, times the square root of its width: 1 is spread evenly over the
sphere, 0 is all users on one point. Batch, dropout and learning rate are the paper's. The
uniformity of the user vectors themselves, in front of the projector, tells less: what collapses
first is what the loss looks at.

Users have full windows (`min_events` = `max_events`). The number of events survives any dropout,
and a model that tells short from long histories has matched its views without collapsing, nor
having learnt anything else.

    python benchmarks/claims/clue_collapse.py [--steps 3600] [--batch-size 64] [--seeds 1]

Resumable: every (variant, seed) is kept in benchmarks/results/clue_collapse.json with its settings;
other settings train anew. Draws benchmarks/figures/clue_collapse.svg.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unirep_feast.events import read_events
from unirep_feast.files import atomic_path
from unirep_feast.packing import pack
from unirep_feast.plugins import load_plugins
from unirep_feast.sequences import Sequences, fit_vocabulary
from unirep_feast.spec_file import parse_spec
from unirep_feast.trainer import Trainer
from unirep_feast.trio import build_trio, choose

HERE = Path(__file__).resolve().parent
RESULT = HERE.parent / "results" / "clue_collapse.json"
FIGURE = HERE.parent / "figures" / "clue_collapse.svg"

#: The switch of each variant, its name in the figure, and a colour that prints apart in grey.
VARIANTS: dict[str, tuple[dict[str, bool], str, str]] = {
    "full": ({}, "CLUE", "#1b6ca8"),
    "no_stop_gradient": ({"stop_gradient": False}, "without stop-gradient", "#d1495b"),
    "no_predictor": ({"predictor": False}, "without predictor", "#e8a33d"),
}
METRICS = {
    "loss": "loss (negative cosine)",
    "projector_std": "std of projector output x sqrt(d)",
    "uniformity": "uniformity of user vectors (0: one point)",
}


@dataclass(frozen=True)
class Options:
    """What decides a curve."""

    steps: int
    batch_size: int
    dropout: float
    every: int


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--steps", type=int, default=3600)
    arguments.add_argument("--batch-size", type=int, default=64)
    arguments.add_argument("--dropout", type=float, default=0.5)
    arguments.add_argument("--every", type=int, default=20, help="steps between recorded points")
    arguments.add_argument("--seeds", type=int, default=1)
    data = Path(os.environ.get("UNIREP_DATA", HERE.parents[1] / ".." / "shared" / "data"))
    arguments.add_argument("--data", type=Path, default=data / "ml-1m")
    given = arguments.parse_args()
    options = Options(given.steps, given.batch_size, given.dropout, given.every)
    torch.set_num_threads(1)

    results: dict[str, Any] = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    for seed in range(given.seeds):
        for variant in VARIANTS:
            key = f"{variant}, seed {seed}"
            if results.get(key, {}).get("settings") == vars(options):
                continue
            curve = train(variant, seed, options, given.data)
            results[key] = {"settings": vars(options), **curve}
            with atomic_path(RESULT) as temporary:
                temporary.write_text(json.dumps(results, indent=1) + "\n")
            print(key, summary(curve), flush=True)
    draw(results, given.seeds)


def train(variant: str, seed: int, options: Options, data: Path) -> dict[str, list[float]]:
    """Fit one variant with the host's loop; returns step, loss and metrics as lists."""
    switch, _, _ = VARIANTS[variant]
    encoder = {"dropout": options.dropout}
    spec = parse_spec(
        {
            "name": "collapse",
            "plugin": "clue",
            "events": {"path": str((data / "events.parquet").resolve())},
            "encoder": {"settings": encoder},
            "objective": {"settings": switch},
            "sampler": {"settings": {"min_events": 50}},
            "training": {
                "seed": seed,
                "batch_size": options.batch_size,
                "max_steps": options.steps,
                "log_every": options.every,
                "validation": 0,
                "device": "cpu",
                "threads": 1,
            },
        },
        "claim",
    )
    packed = pack(read_events(spec))
    vocabulary = fit_vocabulary(packed, until=int(packed.times.max()) + 1)
    sequences = Sequences.from_packed(packed, vocabulary)
    torch.manual_seed(seed)
    trio = build_trio(choose(spec, load_plugins()), vocabulary, sequences.items, {})
    curve: dict[str, list[float]] = {"step": [], **{name: [] for name in METRICS}}
    for record in Trainer(trio, sequences, spec.training).run():
        if record.kind == "step":
            curve["step"].append(record.step)
            for name in METRICS:
                curve[name].append(round(record.values[name], 4))
    return curve


def summary(curve: dict[str, list[float]]) -> str:
    """Mean of the last tenth of a curve, for people."""
    last = max(len(curve["step"]) // 10, 1)
    return ", ".join(f"{name} {np.mean(curve[name][-last:]):.3f}" for name in METRICS)


def smooth(values: list[float], width: int = 9) -> np.ndarray:
    """Running mean over up to ``width`` points on either side: single batches are noisy."""
    sums = np.concatenate(([0.0], np.cumsum(values)))
    place = np.arange(len(values))
    low, high = np.maximum(place - width, 0), np.minimum(place + width + 1, len(values))
    mean: np.ndarray = (sums[high] - sums[low]) / (high - low)
    return mean


def draw(results: dict[str, Any], seeds: int) -> None:
    """Draw loss and spread over steps, a band over seeds where there are several."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    mpl.rcParams.update({"font.size": 9, "svg.hashsalt": "clue", "axes.spines.top": False})
    mpl.rcParams.update({"axes.spines.right": False, "svg.fonttype": "none"})
    figure, axes = plt.subplots(1, 3, figsize=(10.5, 3.2), layout="constrained")
    for axis, (metric, label) in zip(axes, METRICS.items(), strict=True):
        for variant, (_, name, color) in VARIANTS.items():
            curves = [results[f"{variant}, seed {seed}"] for seed in range(seeds)]
            steps = curves[0]["step"]
            values = np.array([smooth(curve[metric]) for curve in curves])
            axis.plot(steps, values.mean(0), color=color, label=name, linewidth=1.6)
            if seeds > 1:
                low, high = values.min(0), values.max(0)
                axis.fill_between(steps, low, high, color=color, alpha=0.2, linewidth=0)
        axis.set_xlabel("step")
        axis.set_title(label, loc="left", fontsize=9)
    axes[0].set_ylim(-1.05, 0.1)
    axes[1].set_ylim(0, 1.05)
    axes[2].set_ylim(None, 0)
    axes[0].legend(frameon=False, loc="upper right")
    with atomic_path(FIGURE) as temporary:
        figure.savefig(temporary, format="svg", metadata={"Date": None})
    plt.close(figure)


if __name__ == "__main__":
    main()
