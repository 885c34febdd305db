"""ICL's encoder: behavior embeddings aggregated with an interest dictionary."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from unirep_feast.batch import SequenceBatch
from unirep_feast.encoder import Encoded
from unirep_feast.items import ItemTable
from unirep_feast.sequences import Window
from unirep_feast_icl.behaviors import build_behaviors
from unirep_feast_icl.config import EncoderSettings
from unirep_feast_icl.dictionary import InterestDictionary, regulariser
from unirep_feast_icl.packed import distinct_items, row_sums


class IclEncoder(nn.Module):
    """K vectors per user, each the behaviors as one of the user's interests sees them (Eq 2-8).

    ``slots`` says which interests those are: vectors come in order of rank, and rank 1 of one user
    is another interest than rank 1 of the next. User vectors are convex sums of behavior
    embeddings, so items live in the same space.

    Args:
        codes: V, number of codes in the vocabulary, PAD, MASK and UNK included.
        settings: see :class:`EncoderSettings`; with ``aggregation: mean`` there is no dictionary
            and the one vector is the average behavior.
        prepared: from :func:`~unirep_feast_icl.behaviors.prepare_behaviors`.
    """

    depends_on_as_of = False

    def __init__(
        self, codes: int, settings: EncoderSettings, prepared: Mapping[str, Tensor]
    ) -> None:
        super().__init__()
        self.num_vectors, self.dim = settings.vectors, settings.dim
        self.window = Window(max_events=settings.max_events)
        self.gamma = settings.regulariser
        self.behaviors = build_behaviors(codes, settings, prepared)
        self.dictionary = (
            InterestDictionary(settings.interests, settings.vectors, settings.dim)
            if settings.aggregation == "dictionary"
            else None
        )
        slots = set() if self.dictionary is None else {"slots"}
        self.provides = frozenset({"items", "batch_independent", "packed"} | slots)

    def bind(self, items: ItemTable) -> None:
        """Take in the titles of the item table."""
        self.behaviors.bind(items)

    def forward(self, batch: SequenceBatch, *, steps: bool = False) -> Encoded:
        """Encode a batch; cost follows behaviors and distinct items, not padding."""
        codes, place = distinct_items(batch)
        e: Tensor = self.behaviors(codes)  # (U, D)
        if self.dictionary is None:
            return Encoded(row_sums(e, place, batch, mode="mean")[:, None])
        chosen = self.dictionary(e, place, batch)
        extras = {"slots": chosen.slots}
        if self.gamma:
            extras |= {"scores": chosen.scores, "filled": batch.lengths > 0}
        return Encoded(chosen.users, None, extras)

    def embed_items(self, codes: Tensor) -> Tensor:
        """Return (n, D) behavior embeddings of (n,) codes."""
        rows: Tensor = self.behaviors(codes)
        return rows

    def penalties(self, extras: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return ``regulariser``, gamma times Eq 10 over all sets encoded in the step."""
        if "scores" not in extras:
            return {}
        return {"regulariser": self.gamma * regulariser(extras["scores"], extras["filled"])}
