"""How well a user, a set of vectors, goes with an item: Eq 2 and Eq 3."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def cosines(x: Tensor, items: Tensor) -> Tensor:
    """Cosine of every vector with every item, in one matrix product.

    Shape:
        x: (..., d) float.
        items: (P, d) float.
        returns: (..., P) float in [-1, 1].
    """
    return F.normalize(x, dim=-1) @ F.normalize(items, dim=-1).T


def closest_vector(cosine: Tensor, alpha: float) -> Tensor:
    """Score by the user's closest vector, Eq 3; the gradient goes to that one alone.

    Shape:
        cosine: (B, C, P) float, of each user's C vectors with each item.
        returns: (B, P) float in [-alpha, alpha].
    """
    return alpha * cosine.max(1).values


def attended_vectors(cosine: Tensor, alpha: float, scale: float) -> Tensor:
    """Score by all of the user's vectors, weighted by how close they are to the item, Eq 2.

    The paper leaves the attention open. Here pi is the softmax over c of ``scale`` times the
    cosine: it sums to one, depends on user and item, and becomes Eq 3 as ``scale`` grows.

    Shape:
        cosine: (B, C, P) float.
        returns: (B, P) float in [-alpha, alpha].
    """
    weights = (scale * cosine).softmax(1)
    return alpha * (weights * cosine).sum(1)
