"""An encoder that feels every bit of a batch, a world, and the vectors it gets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from unirep_feast.batch import SequenceBatch
from unirep_feast.config import EncodeConfig
from unirep_feast.encoder import Encoded, Window
from unirep_feast.inference import Inference
from unirep_feast.instants import MICROSECONDS_PER_DAY
from unirep_feast.sequences import Sequences
from unirep_feast.snapshot import VectorBlock
from unirep_feast.testing.world import World, make_world

DAY = MICROSECONDS_PER_DAY


class Attention(nn.Module):
    """One attention layer over item embeddings and ages: enough to feel every bit of a batch."""

    depends_on_as_of = True
    provides = frozenset({"batch_independent"})

    def __init__(
        self, window: Window | None = None, num_vectors: int = 2, dim: int = 8, slots: bool = False
    ) -> None:
        super().__init__()
        self.window = window or Window(max_events=10)
        self.num_vectors, self.dim, self.slots = num_vectors, dim, slots
        if slots:
            self.provides = frozenset({"batch_independent", "slots"})
        torch.manual_seed(0)
        self.items = nn.Embedding(64, 16)
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, 0.2, batch_first=True)
        self.out = nn.Linear(16, num_vectors * dim)
        self.seen: list[SequenceBatch] = []

    def bind(self, items: object) -> None: ...
    def penalties(self, extras: object) -> dict[str, Tensor]:
        return {}

    def forward(self, batch: SequenceBatch, *, steps: bool = False) -> Encoded:
        self.seen.append(batch)
        hidden = self.items(batch.pad(batch.codes) % 64)
        age = (batch.as_of[:, None] - batch.pad(batch.times)).double() / DAY
        hidden = hidden + age.sin().float()[..., None]
        mask = batch.mask.clone()
        mask[:, 0] = True  # a softmax over nothing is NaN
        hidden = self.layer(hidden, src_key_padding_mask=~mask)
        pooled = (hidden * batch.mask[..., None]).sum(1) / batch.lengths.clamp(min=1)[:, None]
        users = self.out(pooled).reshape(len(batch), self.num_vectors, self.dim)
        extras = {}
        if self.slots:
            extras["slots"] = batch.lengths[:, None] + torch.arange(self.num_vectors)
        return Encoded(users, None, extras)


@pytest.fixture(scope="session", name="Attention")
def _attention() -> type[Attention]:
    return Attention


@pytest.fixture(scope="session")
def world() -> World:
    return make_world(users=70, items=30, longest=40, seed=5)


def joined(blocks: list[VectorBlock]) -> dict[str, Any]:
    return {
        "users": [user for block in blocks for user in block.users.to_pylist()],
        "vectors": np.concatenate([block.vectors for block in blocks]),
        "history_length": np.concatenate([block.history_length for block in blocks]),
        "last_event": np.concatenate([block.last_event for block in blocks]),
        "slots": [block.slots for block in blocks],
    }


@pytest.fixture(scope="session")
def encode() -> Callable[..., dict[str, Any]]:
    def call(
        sequences: Sequences, as_of: int, encoder: nn.Module | None = None, **config: Any
    ) -> dict[str, Any]:
        config = {"cells": 128, "device": "cpu", **config}
        inference = Inference(encoder or Attention(), EncodeConfig(**config), "x")
        return joined(list(inference.encode(sequences, as_of)))

    return call


@pytest.fixture(scope="session")
def by_user() -> Callable[[dict[str, Any]], dict[Any, bytes]]:
    def bytes_of(found: dict[str, Any]) -> dict[Any, bytes]:
        vectors = zip(found["users"], found["vectors"], strict=True)
        return {user: vector.tobytes() for user, vector in vectors}

    return bytes_of
