"""GUIM's encoder: tokens [CLS] and a user's items through a transformer, one vector per [CLS]."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unirep_feast.batch import MASK, SequenceBatch
from unirep_feast.encoder import Encoded, Steps
from unirep_feast.instants import MICROSECONDS_PER_DAY
from unirep_feast.items import ItemTable
from unirep_feast.sequences import Window
from unirep_feast_guim.bert import HeadVectors, Layer, head_count, one_layer
from unirep_feast_guim.config import EncoderSettings
from unirep_feast_guim.dropout import Dropout
from unirep_feast_guim.item_embedding import ItemEmbedding
from unirep_feast_guim.layout import Layout


class GuimEncoder(nn.Module):
    """C vectors per user, and one per item, in one space (Fig 1 of Yang et al. 2022).

    A history becomes C tokens [CLS] with the special time t0, and one token per event: its item's
    vector, or the MASK vector where a sampler hid the item, plus the embedding of its day within
    the ``history_days`` days before the as-of time. There is no other position: events of one day
    may change places. The same events as of a later day lie on other days, so a vector depends on
    the as-of time too.

    Variants: ``edi`` has one vector of C * d for users and items, with every width in between times
    C; ``mh`` reads the one token [CLS] by C heads as wide as a vector.

    Args:
        codes: V, number of codes in the vocabulary.
        settings: see :class:`EncoderSettings`.
        prepared: vocabularies of words and categories, from ``fit_catalogue``.
    """

    depends_on_as_of = True
    provides = frozenset({"steps", "items", "batch_independent"})

    def __init__(
        self, codes: int, settings: EncoderSettings, prepared: Mapping[str, Tensor]
    ) -> None:
        super().__init__()
        width = settings.width
        self.dim = width
        self.num_vectors = 1 if settings.variant == "edi" else settings.vectors
        self.window = Window(settings.max_events, settings.history_days)
        self.days = settings.history_days
        self.tokens = settings.vectors if settings.variant == "guim" else 1
        self.f_cls = nn.Embedding(self.tokens, width)
        self.f_t = nn.Embedding(1 + settings.history_days, width)  # row 0 is t0
        self.mask = nn.Parameter(torch.empty(width))
        self.dropout = Dropout(settings.dropout)
        heads = head_count(settings.heads, settings.dim, width)
        self.layers = nn.ModuleList(
            Layer(width, heads, settings.dropout) for _ in range(settings.layers)
        )
        self.several: HeadVectors | None = (
            HeadVectors(width, settings.vectors) if settings.variant == "mh" else None
        )
        self.f_u = one_layer(width, width, settings.activation)
        # Tokens [CLS] far enough from each other to see different items, times far below items.
        nn.init.normal_(self.f_cls.weight, std=0.05)
        for table in (self.f_t.weight, self.mask):
            nn.init.normal_(table, std=0.005)
        self.f_j = ItemEmbedding(codes, settings, prepared)

    def bind(self, items: ItemTable) -> None:
        """Read categories and titles of the run-time item table."""
        self.f_j.bind(items)

    def forward(self, batch: SequenceBatch, *, steps: Steps = False) -> Encoded:
        """Encode a batch; the last layer computes no more tokens than are asked for."""
        layout = Layout.of(batch, self.tokens, packed=self.training)
        codes, days = batch.codes, self._days(batch)
        if not layout.packed:
            codes, days = batch.pad(codes), batch.pad(days)
        hidden = codes == MASK
        events = torch.where(hidden[..., None], self.mask, self.f_j(codes)) + self.f_t(days)
        x = layout.join(self.f_cls.weight + self.f_t.weight[0], events)
        x = self.dropout(x)
        for layer in self.layers[:-1]:
            x = layer(x, layout)
        last = cast(Layer, self.layers[-1])
        if not steps and self.several is None:
            return Encoded(self.f_u(last.at(x, layout.heads_of(x), layout)))
        if steps == "masked" and layout.packed and self.several is None:
            return self._at_masked(x, hidden, layout)
        x = last(x, layout)
        heads = layout.heads_of(x) if self.several is None else self.several(x, layout)
        return Encoded(self.f_u(heads), layout.events_of(x) if steps else None)

    def _at_masked(self, x: Tensor, hidden: Tensor, layout: Layout) -> Encoded:
        """Run the last layer for the tokens [CLS] and the masked events, zeros for the others."""
        last = cast(Layer, self.layers[-1])
        events = hidden.nonzero().squeeze(1)
        chosen = layout.chosen(events)
        out = last.at(x, F.embedding(chosen.tokens, x), layout)  # (B, Q, d)
        found = F.embedding(chosen.cells, out.flatten(0, 1))
        steps = out.new_zeros(len(hidden), self.dim).index_copy(0, events, found)
        return Encoded(self.f_u(out[:, : self.tokens]), steps)

    def embed_items(self, codes: Tensor) -> Tensor:
        """Return (n, D) vectors of (n,) codes, without time; of appended items too."""
        vectors: Tensor = self.f_j(codes)
        return vectors

    def penalties(self, extras: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """GUIM's loss has no whole-batch terms."""
        return {}

    def _days(self, batch: SequenceBatch) -> Tensor:
        """(N,) int64 row of each event's day: 1 for the first of the window, ``days`` for the last.

        Events before the window, if a batch holds any, fall on its first day.
        """
        start = batch.as_of - self.days * MICROSECONDS_PER_DAY
        day = (batch.times - start[batch.rows]).div(MICROSECONDS_PER_DAY, rounding_mode="floor")
        return day.clamp(0, self.days - 1) + 1
