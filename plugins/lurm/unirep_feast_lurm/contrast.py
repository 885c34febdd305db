"""The contrastive loss of items and of users: NT-Xent, Eq 2 and 3."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from unirep_feast.gathering import gather_rows
from unirep_feast_lurm.blocks import full_precision


def nt_xent(
    x: Tensor, y: Tensor, temperature: float, names: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """Let the two halves of each pair find each other among 2n vectors.

    Eq 2 for both directions, averaged over the 2n anchors (Eq 3). The candidates of an anchor are
    a set that lacks the anchor: with ``names``, other copies of the anchor and of its counterpart
    are no candidates either. Under DDP the pairs of all ranks are candidates.

    Args:
        x: (n, d) float, any norm.
        y: (n, d) float; y[i] is the counterpart of x[i].
        temperature: tau.
        names: what each vector is of, ((n,), (n,)) int64; None: all are of different things.

    Returns:
        The loss in nats, and the share of anchors whose counterpart is the most similar
        candidate; zeros without a pair.
    """
    x, y = (F.normalize(full_precision(side), dim=-1) for side in (x, y))
    named = () if names is None else names
    (all_x, all_y, *all_names), start, ranks = gather_rows(x, y, *named)
    n, N = len(x), len(all_x)
    if n == 0:
        return (x.sum() + y.sum() + all_x.sum() + all_y.sum()) * 0, x.new_zeros(())
    itself = start + torch.arange(n, device=x.device)
    itself = torch.cat((itself, itself + N))  # (2n,) of the 2N candidates
    counterpart = (itself + N) % (2 * N)
    logits = torch.cat((x, y)) @ torch.cat((all_x, all_y)).T / temperature  # (2n, 2N)
    logits = logits.scatter(1, itself[:, None], -torch.inf)
    if all_names:
        candidates = torch.cat(all_names)
        copies = candidates == candidates[itself][:, None]
        copies |= candidates == candidates[counterpart][:, None]
        logits = logits.masked_fill(copies.scatter(1, counterpart[:, None], False), -torch.inf)
    # Every rank sums over its own anchors, and DDP averages over ranks.
    loss = F.cross_entropy(logits, counterpart, reduction="sum") * ranks / (2 * N)
    found = logits.detach().argmax(1) == counterpart
    return loss, found.float().mean()
