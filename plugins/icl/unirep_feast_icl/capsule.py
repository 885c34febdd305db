"""Capsule-K, the rival: behaviors clustered by dynamic routing, as in MIND."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from unirep_feast.batch import SequenceBatch
from unirep_feast.encoder import Encoded
from unirep_feast.items import ItemTable
from unirep_feast.sequences import Window
from unirep_feast_icl.behaviors import build_behaviors
from unirep_feast_icl.config import CapsuleSettings
from unirep_feast_icl.packed import block_linear, distinct_items

_TINY = 1e-12


class CapsuleEncoder(nn.Module):
    """K vectors per user by behavior-to-interest dynamic routing.

    Implements Algorithm 1 of Li et al. (2019), *Multi-Interest Network with Dynamic Routing for
    Recommendation at Tmall*, with one bilinear map S shared by all capsules. K is the same for
    every user. First routing logits are drawn once and kept, by place from the latest behavior:
    MIND draws them anew, so that a user would have other vectors at every call.

    Args:
        codes: V, number of codes in the vocabulary, PAD, MASK and UNK included.
        settings: see :class:`CapsuleSettings`.
        prepared: from :func:`~unirep_feast_icl.behaviors.prepare_behaviors`.
    """

    depends_on_as_of = False
    provides = frozenset({"items", "batch_independent"})
    logits: Tensor

    def __init__(
        self, codes: int, settings: CapsuleSettings, prepared: Mapping[str, Tensor]
    ) -> None:
        super().__init__()
        self.num_vectors, self.dim = settings.vectors, settings.dim
        self.window = Window(max_events=settings.max_events)
        self.iterations = settings.iterations
        self.behaviors = build_behaviors(codes, settings, prepared)
        self.bilinear = nn.Parameter(torch.randn(settings.dim, settings.dim) * settings.dim**-0.5)
        self.register_buffer("logits", torch.randn(settings.max_events, settings.vectors))

    def bind(self, items: ItemTable) -> None:
        """Take in the titles of the item table."""
        self.behaviors.bind(items)

    def forward(self, batch: SequenceBatch, *, steps: bool = False) -> Encoded:
        """Encode a batch."""
        codes, place = distinct_items(batch)
        e: Tensor = self.behaviors(codes)
        low = block_linear(e, self.bilinear)  # S e, (U, D)
        rows = low[batch.pad(place)] * batch.mask[..., None]  # (B, T, D)
        back = batch.lengths[batch.rows] - 1 - batch.steps
        first = batch.pad(self.logits[back])  # (B, T, K)
        return Encoded(route(rows, batch.mask, first, self.iterations))

    def embed_items(self, codes: Tensor) -> Tensor:
        """Return (n, D) mapped behavior embeddings of (n,) codes; capsules are sums of them."""
        return block_linear(self.behaviors(codes), self.bilinear)

    def penalties(self, extras: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Dynamic routing has no whole-batch terms."""
        return {}


def route(low: Tensor, mask: Tensor, logits: Tensor, iterations: int) -> Tensor:
    """Route behavior capsules to interest capsules.

    Each iteration shares every behavior out over the interests by the softmax of its logits, sums
    up and squashes what each interest gets, and adds their agreement to the logits.

    Shape:
        low: (B, T, D) mapped behaviors, zeros where there is none.
        mask: (B, T) bool.
        logits: (B, T, K) to begin with.
        returns: (B, K, D); zeros for rows without behaviors.
    """
    for iteration in range(iterations):
        share = logits.softmax(-1) * mask[..., None]  # (B, T, K)
        capsules = squash(torch.bmm(share.transpose(1, 2), low))  # (B, K, D)
        if iteration < iterations - 1:
            logits = logits + torch.bmm(low, capsules.transpose(1, 2))
    return capsules


def squash(z: Tensor) -> Tensor:
    """Shorten (..., D) vectors to lengths below 1: |z|² / (1 + |z|²) · z / |z|."""
    square = z.square().sum(-1, keepdim=True)
    return z * square / (1 + square) / (square + _TINY).sqrt()
