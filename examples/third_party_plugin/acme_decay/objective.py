"""What a user does in the next days, told from what the others of the batch do."""

from __future__ import annotations

import torch
from torch import nn

from acme_decay.config import ObjectiveSettings
from unirep_feast.batch import SequenceBatch
from unirep_feast.encoder import Encoder
from unirep_feast.errors import ContractError
from unirep_feast.objective import Losses, Views


class NextDays(nn.Module):
    """Minus the log share of the softmax over the batch's coming items that is a user's own.

    An item scores by the best of the user's vectors. Items that several users are about to touch
    are right for each of them.

    Args:
        settings: see :class:`ObjectiveSettings`.
    """

    requires = frozenset({"items"})
    views = frozenset({"history", "future"})
    validate_with_dropout = False
    trains_encoder = True

    def __init__(self, settings: ObjectiveSettings) -> None:
        super().__init__()
        self.temperature = settings.temperature

    def forward(self, encoder: Encoder, views: Views) -> Losses:
        """Score B users over the M events of their next days; `next_days` is in nats."""
        history, future = views["history"], views["future"]
        if not (isinstance(history, SequenceBatch) and isinstance(future, SequenceBatch)):
            raise ContractError("the views history and future must be batches of histories")
        users = encoder(history).users  # (B, K, D)
        items = encoder.embed_items(future.codes)  # (M, D)
        scores = (users @ items.T).amax(1) / self.temperature  # (B, M)
        own = torch.zeros_like(scores)
        own[future.rows, torch.arange(len(items), device=items.device)] = 1.0
        same = (future.codes[:, None] == future.codes).to(own.dtype)  # (M, M)
        right = own @ same > 0  # (B, M)
        mass = torch.logsumexp(scores, 1) - torch.logsumexp(
            scores.masked_fill(~right, -torch.inf), 1
        )
        hits = right[torch.arange(len(right), device=right.device), scores.argmax(1)]
        return Losses({"next_days": mass.mean()}, {"hit_rate": hits.float().mean()})
