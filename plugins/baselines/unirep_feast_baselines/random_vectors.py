"""Random vectors: what a representation that knows nothing reaches."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from unirep_feast.batch import UNK, SequenceBatch
from unirep_feast.encoder import Encoded
from unirep_feast.sampler import seed_of
from unirep_feast_baselines.config import RandomSettings
from unirep_feast_baselines.untrained import Untrained

_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)  # as a signed number of 64 bits
_FIRST = 0xBF58476D1CE4E5B9 - (1 << 64)
_SECOND = 0x94D049BB133111EB - (1 << 64)


class RandomEncoder(Untrained):
    """Independent normal numbers, drawn by a hash of the user's whole history.

    An encoder is not told user ids, so the history stands for the user: the same events give the
    same vector, in every process and whoever else is there; one more event gives another.

    Args:
        codes: V; items behind the vocabulary count as unknown ones.
        settings: see :class:`RandomSettings`.
    """

    def __init__(self, codes: int, settings: RandomSettings) -> None:
        super().__init__(settings.dim)
        self.codes = codes
        self.seed = seed_of("baselines.random", settings.seed)

    def forward(self, batch: SequenceBatch, *, steps: bool = False) -> Encoded:
        """Encode a batch to (B, 1, D)."""
        codes = batch.codes.masked_fill(batch.codes >= self.codes, UNK)
        events = mix(mix(batch.times * _GOLDEN + self.seed) + codes)
        # A sum of whole numbers does not depend on its order.
        sums = torch.zeros_like(batch.lengths).index_add_(0, batch.rows, events)
        state = mix(sums + batch.lengths * _GOLDEN)[:, None]  # (B, 1)
        places = torch.arange(1, self.dim + 1, device=batch.device)
        radius = uniform(mix(state + 2 * places * _GOLDEN))
        angle = uniform(mix(state + (2 * places + 1) * _GOLDEN))
        normal = (-2 * radius.log()).sqrt() * (2 * math.pi * angle).cos()  # Box and Muller
        return Encoded(normal.float()[:, None])


def mix(x: Tensor) -> Tensor:
    """Scramble int64 numbers one to one: the finaliser of splitmix64 (Steele et al. 2014)."""
    x = (x ^ _shift(x, 30)) * _FIRST
    x = (x ^ _shift(x, 27)) * _SECOND
    return x ^ _shift(x, 31)


def uniform(x: Tensor) -> Tensor:
    """Int64 numbers as float64 in (0, 1)."""
    return (_shift(x, 11).double() + 0.5) / 2**53


def _shift(x: Tensor, bits: int) -> Tensor:
    """Shift right as an unsigned number would be."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
