"""What is logged beside a loss: spread of representations, and full-ranking metrics."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def spread(z: Tensor) -> Tensor:
    """Tell a collapsed projector from a healthy one.

    The standard deviation over the batch of the l2-normalised outputs, averaged over dimensions,
    times the square root of their number: 1 if they spread evenly over the sphere, 0 if all users
    fall on one point (Chen & He 2021, Fig 2). The loss alone tells nothing: it is -1 for both.

    Shape:
        z: (B, D) float, B >= 2.
        returns: () float in [0, 1].
    """
    normalized = F.normalize(z, dim=-1)
    deviation: Tensor = normalized.std(0, correction=0)  # (D,)
    return deviation.mean() * float(z.shape[1] ** 0.5)


def alignment(x: Tensor, y: Tensor) -> Tensor:
    """Mean squared distance of the normalised vectors of two views (Wang & Isola 2020).

    Shape:
        x, y: (B, D) float, rows of one user.
        returns: () float in [0, 4]; low is good.
    """
    return (F.normalize(x, dim=-1) - F.normalize(y, dim=-1)).pow(2).sum(-1).mean()


def uniformity(x: Tensor) -> Tensor:
    """Log of the mean over pairs of users of exp(-2 squared distance) (Wang & Isola 2020).

    Shape:
        x: (B, D) float, normalised here.
        returns: () float in [-8, 0]; low is spread out, 0 is collapsed. NaN for one row.
    """
    x = F.normalize(x, dim=-1)
    pairs = len(x) * (len(x) - 1)
    closeness = torch.exp(4 * (x @ x.T) - 4)  # ||a - b||^2 = 2 - 2 ab
    return ((closeness.sum() - closeness.diagonal().sum()) / pairs).log()


def ranks(scores: Tensor, target: Tensor) -> Tensor:
    """Rank each row's target among all candidates, none of them sampled.

    Ties count against the target: a model that scores everything alike ranks nothing.

    Shape:
        scores: (B, C) float.
        target: (B,) int64 column of the true candidate.
        returns: (B,) int64, 1 for the best.
    """
    # Not "greater or equal": a NaN must not rank first.
    return (~(scores < scores.gather(1, target[:, None]))).sum(1)


def ranking(scores: Tensor, target: Tensor, at: int = 10) -> dict[str, Tensor]:
    """Compute the metrics of section V over a full ranking.

    Args:
        scores: (B, C) float.
        target: (B,) int64 column of the true candidate.
        at: length of the list that is looked at.

    Returns:
        () floats ``mrr_at_<at>``, ``recall_at_<at>`` and ``accuracy``, means over rows, and ``n``
        rows they are means of.
    """
    rank = ranks(scores.detach(), target).float()
    found = rank <= at
    return {
        f"mrr_at_{at}": (found / rank).mean(),
        f"recall_at_{at}": found.float().mean(),
        "accuracy": (rank == 1).float().mean(),
        "n": rank.new_tensor(float(len(rank))),
    }
