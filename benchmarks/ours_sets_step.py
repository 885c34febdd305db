"""Ours: ICL or GUIM training on ML-1M, d = 64, histories of up to 100 events, batch 128.

    python benchmarks/ours_sets_step.py guim
    python benchmarks/ours_sets_step.py icl --count events

Measured is the fit loop itself, through the spec and the plugin: views drawn, encoded, loss,
backward, gradient clipping, Adam. A user is one history and its future for GUIM (2 layers, 4 heads,
feed-forward 4 d, C = 4, masked items and matching), and a history and a later period for ICL
(K = 5 of M = 100 interests). Counted are users, or the events that both views of a user hold.
"""

from __future__ import annotations

import argparse
import math
import sys
from typing import Any

import measuring


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("plugin", choices=["guim", "icl"])
    parser.add_argument("--count", choices=["users", "events"], default="users")
    parser.add_argument("--length", type=int, default=100)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--warmup", type=int, default=1, help="repetitions that do not count")
    parser.add_argument("--steps", type=int, default=10, help="steps of one repetition")
    parser.add_argument("--repetitions", type=int, default=3)
    options = parser.parse_args()
    encoder: dict[str, Any] = {"dim": options.width, "max_events": options.length}
    if options.plugin == "guim":
        encoder |= {"layers": options.layers, "heads": options.heads}

    with measuring.one_json_line() as emit:
        measuring.single_thread()
        import ours_common
        import torch

        from unirep_feast.batch import SequenceBatch
        from unirep_feast.trainer import Trainer
        from unirep_feast.trio import build_trio, prepare_encoder

        repetitions = options.warmup + options.repetitions
        spec, choice, sequences = ours_common.ml1m(
            plugin=options.plugin,
            titles=True,
            encoder={"settings": encoder},
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
        prepared = prepare_encoder(choice, sequences.vocabulary, sequences, no_fit)
        trio = build_trio(choice, sequences.vocabulary, sequences.items, prepared)
        assert trio.sampler is not None
        counted = {"users": 0, "events": 0}
        draw = trio.sampler.sample

        def sample(*arguments: Any) -> Any:
            views = draw(*arguments)
            batches = [view for view in views.values() if isinstance(view, SequenceBatch)]
            counted["users"] += len(batches[0])
            counted["events"] += sum(len(batch.codes) for batch in batches)
            return views

        trio.sampler.sample = sample  # type: ignore[method-assign]
        losses: list[float] = []
        counts: list[int] = []
        clock = measuring.Clock()
        for record in Trainer(trio, sequences, spec.training).run():
            if record.kind == "start":
                clock.start()
            elif record.kind == "step":
                clock.stop()
                losses.append(record.values["loss"])
                counts.append(counted[options.count])
                counted.update(users=0, events=0)
                clock.start()
        for seconds in (clock.wall, clock.cpu, counts):
            del seconds[: options.warmup]
        if not all(math.isfinite(loss) for loss in losses) or losses[-1] >= losses[0]:
            sys.exit(f"loss went from {losses[0]:.3f} to {losses[-1]:.3f}: it does not train")
        emit(
            f"unirep-feast {options.plugin} step",
            f"{options.count}/s",
            sum(counts) // len(counts),
            clock,
            batch_size=options.batch_size,
            first_loss=losses[0],
            last_loss=losses[-1],
        )


def no_fit(*arguments: Any, **keywords: Any) -> Any:
    raise NotImplementedError("neither plugin trains anything beforehand")


if __name__ == "__main__":
    main()
