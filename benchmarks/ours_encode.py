"""Ours: user vectors of whole ML-1M histories, transformer, 2 layers, d = 64, 4 heads.

    python benchmarks/ours_encode.py

CLUE's encoder with a window as long as the longest history, through `Inference.encode`, the path
of `unirep encode`: bit-equal buckets, order restored, every number checked to be finite. Weights
are random: speed does not depend on them. `--users 0` encodes everybody, otherwise a
sample of that size with the lengths of all.
"""

from __future__ import annotations

import argparse
import sys

import measuring


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=0)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--cells", type=int, default=None, help="instead of the default")
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--repetitions", type=int, default=3)
    options = parser.parse_args()

    with measuring.one_json_line() as emit:
        measuring.single_thread()
        import numpy as np
        import ours_common
        import torch

        from unirep_feast.inference import Inference
        from unirep_feast.trio import build_encoder

        histories, *_ = measuring.ml1m_histories()
        longest = max(map(len, histories))
        cells = {} if options.cells is None else {"cells": options.cells}
        spec, choice, sequences = ours_common.ml1m(
            encoder={
                "settings": {
                    "dim": options.width,
                    "max_events": longest,
                    "blocks": options.layers,
                    "heads": options.heads,
                }
            },
            encode={"device": "cpu", "threads": 1, **cells},
        )
        rows = measuring.sample_users(sequences.lengths.tolist(), options.users)
        sequences = sequences.select(torch.tensor(rows))
        torch.manual_seed(0)
        encoder = build_encoder(choice, sequences.vocabulary, sequences.items, {})
        inference = Inference(encoder, spec.encode, "clue")
        vectors: list[np.ndarray] = []

        def encode() -> None:
            nonlocal vectors
            vectors = [block.vectors for block in inference.encode(sequences, sequences.until)]

        clock = measuring.repeat(encode, warmup=options.warmup, repetitions=options.repetitions)
        made = np.concatenate(vectors)
        if made.shape != (len(rows), options.width) or not np.isfinite(made).all():
            sys.exit(f"vectors of shape {made.shape}: not the same job")
        emit(
            "unirep-feast encode",
            "users/s",
            len(rows),
            clock,
            mean_events=float(sequences.lengths.double().mean()),
            longest=longest,
            cells=spec.encode.cells,
        )


if __name__ == "__main__":
    main()
