"""Histories in, one decayed sum of item embeddings per half-life out."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from acme_decay.config import EncoderSettings
from unirep_feast.batch import PAD, UNK, SequenceBatch
from unirep_feast.encoder import Encoded, Window
from unirep_feast.instants import MICROSECONDS_PER_DAY
from unirep_feast.items import ItemTable


class DecayEncoder(nn.Module):
    """Vector k is sum(w e) / (shrinkage + sum(w)), w = 2^-(age / half-life k), e an embedding.

    Ages are counted from the user's latest event, not from T: a vector changes with events only,
    so `unirep encode --incremental` may carry it over, and a stream may keep it up to date with
    one multiplication per event (:mod:`acme_decay.streaming`).

    Args:
        codes: V, number of codes in the vocabulary.
        settings: see :class:`EncoderSettings`.
    """

    depends_on_as_of = False
    provides = frozenset({"items", "batch_independent"})

    def __init__(self, codes: int, settings: EncoderSettings) -> None:
        super().__init__()
        self.codes = codes
        self.num_vectors = len(settings.half_lives_days)  # K
        self.dim = settings.dim  # D
        self.window = Window(max_events=settings.max_events)
        self.shrinkage = settings.shrinkage
        self.items = nn.Embedding(codes, settings.dim, padding_idx=PAD)
        half_lives = torch.tensor(settings.half_lives_days, dtype=torch.float32)
        self.register_buffer("half_lives_days", half_lives)

    def bind(self, items: ItemTable) -> None:
        """Take in titles and categories; this encoder reads none."""

    def forward(self, batch: SequenceBatch, *, steps: bool = False) -> Encoded:
        """Encode a batch; rows without events become zeros."""
        embedded = self.embed_items(batch.pad(batch.codes))  # (B, T, D), zero where there is none
        times = batch.pad(batch.times)  # (B, T) microseconds
        latest = times.amax(1, keepdim=True)
        days = ((latest - times).double() / MICROSECONDS_PER_DAY).float()
        weights = torch.exp2(-days[..., None] / self.half_lives_days)  # (B, T, K)
        weights = weights.masked_fill(~batch.mask[..., None], 0.0)
        sums = weights.transpose(1, 2) @ embedded  # (B, K, D)
        return Encoded(sums / (self.shrinkage + weights.sum(1)[..., None]))

    def embed_items(self, codes: Tensor) -> Tensor:
        """Return (..., D) vectors of (...) item codes; those behind the vocabulary are UNK."""
        embedded: Tensor = self.items(codes.masked_fill(codes >= self.codes, UNK))
        return embedded

    def penalties(self, extras: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Loss terms over a whole batch; there are none."""
        return {}
