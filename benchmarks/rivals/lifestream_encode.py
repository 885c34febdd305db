"""pytorch-lifestream 0.7: user vectors of whole ML-1M histories, transformer, 2 layers, d = 64.

Run by the rival's own interpreter:

    .rivals/lifestream/bin/python benchmarks/rivals/lifestream_encode.py

The documented path: `inference_data_loader` (padding collate) into `InferenceModule` around a
`TransformerSeqEncoder`, in eval mode without gradients. Weights are random: speed does not
depend on them. `--users 0` encodes everybody, otherwise a sample of that size with the lengths of
all. `--by-length` hands the users over sorted by length, which the library does not do but a user
could.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import measuring


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=512)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--by-length", action="store_true")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--hidden", type=int, default=64, help="of the feed-forward layers")
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--repetitions", type=int, default=3)
    options = parser.parse_args()

    with measuring.one_json_line() as emit:
        measuring.single_thread()
        import lifestream_standin  # noqa: F401  (before ptls)
        import numpy as np
        import torch
        from ptls.data_load.datasets.dataloaders import inference_data_loader
        from ptls.frames.inference_module import InferenceModule
        from ptls.nn import TransformerSeqEncoder, TrxEncoder

        codes, times, users, n_items = measuring.ml1m_histories()
        chosen = measuring.sample_users(list(map(len, codes)), options.users)
        if options.by_length:
            chosen = sorted(chosen, key=lambda row: len(codes[row]))
        # What PandasDataPreprocessor returns: one dict of tensors per user.
        records = [
            {
                "user_id": users[row],
                "event_time": torch.from_numpy(times[row]),
                "item_id": torch.from_numpy(codes[row]),
            }
            for row in chosen
        ]
        torch.manual_seed(0)
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
        model = InferenceModule(encoder, pandas_output=False, model_out_name="vector").eval()
        vectors: list[torch.Tensor] = []

        def encode() -> None:
            nonlocal vectors
            loader = inference_data_loader(
                [dict(r) for r in records], batch_size=options.batch_size
            )
            with torch.inference_mode():
                vectors = [model(batch)["vector"] for batch in loader]

        clock = measuring.repeat(encode, warmup=options.warmup, repetitions=options.repetitions)
        made = torch.cat(vectors)
        if made.shape != (len(records), options.width) or not bool(made.isfinite().all()):
            sys.exit(f"vectors of shape {tuple(made.shape)}: not the same job")
        emit(
            "pytorch-lifestream 0.7 TransformerSeqEncoder",
            "users/s",
            len(records),
            clock,
            mean_events=float(np.mean([len(codes[row]) for row in chosen])),
            batch_size=options.batch_size,
            by_length=options.by_length,
            hidden=options.hidden,
        )


if __name__ == "__main__":
    main()
