"""One behavior as numbers: the mean of its words, or its item's own (section 3.2)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from unirep_feast.batch import FIRST_ITEM, PAD, UNK
from unirep_feast.errors import EventsError
from unirep_feast.item_vectors import begin_items
from unirep_feast.item_words import MeanWords, fit_words
from unirep_feast.items import ItemTable
from unirep_feast_icl.config import BehaviorSettings


class Behaviors(nn.Module, ABC):
    """Embeds item codes; an item's numbers are the same to the last bit beside any others."""

    @abstractmethod
    def bind(self, items: ItemTable) -> None:
        """Take in the run-time item table."""

    @abstractmethod
    def forward(self, codes: Tensor) -> Tensor:
        """Embed (n,) int64 item codes, PAD, MASK and UNK among them, to (n, D)."""


class TextBehaviors(Behaviors):
    """The mean embedding of the words of an item's title, Eq 2.

    Words that the vocabulary does not know are left out. MASK, and items without any known word,
    have a learnt vector of their own each: a behavior is never nothing.

    Args:
        settings: see :class:`BehaviorSettings`.
        prepared: from :func:`prepare_behaviors`.
    """

    def __init__(self, settings: BehaviorSettings, prepared: Mapping[str, Tensor]) -> None:
        super().__init__()
        std = starting_std(settings.dim)
        self.titles = MeanWords(prepared, settings.text, settings.dim, std)
        self.wordless = _embedding(FIRST_ITEM, settings.dim)

    def bind(self, items: ItemTable) -> None:
        """Pack the titles of the item table."""
        self.titles.bind(items)

    def forward(self, codes: Tensor) -> Tensor:
        """Embed codes; see :class:`Behaviors`."""
        means: Tensor = self.titles.rows(codes)  # (n, D)
        named = self.titles.known(codes)
        return torch.where(named[:, None], means, self.wordless(codes.clamp(max=UNK)))


class IdBehaviors(Behaviors):
    """One embedding per item of the vocabulary; all others share UNK's."""

    def __init__(self, codes: int, dim: int, prepared: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.items = _embedding(codes, dim)
        begin_items(self.items.weight, prepared)

    def bind(self, items: ItemTable) -> None:
        """Accept an item table; only ids are read."""

    def forward(self, codes: Tensor) -> Tensor:
        """Embed codes; see :class:`Behaviors`."""
        known = codes.masked_fill(codes >= self.items.num_embeddings, UNK)
        rows: Tensor = self.items(known)
        return rows


def prepare_behaviors(settings: BehaviorSettings, items: ItemTable) -> dict[str, Tensor]:
    """Fit the words of titles, for an encoder's ``prepare``; nothing for ids.

    Raises:
        EventsError: titles are wanted and there is not one word.
    """
    if settings.behavior == "id":
        return {}
    prepared = fit_words(items, settings.text)
    if not len(prepared["words.lengths"]):
        raise EventsError(
            "icl reads item titles, but none of the items seen before the training cut-off has a "
            f"word that occurs {settings.text.min_count} times; name a table with titles under "
            "`items`, or set encoder.settings.behavior: id"
        )
    return prepared


def build_behaviors(
    codes: int, settings: BehaviorSettings, prepared: Mapping[str, Tensor]
) -> Behaviors:
    """Build what the settings ask for, over V ``codes``."""
    if settings.behavior == "id":
        return IdBehaviors(codes, settings.dim, prepared)
    return TextBehaviors(settings, prepared)


def starting_std(dim: int) -> float:
    """Standard deviation of embeddings to begin with: products of two vectors are of order 1.

    With the usual 1 / √D they are of order 1 / √D, the softmax of Eq 7 starts out even, and all K
    vectors of a user are the same average.
    """
    return float(dim**-0.25)


def _embedding(rows: int, dim: int) -> nn.Embedding:
    table = nn.Embedding(rows, dim, padding_idx=PAD)
    nn.init.normal_(table.weight, std=starting_std(dim))
    with torch.no_grad():
        table.weight[PAD] = 0
    return table
