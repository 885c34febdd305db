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


def cosines_at(x: Tensor, items: Tensor, places: Tensor) -> Tensor:
    """Cosine of each vector with a few items of its own.

    Shape:
        x: (n, d) float.
        items: (P, d) float.
        places: (n, m) int64 rows of ``items``.
        returns: (n, m) float in [-1, 1].
    """
    few = F.embedding(places, F.normalize(items, dim=-1))  # (n, m, d)
    return (few @ F.normalize(x, dim=-1)[:, :, None]).squeeze(2)


def closest_vector(cosine: Tensor) -> Tensor:
    """Score by the user's closest vector, Eq 3 without alpha; the gradient goes to that one alone.

    Vectors that are equally close, to the last bit, share it.

    Shape:
        cosine: (B, C, P) float, of each user's C vectors with each item.
        returns: (B, P) float in [-1, 1].
    """
    # A sixteenth of max's time on a CPU, which would look for the place too.
    return cosine.amax(1)


def attended_vectors(cosine: Tensor, scale: float) -> Tensor:
    """Score by all of the user's vectors, weighted by how close they are: Eq 2 without alpha.

    The paper leaves the attention open. Here pi is the softmax over c of ``scale`` times the
    cosine: it sums to one, depends on user and item, and becomes Eq 3 as ``scale`` grows.

    Shape:
        cosine: (B, C, P) float.
        returns: (B, P) float in [-1, 1].
    """
    weights = (scale * cosine).softmax(1)
    return (weights * cosine).sum(1)
