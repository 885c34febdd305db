"""RePlay 0.22: SasRec training on ML-1M, L = 50, d = 64, 2 layers, 4 heads, batch 128.

Run by the rival's own interpreter:

    .rivals/replay/bin/python benchmarks/rivals/replay_sasrec.py
    .rivals/replay/bin/python benchmarks/rivals/replay_sasrec.py --negatives 512

One step is what its Lightning module does: the next batch of its parquet module, its default
SasRec transforms, forward, backward, its Adam. Each user gives the last 51 events, that is 50
inputs with their next items. Rows are encoded in length buckets
(`LengthBucketedQueryEncoder`, new in 0.22) of `--bucket-size`; 0 turns that off. The loss is the
full softmax of `SasRec.from_params`, or with `--negatives N` its sampled cross-entropy with N
negatives shared by the batch.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import measuring


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--length", type=int, default=50)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--dropout", type=float, default=0.5)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--bucket-size", type=int, default=64)
    parser.add_argument("--negatives", type=int, default=0)
    parser.add_argument("--fused", action="store_true", help="torch's fused Adam in its factory")
    parser.add_argument("--warmup", type=int, default=5, help="steps")
    parser.add_argument("--steps", type=int, default=10, help="steps of one repetition")
    parser.add_argument("--repetitions", type=int, default=3)
    options = parser.parse_args()

    with measuring.one_json_line() as emit, tempfile.TemporaryDirectory() as folder:
        measuring.single_thread()
        import torch

        torch.manual_seed(0)
        schema, batches = data(folder, options)
        model = sasrec(schema, options)
        optimizer = adam(model, options)
        stream = batches()

        def step() -> float:
            batch = next(stream)
            optimizer.zero_grad()
            loss = model(
                feature_tensors=batch["feature_tensors"],
                padding_mask=batch["padding_mask"],
                positive_labels=batch["positive_labels"],
                negative_labels=batch.get("negative_labels"),
                target_padding_mask=batch["target_padding_mask"],
            )["loss"]
            loss.backward()
            optimizer.step()
            return float(loss.detach())

        losses: list[float] = []

        def steps() -> None:
            losses.extend(step() for _ in range(options.steps))

        for _ in range(options.warmup):
            losses.append(step())
        clock = measuring.repeat(steps, warmup=0, repetitions=options.repetitions)
        if not all(math.isfinite(loss) for loss in losses) or losses[-1] >= losses[0]:
            sys.exit(f"loss went from {losses[0]:.3f} to {losses[-1]:.3f}: it does not train")
        emit(
            "RePlay 0.22 SasRec",
            "sequences/s",
            options.batch_size * options.steps,
            clock,
            batch_size=options.batch_size,
            bucket_size=options.bucket_size,
            negatives=options.negatives or "all",
            first_loss=losses[0],
            last_loss=losses[-1],
        )


def data(folder: str, options: argparse.Namespace) -> tuple[Any, Any]:
    """Its tensor schema, and an endless stream of full, transformed training batches."""
    import pyarrow as pa
    import torch
    from pyarrow import parquet
    from replay.data import FeatureHint, FeatureSource, FeatureType
    from replay.data.nn import TensorFeatureInfo, TensorFeatureSource, TensorSchema
    from replay.data.nn.parquet import ParquetDataset
    from replay.nn.transform import UniformNegativeSamplingTransform
    from replay.nn.transform.template import make_default_sasrec_transforms

    codes, _, _, n_items = measuring.ml1m_histories()
    window = options.length + 1  # the transform cuts one off: inputs and their next items
    histories = [(code - 1)[-window:] for code in codes]
    path = str(Path(folder) / "train.parquet")
    parquet.write_table(pa.table({"item_id": pa.array(histories, pa.list_(pa.int64()))}), path)

    schema = TensorSchema(
        [
            TensorFeatureInfo(
                "item_id",
                is_seq=True,
                feature_type=FeatureType.CATEGORICAL,
                embedding_dim=options.width,
                padding_value=n_items,
                cardinality=n_items,
                feature_hint=FeatureHint.ITEM_ID,
                feature_sources=[TensorFeatureSource(FeatureSource.INTERACTIONS, "item_id")],
            )
        ]
    )
    transforms = make_default_sasrec_transforms(schema)["train"]
    if options.negatives:
        transforms.append(UniformNegativeSamplingTransform(n_items, options.negatives))
    transform = torch.nn.Sequential(*transforms)
    dataset = ParquetDataset(
        source=path,
        metadata={"item_id": {"shape": window, "padding": n_items}},
        partition_size=64 * options.batch_size,
        batch_size=options.batch_size,
        device=torch.device("cpu"),
        generator=torch.Generator().manual_seed(0),
    )

    def batches() -> Iterator[dict[str, Any]]:
        while True:
            for batch in dataset:
                if len(batch["item_id"]) == options.batch_size:
                    yield transform(batch)

    return schema, batches


def sasrec(schema: Any, options: argparse.Namespace) -> Any:
    """Its SasRec, with its length buckets around the transformer layers."""
    from replay.nn.loss import CESampled
    from replay.nn.sequential import LengthBucketedQueryEncoder, SasRec

    model = SasRec.from_params(
        schema,
        embedding_dim=options.width,
        num_heads=options.heads,
        num_blocks=options.layers,
        max_sequence_length=options.length,
        dropout=options.dropout,
    )
    if options.negatives:
        model.loss = CESampled()
        model.loss.logits_callback = model.get_logits
    if options.bucket_size:
        model.body.encoder = LengthBucketedQueryEncoder(model.body.encoder, options.bucket_size)
    return model.train()


def adam(model: Any, options: argparse.Namespace) -> Any:
    import torch
    from replay.nn.lightning.optimizer import OptimizerFactory

    if options.fused:
        return torch.optim.Adam(model.parameters(), lr=1e-3, betas=(0.9, 0.98), fused=True)
    return OptimizerFactory().create(model.parameters())


if __name__ == "__main__":
    main()
