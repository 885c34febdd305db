"""pytorch-lifestream 0.7: CoLES training on ML-1M, transformer, 2 layers, d = 64, batch 128.

Run by the rival's own interpreter:

    .rivals/lifestream/bin/python benchmarks/rivals/lifestream_coles.py

The documented path: `ColesDataset` with `SampleSlices` (two slices per user, of 15 to 100 events;
its documentation has five) and its collate function, `CoLESModule` around a
`TransformerSeqEncoder` of 4 heads, its default loss, Adam. What Lightning's loop does besides
(logging, callbacks) is left out, to the rival's advantage. Counted are users, or the events in the
slices.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import measuring


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", choices=["users", "events"], default="users")
    parser.add_argument("--slices", type=int, default=2, help="per user")
    parser.add_argument("--shortest", type=int, default=15)
    parser.add_argument("--longest", type=int, default=100)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--hidden", type=int, default=256, help="of the feed-forward layers")
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--steps", type=int, default=5, help="steps of one repetition")
    parser.add_argument("--repetitions", type=int, default=3)
    options = parser.parse_args()

    with measuring.one_json_line() as emit:
        measuring.single_thread()
        import lifestream_standin  # noqa: F401  (before ptls)
        import torch
        from ptls.frames.coles import ColesDataset, CoLESModule
        from ptls.frames.coles.split_strategy import SampleSlices
        from ptls.nn import TransformerSeqEncoder, TrxEncoder

        codes, times, users, n_items = measuring.ml1m_histories()
        records = [
            {"user_id": user, "event_time": torch.from_numpy(t), "item_id": torch.from_numpy(c)}
            for user, t, c in zip(users, times, codes, strict=True)
        ]
        torch.manual_seed(0)
        dataset = ColesDataset(
            records, SampleSlices(options.slices, options.shortest, options.longest)
        )
        loader = torch.utils.data.DataLoader(
            dataset,
            batch_size=options.batch_size,
            shuffle=True,
            drop_last=True,
            collate_fn=dataset.collate_fn,
        )
        encoder = TransformerSeqEncoder(
            trx_encoder=TrxEncoder(
                embeddings={"item_id": {"in": n_items + 2, "out": options.width}}
            ),
            input_size=options.width,
            n_heads=options.heads,
            n_layers=options.layers,
            dim_hidden=options.hidden,
            is_reduce_sequence=True,
        )
        model = CoLESModule(encoder, optimizer_partial=partial(torch.optim.Adam, lr=1e-3)).train()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        batches = endless(loader)
        losses: list[float] = []
        counts: list[int] = []

        def steps() -> None:
            counted = 0
            for _ in range(options.steps):
                x, y = next(batches)
                counted += options.batch_size if options.count == "users" else int(x.seq_lens.sum())
                loss = model._loss(*model.shared_step(x, y))
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
                optimizer.step()
            losses.append(float(loss.detach()))
            counts.append(counted)

        clock = measuring.repeat(steps, warmup=options.warmup, repetitions=options.repetitions)
        if not all(math.isfinite(loss) for loss in losses):
            sys.exit(f"losses {losses}: it does not train")
        emit(
            "pytorch-lifestream 0.7 CoLES, TransformerSeqEncoder",
            f"{options.count}/s",
            sum(counts[options.warmup :]) // options.repetitions,
            clock,
            batch_size=options.batch_size,
            slices=options.slices,
            first_loss=losses[0],
            last_loss=losses[-1],
        )


def endless(loader: Any) -> Iterator[Any]:
    """One epoch after the other."""
    while True:
        yield from loader


if __name__ == "__main__":
    main()
