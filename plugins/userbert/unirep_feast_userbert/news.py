"""Fine-tuning on lists: which of the items shown together does a user, as of then, click on?"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unirep_feast.batch import SequenceBatch
from unirep_feast.encoder import Encoder
from unirep_feast.errors import ContractError
from unirep_feast.objective import Losses, Views
from unirep_feast_userbert.config import NewsSettings
from unirep_feast_userbert.negatives import at_random, full

#: Places that nDCG looks at, as in Table 2.
_CUT = 10


class NewsObjective(nn.Module):
    """Softmax of a click against items of the same list that were not clicked (section 4.1).

    The score of an item is ``scale · (user · item)``, the best of several user vectors. In training
    a click is held against ``negatives`` others, drawn anew at every step; in ``eval()`` against
    all of its list. The term is the mean over clicks.

    Metrics, means over lists and always of whole lists: ``auc`` and ``ndcg_at_10``, as Table 2 has
    them.

    Args:
        settings: see :class:`NewsSettings`; ``frozen`` trains the scale alone.
    """

    requires = frozenset({"items"})
    views = frozenset({"history", "candidates", "rows", "clicked"})
    validate_with_dropout = False

    def __init__(self, settings: NewsSettings) -> None:
        super().__init__()
        self.negatives = settings.negatives
        self.trains_encoder = not settings.frozen
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, encoder: Encoder, views: Views) -> Losses:
        """Score a batch; the term is ``news``, in nats per click."""
        history, items, rows, clicked = (
            views[name] for name in ("history", "candidates", "rows", "clicked")
        )
        if not (
            isinstance(history, SequenceBatch)
            and isinstance(items, Tensor)
            and isinstance(rows, Tensor)
            and isinstance(clicked, Tensor)
        ):
            raise ContractError(
                "userbert.news: wanted a batch of histories as view history, and (C,) tensors as "
                "views candidates, rows and clicked"
            )
        with torch.set_grad_enabled(self.trains_encoder and torch.is_grad_enabled()):
            users = full(encoder(history).users)  # (B, K, D)
            ids, place = torch.unique(items, return_inverse=True)
            vectors = full(encoder.embed_items(ids))
            dots = torch.einsum("ckd,cd->ck", users[rows], F.embedding(place, vectors)).amax(1)
        scores, shown, hit = _grid(self.scale * dots, rows, clicked, len(history))
        row, column = torch.nonzero(hit, as_tuple=True)  # the clicks
        others = scores[row].masked_fill((hit | ~shown)[row], -torch.inf)  # (n, W)
        if self.training:
            chosen = at_random(torch.isneginf(others), self.negatives)
            others = others.gather(1, chosen.columns).masked_fill(~chosen.valid, -torch.inf)
        logits = torch.cat((scores[row, column][:, None], others), 1)
        target = torch.zeros(len(logits), dtype=torch.int64, device=logits.device)
        loss = F.cross_entropy(logits, target, reduction="sum") / max(len(logits), 1)
        with torch.no_grad():
            metrics = {
                "auc": list_auc(scores, shown, hit).mean(),
                "ndcg_at_10": ndcg(scores, shown, hit, _CUT).mean(),
            }
        return Losses({"news": loss}, metrics)


def list_auc(scores: Tensor, shown: Tensor, clicked: Tensor) -> Tensor:
    """Chance that a click of a list scores above one of its other items, ties half.

    Shape:
        scores: (B, W) float; shown: (B, W) bool, where an item stands; clicked: (B, W) bool, where
        it was clicked; returns (B,) float, 0.5 for a list with only one of both.
    """
    row, column = torch.nonzero(clicked, as_tuple=True)
    mine, others = scores[row, column][:, None], (shown & ~clicked)[row]
    wins = ((scores[row] < mine) & others).sum(1) + ((scores[row] == mine) & others).sum(1) / 2
    won = torch.zeros(len(scores), dtype=torch.float64, device=scores.device)
    won.index_add_(0, row, wins.double())
    pairs = clicked.sum(1) * (shown & ~clicked).sum(1)
    return torch.where(pairs > 0, won / pairs.clamp(min=1), 0.5).to(scores.dtype)


def ndcg(scores: Tensor, shown: Tensor, clicked: Tensor, cut: int) -> Tensor:
    """Normalised discounted cumulative gain of the first ``cut`` places of each list.

    A click at place p gains 1 / log2(p + 1) (Järvelin and Kekäläinen 2002). Items of equal score
    share the mean gain of their places, which is what a random order among them has on average.

    Shape:
        as :func:`list_auc`; returns (B,) float, 0 for a list without a click.
    """
    row, column = torch.nonzero(clicked, as_tuple=True)
    mine, there = scores[row, column][:, None], shown[row]
    above = ((scores[row] > mine) & there).sum(1)
    tied = ((scores[row] == mine) & there).sum(1)  # itself at least
    width = scores.shape[1]
    place = torch.arange(1, width + 1, device=scores.device, dtype=torch.float64)
    gain = torch.where(place <= cut, 1 / torch.log2(place + 1), 0.0)
    total = F.pad(gain.cumsum(0), (1, 0))  # of the first places
    mean = (total[above + tied] - total[above]) / tied
    found = total.new_zeros(len(scores)).index_add_(0, row, mean)
    best = total[clicked.sum(1)]
    return torch.where(best > 0, found / best.clamp(min=1e-12), 0.0).to(scores.dtype)


def _grid(
    scores: Tensor, rows: Tensor, clicked: Tensor, count: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Lists side by side: (B, W) scores, where an item stands, and where it was clicked."""
    lengths = torch.bincount(rows, minlength=count)
    first = lengths.cumsum(0) - lengths
    column = torch.arange(len(rows), device=rows.device) - first[rows]
    width = int(lengths.max()) if len(rows) else 0
    grid = scores.new_zeros(count, width).index_put((rows, column), scores)
    shown = torch.zeros(count, width, dtype=torch.bool, device=rows.device)
    shown[rows, column] = True
    hit = torch.zeros_like(shown)
    hit[rows, column] = clicked == 1
    return grid, shown, hit
