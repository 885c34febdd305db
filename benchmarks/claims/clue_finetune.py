"""Claim: fine-tuned, CLUE beats CLUEZero (the same encoder from random weights).

The paper has most to gain where data are few, so a share of the users is tried as well.
Next item on ML-100K, leave-one-out, full ranking (section V-A): pre-trained by two dropout views on
histories without their last two events, fine-tuned by softmax over all items on all users or on a
share of them, tested on everybody's last event. Fine-tuning stops by the validation loss of a
tenth of its users. Beside it, the most popular items of the same training events.

    python benchmarks/claims/clue_finetune.py [--seeds 3] [--data ../shared/data/ml-100k]

Resumable: every (start, share, seed) is kept in benchmarks/results/clue_finetune.json with its
settings; other settings train anew.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unirep_feast.config import TrainingConfig
from unirep_feast.events import read_events
from unirep_feast.files import atomic_path
from unirep_feast.packing import pack
from unirep_feast.plugins import load_plugins
from unirep_feast.sampler import Draw, Units
from unirep_feast.sequences import Sequences, fit_vocabulary
from unirep_feast.spec_file import parse_spec
from unirep_feast.trainer import Trainer
from unirep_feast.trio import Trio, build_trio, choose
from unirep_feast_clue.metrics import ranking

HERE = Path(__file__).resolve().parent
RESULT = HERE.parent / "results" / "clue_finetune.json"
SHARES = (1.0, 0.1)
STARTS = ("CLUEZero", "CLUE")
METRICS = ("recall_at_10", "mrr_at_10")
SETTINGS: dict[str, Any] = {
    "encoder": {"dropout": 0.5, "max_events": 50},
    "pretraining": {"batch_size": 64, "max_steps": 600, "validation": 0},
    "finetuning": {
        "batch_size": 64,
        "max_steps": 2000,
        "validate_every": 100,
        "patience": 8,
        "validation": 0.1,
    },
}


class ShareOfUsers:
    """The fine-tuning sampler, with a seeded share of its units."""

    def __init__(self, inner: Any, share: float, seed: int) -> None:
        self.inner, self.share, self.seed, self.views = inner, share, seed, inner.views
        self._kept: Tensor | None = None

    def units(self, sequences: Sequences) -> Tensor:
        rows: Tensor = self.inner.units(sequences)
        generator = torch.Generator().manual_seed(self.seed)
        order = torch.randperm(len(rows), generator=generator)
        self._kept = order[: max(int(self.share * len(rows)), 2)].sort().values
        return rows[self._kept]

    def sample(self, sequences: Sequences, units: Units, draw: Draw) -> Any:
        assert self._kept is not None
        return self.inner.sample(sequences, Units(self._kept[units.index], units.users), draw)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--seeds", type=int, default=3)
    data = Path(os.environ.get("UNIREP_DATA", HERE.parents[1] / ".." / "shared" / "data"))
    arguments.add_argument("--data", type=Path, default=data / "ml-100k")
    options = arguments.parse_args()
    torch.set_num_threads(1)
    sequences = load(options.data)
    results: dict[str, Any] = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    for seed in range(options.seeds):
        wanted = [f"{start}, {share:.0%}, seed {seed}" for start in STARTS for share in SHARES]
        if all(results.get(key, {}).get("settings") == SETTINGS for key in wanted):
            continue
        pretrained = pretrain(sequences, seed)
        for start in STARTS:
            for share in SHARES:
                weights = pretrained if start == "CLUE" else None
                scores = finetune(sequences, seed, share, weights)
                key = f"{start}, {share:.0%}, seed {seed}"
                results[key] = {"settings": SETTINGS, **scores}
                save(results)
                print(key, scores, flush=True)
    results["popularity"] = popularity(sequences)
    save(results)
    report(results, options.seeds)


def load(data: Path) -> Sequences:
    """All histories of the log."""
    packed = pack(read_events(spec_of(data, {})))
    vocabulary = fit_vocabulary(packed, until=int(packed.times.max()) + 1)
    return Sequences.from_packed(packed, vocabulary)


def spec_of(data: Path, parts: dict[str, Any]) -> Any:
    path = str((data / "events.parquet").resolve())
    return parse_spec({"name": "finetune", "plugin": "clue", "events": {"path": path}, **parts}, "")


def trio_of(sequences: Sequences, part: str, sampler: dict[str, Any]) -> Trio:
    """An encoder from random weights, with CLUE's objective or the next-item one."""
    spec = spec_of(
        Path(),
        {
            "encoder": {"settings": SETTINGS["encoder"]},
            "objective": {"name": part},
            "sampler": {"name": part, "settings": sampler},
        },
    )
    return build_trio(choose(spec, load_plugins()), sequences.vocabulary, sequences.items, {})


def training(settings: dict[str, Any], seed: int) -> TrainingConfig:
    return TrainingConfig(seed=seed, device="cpu", threads=1, **settings)


def pretrain(sequences: Sequences, seed: int) -> dict[str, Tensor]:
    """Two dropout views of every history without its last two events."""
    torch.manual_seed(seed)
    trio = trio_of(sequences, "clue", {"hold_out": 2, "min_events": 50})
    for _ in Trainer(trio, sequences, training(SETTINGS["pretraining"], seed)).run():
        pass
    assert isinstance(trio.encoder, nn.Module)
    return trio.encoder.state_dict()


def finetune(
    sequences: Sequences, seed: int, share: float, weights: dict[str, Tensor] | None
) -> dict[str, float]:
    """Train for the next item, then rank everybody's last one."""
    torch.manual_seed(seed)
    trio = trio_of(sequences, "clue.next_item", {"target": "train"})
    assert isinstance(trio.encoder, nn.Module)
    if weights is not None:
        trio.encoder.load_state_dict(weights)
    trio.sampler = ShareOfUsers(trio.sampler, share, seed)
    trainer = Trainer(trio, sequences, training(SETTINGS["finetuning"], seed))
    steps = max(record.step for record in trainer.run())
    trio.sampler = trio_of(sequences, "clue.next_item", {"target": "test"}).sampler
    tester = Trainer(trio, sequences, training({"batch_size": 512, "validation": 0}, seed))
    tested = tester.score(torch.arange(len(tester.plan.rows)), "last event")
    return {"steps": steps, **{name: round(tested[name], 4) for name in METRICS}}


def popularity(sequences: Sequences) -> dict[str, float]:
    """Rank by the number of events among those that fine-tuning may see."""
    sampler: Any = trio_of(sequences, "clue.next_item", {"target": "test"}).sampler
    rows = sampler.units(sequences)
    views = sampler.sample(sequences, Units(torch.arange(len(rows)), rows), Draw(0, 0))
    counts = torch.bincount(views["history"].codes.long(), minlength=sequences.items.known)
    scores = counts[views["candidates"]].float().expand(len(rows), -1)
    ranked = ranking(scores, torch.searchsorted(views["candidates"], views["target"]))
    return {name: round(float(ranked[name]), 4) for name in METRICS}


def save(results: dict[str, Any]) -> None:
    with atomic_path(RESULT) as temporary:
        temporary.write_text(json.dumps(results, indent=1) + "\n")


def report(results: dict[str, Any], seeds: int) -> None:
    """Mean and standard deviation over seeds, and how many seeds CLUE wins."""
    print("popularity", results["popularity"])
    for share in SHARES:
        for name in METRICS:
            both = {
                start: np.array([results[f"{start}, {share:.0%}, seed {s}"][name]
                                 for s in range(seeds)])
                for start in STARTS
            }  # fmt: skip
            text = ", ".join(f"{k} {v.mean():.4f} ± {v.std():.4f}" for k, v in both.items())
            wins = int((both["CLUE"] > both["CLUEZero"]).sum())
            print(f"{share:4.0%} of users, {name}: {text}; CLUE ahead in {wins} of {seeds}")


if __name__ == "__main__":
    main()
