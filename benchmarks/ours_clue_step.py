"""Ours: CLUE training on ML-1M, L = 50, d = 64, 2 layers, 4 heads, batch 128.

    python benchmarks/ours_clue_step.py

Measured is the fit loop itself, through the spec and the plugin: views drawn, each encoded,
SimSiam heads, loss, backward, gradient clipping, Adam. A user is two forward passes of up to 50
events and [UR].
"""

from __future__ import annotations

import argparse
import math
import sys

import measuring


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--length", type=int, default=50)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--dropout", type=float, default=0.5)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--augmentation", default="dropout")
    parser.add_argument("--warmup", type=int, default=1, help="repetitions that do not count")
    parser.add_argument("--steps", type=int, default=10, help="steps of one repetition")
    parser.add_argument("--repetitions", type=int, default=3)
    options = parser.parse_args()

    with measuring.one_json_line() as emit:
        measuring.single_thread()
        import ours_common
        import torch

        from unirep_feast.trainer import Trainer
        from unirep_feast.trio import build_trio

        repetitions = options.warmup + options.repetitions
        spec, choice, sequences = ours_common.ml1m(
            encoder={
                "settings": {
                    "dim": options.width,
                    "max_events": options.length,
                    "dropout": options.dropout,
                    "blocks": options.layers,
                    "heads": options.heads,
                }
            },
            sampler={"settings": {"augmentation": options.augmentation}},
            training={
                "batch_size": options.batch_size,
                "epochs": None,
                "max_steps": repetitions * options.steps,
                "log_every": options.steps,
                "validation": 0,
                "device": "cpu",
                "threads": 1,
            },
        )
        torch.manual_seed(0)
        trio = build_trio(choice, sequences.vocabulary, sequences.items, {})
        losses: list[float] = []
        clock = measuring.Clock()
        for record in Trainer(trio, sequences, spec.training).run():
            if record.kind == "start":
                clock.start()
            elif record.kind == "step":
                clock.stop()
                losses.append(record.values["loss"])
                clock.start()
        for seconds in (clock.wall, clock.cpu):
            del seconds[: options.warmup]
        if not all(math.isfinite(loss) for loss in losses) or losses[-1] >= losses[0]:
            sys.exit(f"loss went from {losses[0]:.3f} to {losses[-1]:.3f}: it does not train")
        emit(
            "unirep-feast clue step",
            "users/s",
            options.batch_size * options.steps,
            clock,
            batch_size=options.batch_size,
            augmentation=options.augmentation,
            first_loss=losses[0],
            last_loss=losses[-1],
        )


if __name__ == "__main__":
    main()
