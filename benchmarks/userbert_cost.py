"""What medium-hard negatives cost: UserBERT with both pools against random negatives (Fig 10).

    python benchmarks/userbert_cost.py [--presets bert4rec naml] [--rounds 5] [--dim 256]

ML-1M, the paper's sizes (batch 32, at most 100 behaviors, pools of 1,000 and 100, refreshed every
50 steps). Two trainings by the host's own loop go on in turn, a period of 50 steps each, so a round
holds one refresh of the sequence pool and what else the machine does hits both alike. The second
differs by `negatives: random` alone. CPU seconds of a period are compared, drawing, refresh and
optimizer included. Exits with 1 if the median of the rounds' ratios is above 1.5.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Iterator
from typing import Any

import measuring

PERIOD = 50
MOST = 1.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--presets", nargs="+", default=["bert4rec", "naml"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dim", type=int, default=256)
    options = parser.parse_args()
    medians = [compare(preset, options.rounds, options.dim) for preset in options.presets]
    if max(medians) > MOST:
        sys.exit(f"medium-hard negatives cost {max(medians):.2f} times random ones, wanted {MOST}")


def compare(preset: str, rounds: int, dim: int) -> float:
    """Alternate periods of both trainings; prints one line per way, returns the median ratio."""
    ways = ("similar", "random")
    clocks = {way: measuring.Clock() for way in ways}
    with measuring.one_json_line() as emit:
        measuring.single_thread()
        runs = {way: training(preset, way, rounds + 1, dim) for way in ways}
        for run in runs.values():
            next(run)  # set up
            next(run)  # a period to warm up
        for number in range(rounds):
            # Who goes first changes: a slow minute should not always hit the same one.
            for way in ways if number % 2 else reversed(ways):
                clocks[way].start()
                next(runs[way])
                clocks[way].stop()
        pairs = zip(*(clocks[way].cpu for way in ways), strict=True)
        ratios = [hard / random for hard, random in pairs]
        for way in ways:
            emit(
                f"userbert {preset}, {way} negatives",
                "steps/s",
                PERIOD,
                clocks[way],
                dim=dim,
                ratios=[round(ratio, 3) for ratio in ratios],
            )
    return statistics.median(ratios)


def training(preset: str, negatives: str, periods: int, dim: int) -> Iterator[Any]:
    """A training on ML-1M that yields after being set up and after every period."""
    import torch

    from unirep_feast.catalogue import read_items
    from unirep_feast.config import TrainingConfig
    from unirep_feast.events import read_events
    from unirep_feast.packing import pack
    from unirep_feast.plugins import load_plugins
    from unirep_feast.sequences import Sequences, fit_vocabulary
    from unirep_feast.spec_file import parse_spec
    from unirep_feast.trainer import Trainer
    from unirep_feast.trio import build_trio, choose, prepare_encoder

    folder = measuring.data_folder() / "ml-1m"
    spec = parse_spec(
        {
            "name": "cost",
            "plugin": "userbert",
            "events": {"path": str(folder / "events.parquet")},
            "items": {"path": str(folder / "items.parquet")},
            "encoder": {"settings": {"preset": preset, "dim": dim}},
            "objective": {"settings": {"negatives": negatives}},
            "sampler": {"settings": {"interval": PERIOD}},
        },
        "",
    )
    packed = pack(read_events(spec))
    vocabulary = fit_vocabulary(packed, until=int(packed.times.max()) + 1)
    sequences = Sequences.from_packed(packed, vocabulary, read_items(spec))
    choice = choose(spec, load_plugins())
    torch.manual_seed(0)
    # Words of titles are counted; nothing is trained for that, so the fit is never called.
    prepared = prepare_encoder(choice, vocabulary, sequences, _no_fit)
    trio = build_trio(choice, vocabulary, sequences.items, prepared)
    config = TrainingConfig(
        batch_size=32,
        max_steps=PERIOD * periods,
        log_every=PERIOD,
        validation=0,
        threads=1,
        device="cpu",
    )
    return Trainer(trio, sequences, config).run()


def _no_fit(*arguments: Any, **settings: Any) -> Any:
    raise AssertionError("userbert prepares nothing by training")


if __name__ == "__main__":
    main()
