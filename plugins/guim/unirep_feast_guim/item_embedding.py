"""f_j: an item's vector from its category, its id and its title."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unirep_feast.batch import FIRST_ITEM, UNK
from unirep_feast.item_vectors import begin_items
from unirep_feast.item_words import MeanWords
from unirep_feast.items import ItemTable
from unirep_feast_guim.bert import one_layer
from unirep_feast_guim.catalogue import Categories
from unirep_feast_guim.config import EncoderSettings


class ItemEmbedding(nn.Module):
    """``v_j = GELU(W [category ; item id ; mean of the title's words] + b)``, section 3.2.

    "We only include the ids of top items and map all the other item ids into one additional common
    id": so items that are not among the top X, and those that training never saw, have equal
    vectors if category and title are equal.

    Args:
        codes: V, number of codes in the vocabulary, the most frequent item first.
        settings: see :class:`EncoderSettings`.
        prepared: what ``fit_catalogue`` gave.
    """

    def __init__(
        self, codes: int, settings: EncoderSettings, prepared: Mapping[str, Tensor]
    ) -> None:
        super().__init__()
        self.listed = min(codes - FIRST_ITEM, settings.top_items)
        self.category = Categories(prepared, settings.category, settings.category_dim)
        self.ids = nn.Embedding(self.listed + 1, settings.item_dim)  # row 0 is the common id
        nn.init.normal_(self.ids.weight, std=settings.item_dim**-0.5)
        with torch.no_grad():
            # Where every item has an id of its own, the common one is never trained: say nothing.
            self.ids.weight[0] = 0
        begin_items(self.ids.weight[1:], prepared, FIRST_ITEM)
        self.words = MeanWords(prepared, settings.text, settings.word_dim)
        inputs = settings.category_dim + settings.item_dim + settings.word_dim
        self.project = one_layer(inputs, settings.width, "gelu")

    def bind(self, items: ItemTable) -> None:
        """Read categories and titles of the run-time item table."""
        self.category.bind(items)
        self.words.bind(items)

    def forward(self, codes: Tensor) -> Tensor:
        """Embed item codes of any shape (...) to (..., d).

        In training each distinct item is computed once. In ``eval()`` all are, so that shapes, and
        with them the last bits, do not depend on which items are asked for together.
        """
        if not self.training:
            return self._rows(codes.flatten()).view(*codes.shape, -1)
        distinct, place = torch.unique(codes, return_inverse=True)
        return F.embedding(place, self._rows(distinct))

    def _rows(self, codes: Tensor) -> Tensor:
        """(n,) codes to (n, d)."""
        codes = codes.masked_fill(codes >= len(self.category), UNK)
        own = (codes >= FIRST_ITEM) & (codes < FIRST_ITEM + self.listed)
        ids = (codes - (FIRST_ITEM - 1)).masked_fill(~own, 0)
        parts = (self.category(codes), self.ids(ids), self.words(codes))
        vectors: Tensor = self.project(torch.cat(parts, -1))
        return vectors
