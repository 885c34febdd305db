"""Fine-tuning on clicks: does a user, as of now, click on what is shown?"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unirep_feast.batch import SequenceBatch
from unirep_feast.encoder import Encoder
from unirep_feast.errors import ContractError
from unirep_feast.objective import Losses, Views
from unirep_feast_userbert.config import ClickSettings
from unirep_feast_userbert.negatives import full


class ClickObjective(nn.Module):
    """Binary cross-entropy of ``scale · (user · item) + bias``, the best of several user vectors.

    Metrics: ``auc`` and ``average_precision`` among the impressions of the batch, and ``clicks``,
    the share of them that were clicked. With one kind of impression both are what chance gives.

    Args:
        settings: see :class:`ClickSettings`; ``frozen`` trains scale and bias alone.
    """

    requires = frozenset({"items"})
    views = frozenset({"history", "item", "clicked"})
    validate_with_dropout = False

    def __init__(self, settings: ClickSettings) -> None:
        super().__init__()
        self.trains_encoder = not settings.frozen
        self.scale = nn.Parameter(torch.ones(()))
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, encoder: Encoder, views: Views) -> Losses:
        """Score a batch; the term is ``click``, in nats."""
        history, item, clicked = views["history"], views["item"], views["clicked"]
        if not (
            isinstance(history, SequenceBatch)
            and isinstance(item, Tensor)
            and isinstance(clicked, Tensor)
        ):
            raise ContractError(
                "userbert.ctr: wanted a batch of histories as view history, and (B,) tensors as "
                "views item and clicked"
            )
        with torch.set_grad_enabled(self.trains_encoder and torch.is_grad_enabled()):
            users = full(encoder(history).users)  # (B, K, D)
            items = full(encoder.embed_items(item))  # (B, D)
            dots = torch.einsum("bkd,bd->bk", users, items).amax(1)
        logits = self.scale * dots + self.bias
        loss = F.binary_cross_entropy_with_logits(logits, clicked.to(logits.dtype))
        with torch.no_grad():
            metrics = {
                "auc": auc(logits, clicked),
                "average_precision": average_precision(logits, clicked),
                "clicks": clicked.float().mean(),
            }
        return Losses({"click": loss}, metrics)


def auc(scores: Tensor, clicked: Tensor) -> Tensor:
    """Chance that a click scores above what was not clicked, ties half; 0.5 without either kind.

    Shape:
        scores: (n,) float; clicked: (n,) int64, 0 or 1; returns () float.
    """
    ordered, order = torch.sort(scores)
    _, group, counts = torch.unique_consecutive(ordered, return_inverse=True, return_counts=True)
    ends = counts.cumsum(0).double()
    rank = (ends - (counts - 1) / 2)[group]  # mean rank of what is tied
    hit = clicked[order] == 1
    clicks, others = int(hit.sum()), int((~hit).sum())
    if clicks == 0 or others == 0:
        return scores.new_tensor(0.5)
    area: Tensor = (rank[hit].sum() - clicks * (clicks + 1) / 2) / (clicks * others)
    return area.to(scores.dtype)


def average_precision(scores: Tensor, clicked: Tensor) -> Tensor:
    """Mean precision at each click, best score first; equal scores come together.

    Shape:
        scores: (n,) float; clicked: (n,) int64, 0 or 1; returns () float, 0 without a click.
    """
    ordered, order = torch.sort(scores, descending=True)
    hit = (clicked[order] == 1).double()
    _, group, counts = torch.unique_consecutive(ordered, return_inverse=True, return_counts=True)
    last = (counts.cumsum(0) - 1)[group]  # where the run of equal scores ends
    precision = hit.cumsum(0)[last] / (last + 1)
    mean: Tensor = (precision * hit).sum() / hit.sum().clamp(min=1)
    return mean.to(scores.dtype)
