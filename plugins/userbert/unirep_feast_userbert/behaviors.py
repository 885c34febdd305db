"""The behavior encoder: one behavior as a vector, without its place in the history (Fig 2)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from unirep_feast.batch import FIRST_ITEM, UNK
from unirep_feast.errors import EventsError
from unirep_feast.item_vectors import begin_items
from unirep_feast.item_words import MeanWords, fit_words
from unirep_feast.items import ItemTable
from unirep_feast_userbert.config import EncoderSettings
from unirep_feast_userbert.words import TitleBehaviors


class IdBehaviors(nn.Module):
    """One embedding per item of the vocabulary; all others share UNK's."""

    def __init__(self, codes: int, dim: int, prepared: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.items = nn.Embedding(codes, dim)
        nn.init.normal_(self.items.weight, std=dim**-0.5)
        begin_items(self.items.weight, prepared)

    def bind(self, items: ItemTable) -> None:
        """Accept an item table; only ids are read."""

    def forward(self, codes: Tensor) -> Tensor:
        """Embed (n,) int64 item codes to (n, D)."""
        rows: Tensor = self.items(codes.masked_fill(codes >= self.items.num_embeddings, UNK))
        return rows


class MeanBehaviors(nn.Module):
    """The mean embedding of a title's words; MASK and items without a word have their own."""

    def __init__(self, settings: EncoderSettings, prepared: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.titles = MeanWords(prepared, settings.text, settings.dim)
        self.wordless = nn.Embedding(FIRST_ITEM, settings.dim)
        nn.init.normal_(self.wordless.weight, std=settings.dim**-0.5)
        self.known = FIRST_ITEM

    def bind(self, items: ItemTable) -> None:
        """Pack the titles of the item table."""
        self.titles.bind(items)
        self.known = len(items)

    def forward(self, codes: Tensor) -> Tensor:
        """Embed (n,) int64 item codes to (n, D)."""
        codes = codes.masked_fill(codes >= self.known, UNK)
        means: Tensor = self.titles.rows(codes)
        named = self.titles.known(codes)[:, None]
        return torch.where(named, means, self.wordless(codes.clamp(max=UNK)))


Behaviors = IdBehaviors | MeanBehaviors | TitleBehaviors


def prepare_behaviors(settings: EncoderSettings, items: ItemTable) -> dict[str, Tensor]:
    """Fit the words of titles, for an encoder's ``prepare``; nothing for ids.

    Raises:
        EventsError: titles are wanted and there is not one word.
    """
    if settings.parts.behavior == "id":
        return {}
    prepared = fit_words(items, settings.text)
    if not len(prepared["words.lengths"]):
        raise EventsError(
            "userbert reads item titles, but none of the items seen before the training cut-off "
            f"has a word that occurs {settings.text.min_count} times; name a table with titles "
            "under `items`, or set encoder.settings.behavior: id"
        )
    return prepared


def build_behaviors(
    codes: int, settings: EncoderSettings, prepared: Mapping[str, Tensor]
) -> Behaviors:
    """Build what the settings ask for, over V ``codes``."""
    kind = settings.parts.behavior
    if kind == "id":
        return IdBehaviors(codes, settings.dim, prepared)
    if kind == "words":
        return MeanBehaviors(settings, prepared)
    return TitleBehaviors(settings, prepared)
