"""How alike two sets of vectors are: every vector's best match, summed (Eq 14 and 16)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

#: Cosines held at once, in numbers.
_AT_ONCE = 1 << 22


def interest_similarity(anchors: Tensor, sets: Tensor, at_once: int = _AT_ONCE) -> Tensor:
    """Score every anchor set against every other: Σ_i max_j cos(anchor_i, other_j).

    Not symmetric: each vector of the anchor looks for its best match. The gradient reaches that
    match alone. Cosines come in chunks of anchors, and of each chunk only the places of the best
    are kept for the backward pass: memory is b·K·B numbers, and no (b, B, K, K, W) ever exists.

    Args:
        anchors: (b, K, W) float, any norm.
        sets: (B, K', W) float, any norm.
        at_once: how many cosines a chunk may hold; one anchor at least is taken.

    Returns:
        (b, B) float in [-K, K].
    """
    anchors, sets = F.normalize(anchors, dim=-1), F.normalize(sets, dim=-1)
    (_, K, _), (B, others, _) = anchors.shape, sets.shape
    flat = sets.flatten(0, 1)  # (B * K', W)
    rows = max(at_once // (K * B * others), 1)
    scores = []
    for chunk in torch.split(anchors, rows):
        cosines = chunk.flatten(0, 1) @ flat.T  # (c * K, B * K')
        best = cosines.view(len(chunk), K, B, others).max(-1).values  # (c, K, B)
        scores.append(best.sum(1))
    return torch.cat(scores)


def concatenated_similarity(anchors: Tensor, sets: Tensor) -> Tensor:
    """Score sets by one cosine of all their vectors end to end, the ablation of Fig 2.

    Shape:
        anchors: (b, K, W).
        sets: (B, K, W).
        returns: (b, B) in [-1, 1].
    """
    return F.normalize(anchors.flatten(1), dim=-1) @ F.normalize(sets.flatten(1), dim=-1).T
