"""What most baselines have in common, as encoders."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from unirep_feast.batch import FIRST_ITEM, PAD, SequenceBatch
from unirep_feast.errors import ContractError
from unirep_feast.items import ItemTable
from unirep_feast.sequences import Window


class Untrained(nn.Module):
    """One vector per user, of whatever ``prepare`` fitted; nothing learnt by gradient."""

    num_vectors = 1
    depends_on_as_of = False
    window = Window()
    provides: frozenset[str] = frozenset({"batch_independent"})

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def bind(self, items: ItemTable) -> None:
        """Accept an item table; only codes are read."""

    def embed_items(self, codes: Tensor) -> Tensor:
        """Refuse: there are no item vectors."""
        raise ContractError(f"{type(self).__name__} has no item vectors")

    def penalties(self, extras: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """There is no loss."""
        return {}


class ItemTableEncoder(Untrained):
    """An encoder on a fitted table of item vectors; items without a row are zeros.

    Args:
        table: (V, D) float32 by item code, zeros for PAD, MASK and UNK.
    """

    provides = frozenset({"items", "batch_independent"})
    table: Tensor

    def __init__(self, table: Tensor) -> None:
        super().__init__(table.shape[1])
        self.register_buffer("table", table.float())

    def known(self, codes: Tensor) -> Tensor:
        """Say which of some codes have a row: bool of the same shape."""
        return (codes >= FIRST_ITEM) & (codes < len(self.table))

    def embed_items(self, codes: Tensor) -> Tensor:
        """Return the (n, D) rows of (n,) codes."""
        return self.table[codes.masked_fill(~self.known(codes), PAD)]


def seconds_of(batch: SequenceBatch) -> Tensor:
    """(N,) float64 seconds from each event to its row's as-of time, at least 0."""
    age = batch.as_of[batch.rows] - batch.times
    return age.clamp(min=0).to(torch.float64) / 1e6
