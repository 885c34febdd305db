"""Medium-hard negatives: of a pool of candidates, the most similar that are no mistake (3.3)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from unirep_feast.batch import SequenceBatch
from unirep_feast.encoder import Encoder


class Chosen(NamedTuple):
    """Negatives of n targets.

    Attributes:
        columns: (n, K) int64 columns of the pool; anything where there was no valid one left.
        valid: (n, K) bool.
    """

    columns: Tensor
    valid: Tensor


def most_similar(targets: Tensor, pool: Tensor, barred: Tensor, count: int) -> Chosen:
    """Choose for each target the candidates with the highest cosine.

    Args:
        targets: (n, D) float; no gradient is taken.
        pool: (m, D) float.
        barred: (n, m) bool, what must not be chosen.
        count: K.
    """
    with torch.no_grad(), torch.autocast(targets.device.type, enabled=False):
        cosine = F.normalize(full(targets), dim=1) @ F.normalize(full(pool), dim=1).T
    return _top(cosine, barred, count)


def at_random(barred: Tensor, count: int) -> Chosen:
    """Choose candidates for each target evenly, each at most once; see :func:`most_similar`."""
    return _top(torch.rand(barred.shape, device=barred.device), barred, count)


def same_content(targets: Tensor, pool: Tensor) -> Tensor:
    """Candidates that say the same as a target, "identical [ones] are filtered": (n, m) bool.

    Args:
        targets: (n, 2) int64 item codes and contents.
        pool: (m, 2) int64.
    """
    return targets[:, None, 1] == pool[None, :, 1]


def own_or_overlapping(first: SequenceBatch, pool: SequenceBatch) -> Tensor:
    """Sequences that are no negatives of A: its user's own, and those that overlap it in time.

    Equal end and start is overlap.

    Args:
        first: b rows, A, none empty.
        pool: u rows, none empty.

    Returns:
        (b, u) bool.
    """
    own = first.users[:, None] == pool.users
    begins, ends = first.times[first.first], first.times[first.last]
    overlaps = (pool.times[pool.first] <= ends[:, None]) & (
        pool.times[pool.last] >= begins[:, None]
    )
    return own | overlaps


@contextmanager
def without_training(encoder: Encoder) -> Iterator[None]:
    """Let an encoder help to choose: no gradient, no dropout."""
    training = bool(getattr(encoder, "training", False))
    # The host may hand a stand-in; both give the module's own methods.
    module: torch.nn.Module = encoder  # type: ignore[assignment]
    try:
        if training:
            module.eval()
        with torch.no_grad():
            yield
    finally:
        if training:
            module.train()


def full(x: Tensor) -> Tensor:
    """Half-precision numbers (autocast) as float32, others untouched."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def _top(score: Tensor, barred: Tensor, count: int) -> Chosen:
    score = score.masked_fill(barred, -torch.inf)
    missing = count - score.shape[1]
    if missing > 0:  # a small pool
        score = F.pad(score, (0, missing), value=-torch.inf)
    best, index = score.topk(count, dim=1)
    valid = best > -torch.inf
    return Chosen(index.masked_fill(~valid, 0), valid)
