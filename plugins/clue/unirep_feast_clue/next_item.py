"""Softmax over all items for the next one: fine-tuning for sequential recommendation."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unirep_feast.batch import SequenceBatch
from unirep_feast.encoder import Encoder
from unirep_feast.errors import ContractError
from unirep_feast.objective import Losses, Views
from unirep_feast_clue.config import NextItemLossSettings
from unirep_feast_clue.heads import full_precision
from unirep_feast_clue.metrics import ranking


class NextItemObjective(nn.Module):
    """Cross-entropy of the true next item among all candidates, which are never sampled.

    A candidate's score is its embedding times the user vector (the best of them, if K > 1).
    Metrics: ``mrr_at_10``, ``recall_at_10``, ``accuracy`` and ``n``, over the full ranking.

    Args:
        settings: see :class:`NextItemLossSettings`.
    """

    requires = frozenset({"items"})
    views = frozenset({"history", "target", "candidates"})
    validate_with_dropout = False
    trains_encoder = True

    def __init__(self, settings: NextItemLossSettings) -> None:
        super().__init__()
        self.label_smoothing = settings.label_smoothing

    def forward(self, encoder: Encoder, views: Views) -> Losses:
        """Score a batch; the term is ``next_item``, in nats."""
        history, target, candidates = views["history"], views["target"], views["candidates"]
        if not (
            isinstance(history, SequenceBatch)
            and isinstance(target, Tensor)
            and isinstance(candidates, Tensor)
        ):
            raise ContractError(
                "clue.next_item: wanted a batch of histories, (B,) target codes and (C,) candidates"
            )
        users = encoder(history).users  # (B, K, D)
        items = encoder.embed_items(candidates)  # (C, D)
        scores = full_precision((users @ items.T).amax(1))  # (B, C)
        if len(users) == 0:
            return Losses({"next_item": scores.sum()}, {})
        column = torch.searchsorted(candidates, target)
        loss = F.cross_entropy(scores, column, label_smoothing=self.label_smoothing)
        with torch.no_grad():
            return Losses({"next_item": loss}, ranking(scores, column))
