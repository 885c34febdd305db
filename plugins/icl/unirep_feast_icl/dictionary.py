"""The interest dictionary: which interests a history shows, and a user vector for each."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from unirep_feast.batch import SequenceBatch
from unirep_feast_icl.behaviors import starting_std
from unirep_feast_icl.packed import block_linear, row_mixes, row_softmax, row_sums

_TINY = 1e-12


class Chosen(NamedTuple):
    """What the dictionary makes of a batch.

    Attributes:
        users: (B, K, D), one vector per chosen interest, the strongest first.
        slots: (B, K) int64, which interests those are.
        scores: (B, M), how strongly each history shows each interest (Eq 4).
    """

    users: Tensor
    slots: Tensor
    scores: Tensor


class InterestDictionary(nn.Module):
    """M trainable interests, of which each history is seen through its own K (section 3.3).

    The choice (Eq 5) carries no gradient; the attention (Eq 7) and the scores (Eq 4), through
    the regulariser, do.

    Args:
        interests: M.
        vectors: K, at most M.
        dim: D.
    """

    def __init__(self, interests: int, vectors: int, dim: int) -> None:
        super().__init__()
        self.vectors = vectors
        self.interests = nn.Parameter(torch.randn(interests, dim) * starting_std(dim))

    def forward(self, e: Tensor, place: Tensor, batch: SequenceBatch) -> Chosen:
        """Aggregate behaviors.

        Shape:
            e: (U, D) embeddings of distinct items.
            place: (N,) int64, which of them each behavior is of.
        """
        dots = block_linear(e, self.interests)  # (U, M)
        norms = e.norm(dim=1)[:, None] * self.interests.norm(dim=1)
        cosines = dots / norms.clamp(min=_TINY)  # b, Eq 3
        scores = row_sums(cosines, place, batch)  # P, Eq 4
        # Stable: of equal scores the lowest index comes first.
        order = scores.detach().sort(dim=1, descending=True, stable=True).indices
        slots = order[:, : self.vectors]  # d, Eq 5
        flat = place[:, None] * len(self.interests) + slots[batch.rows]  # (N, K)
        chosen = dots.flatten().gather(0, flat.flatten()).view_as(flat)  # c* · e, Eq 6
        weights = row_softmax(chosen, batch)  # Eq 7
        return Chosen(row_mixes(e, weights, place, batch), slots, scores)  # Eq 8


def regulariser(scores: Tensor, filled: Tensor) -> Tensor:
    """Sum over interests of the squared deviation of the mean score from its mean, Eq 9-10.

    Shape:
        scores: (B, M), from Eq 4, of all sets encoded in a step.
        filled: (B,) bool, False for rows without behaviors, which are no sample.
        returns: ().
    """
    count = filled.sum().clamp(min=1)
    mean = (scores * filled[:, None]).sum(0) / count  # (M,), Eq 9
    return (mean - mean.mean()).square().sum()  # Eq 10
