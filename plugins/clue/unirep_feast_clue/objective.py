"""CLUE's loss: two views of a user should predict each other, without negatives."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unirep_feast.batch import SequenceBatch
from unirep_feast.encoder import Encoder
from unirep_feast.errors import ContractError
from unirep_feast.objective import Losses, Views
from unirep_feast_clue.config import ObjectiveSettings
from unirep_feast_clue.heads import Predictor, Projector, full_precision, normalizes_batches
from unirep_feast_clue.metrics import alignment, spread, uniformity


def negative_cosine(p: Tensor, z: Tensor) -> Tensor:
    """Distance of predictions and projections, Eq 4, averaged over users.

    Shape:
        p, z: (B, D) float, any norm.
        returns: () float in [-1, 1].
    """
    return -F.cosine_similarity(p, z, dim=-1).mean()


class ClueObjective(nn.Module):
    """Symmetrised negative cosine with stop-gradient, Eq 4-7 and Algorithm 1.

    f is backbone and projector, h the predictor: ``z_i = f(view_i)``, ``p_i = h(z_i)``, and each
    p meets the other view's z. The two views pass the heads one after the other, so that batch norm
    takes its statistics per view. Heads have no dropout. A batch of one user, which batch norm
    cannot take, contributes nothing.

    Args:
        numbers: per user, K x D of the encoder.
        settings: see :class:`ObjectiveSettings`; ``predictor`` and ``stop_gradient`` are the
            ablations of section V-E.
    """

    requires: frozenset[str] = frozenset()
    views = frozenset({"first", "second"})
    validate_with_dropout = True
    trains_encoder = True

    def __init__(self, numbers: int, settings: ObjectiveSettings) -> None:
        super().__init__()
        self.projector = Projector(numbers, settings.projector)
        self.predictor = (
            Predictor(settings.projector, settings.bottleneck)
            if settings.predictor
            else nn.Identity()
        )
        self.stop_gradient = settings.stop_gradient

    def forward(self, encoder: Encoder, views: Views) -> Losses:
        """Score a batch; the term is ``contrast`` (Eq 7, or Eq 5 without stop-gradient)."""
        first, second = views["first"], views["second"]
        if not (isinstance(first, SequenceBatch) and isinstance(second, SequenceBatch)):
            raise ContractError("clue: the views first and second must be batches of histories")
        x1 = full_precision(encoder(first).users.flatten(1))  # (B, K * D)
        x2 = full_precision(encoder(second).users.flatten(1))
        if len(x1) < 2 and normalizes_batches(self):
            return Losses({"contrast": 0 * (x1.sum() + x2.sum())}, {})
        z1, z2 = self.projector(x1), self.projector(x2)  # (B, W)
        p1, p2 = self.predictor(z1), self.predictor(z2)
        z1, z2, p1, p2 = (full_precision(x) for x in (z1, z2, p1, p2))
        t1, t2 = (z1.detach(), z2.detach()) if self.stop_gradient else (z1, z2)
        loss = 0.5 * negative_cosine(p1, t2) + 0.5 * negative_cosine(p2, t1)
        with torch.no_grad():
            metrics = {
                "projector_std": (spread(z1) + spread(z2)) / 2,
                "alignment": alignment(x1, x2),
                "uniformity": (uniformity(x1) + uniformity(x2)) / 2,
            }
        return Losses({"contrast": loss}, metrics)
