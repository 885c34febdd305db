"""The user model: behavior encoder, behavior context encoder, behavior aggregator (Fig 2)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from unirep_feast.batch import SequenceBatch
from unirep_feast.encoder import Encoded
from unirep_feast.items import ItemTable
from unirep_feast.sequences import Window
from unirep_feast_userbert.aggregators import Aggregator
from unirep_feast_userbert.behaviors import build_behaviors
from unirep_feast_userbert.config import EncoderSettings
from unirep_feast_userbert.context import Context


class UserBertEncoder(nn.Module):
    """One vector per user from interchangeable parts (section 3.1 of Wu et al. 2021).

    A behavior is its item's vector plus that of its place, counted back from the latest behavior. A
    candidate that is to be predicted has no place, so :meth:`embed_items` gives the former alone.

    Args:
        codes: V, number of codes in the vocabulary.
        settings: see :class:`EncoderSettings`.
        prepared: from :func:`~unirep_feast_userbert.behaviors.prepare_behaviors`.
    """

    num_vectors = 1
    depends_on_as_of = False
    provides = frozenset({"steps", "items", "batch_independent"})

    def __init__(
        self, codes: int, settings: EncoderSettings, prepared: Mapping[str, Tensor]
    ) -> None:
        super().__init__()
        self.dim = settings.dim
        self.window = Window(max_events=settings.max_events)
        self.behaviors = build_behaviors(codes, settings, prepared)
        self.places = nn.Embedding(settings.max_events, settings.dim)
        nn.init.normal_(self.places.weight, std=0.02)
        self.dropout = nn.Dropout(settings.dropout)
        self.context = Context(settings)
        self.aggregator = Aggregator(settings.parts.aggregator, settings.dim, settings.query)

    def bind(self, items: ItemTable) -> None:
        """Take in the titles of the item table."""
        self.behaviors.bind(items)

    def forward(self, batch: SequenceBatch, *, steps: bool = False) -> Encoded:
        """Encode a batch."""
        if len(batch) == 0:
            nobody = self.places.weight.new_zeros(0, 1, self.dim)
            return Encoded(nobody, nobody[:, 0] if steps else None)
        back = batch.lengths[batch.rows] - 1 - batch.steps
        embedded = self.behaviors(batch.codes) + self.places(back)  # (N, D)
        x = batch.pad(self.dropout(embedded))  # (B, T, D)
        if not steps and self.aggregator.kind == "last":
            # Nobody asks for the other places: a transformer's last layer is spared them.
            return Encoded(self.context.last(x, batch.mask)[:, None])
        hidden = self.context(x, batch.mask)
        users = self.aggregator(hidden, batch.mask)
        return Encoded(users[:, None], batch.unpad(hidden) if steps else None)

    def embed_items(self, codes: Tensor) -> Tensor:
        """Return (n, D) vectors of (n,) codes as candidates, without a place."""
        rows: Tensor = self.behaviors(codes)
        return rows

    def penalties(self, extras: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """UserBERT's loss has no whole-batch terms."""
        return {}
