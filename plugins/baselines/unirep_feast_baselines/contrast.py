"""NT-Xent between two views of a user, as CL4SRec has it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unirep_feast.batch import SequenceBatch
from unirep_feast.encoder import Encoder
from unirep_feast.errors import ContractError
from unirep_feast.gathering import gather_rows
from unirep_feast.objective import Losses, Views
from unirep_feast_baselines.config import ContrastSettings


class ContrastObjective(nn.Module):
    """Two views of a user must find each other among all views of the batch.

    Xie et al. (2020), *Contrastive Learning for Sequential Recommendation*, the contrastive part:
    views pass a linear projection (Eq 3) that is thrown away afterwards; NT-Xent over 2B views
    (Eq 4), averaged. Under DDP the users of all ranks are candidates. Users without events in a
    view are left out.

    Args:
        numbers: per user, K x D of the encoder.
        settings: see :class:`ContrastSettings`.
    """

    requires: frozenset[str] = frozenset()
    views = frozenset({"first", "second"})
    validate_with_dropout = True
    trains_encoder = True

    def __init__(self, numbers: int, settings: ContrastSettings) -> None:
        super().__init__()
        self.temperature = settings.temperature
        self.head: nn.Module = nn.Linear(numbers, numbers, bias=False)
        if settings.head:
            width = settings.head
            self.head = nn.Sequential(
                nn.Linear(numbers, width), nn.ReLU(), nn.Linear(width, numbers)
            )

    def forward(self, encoder: Encoder, views: Views) -> Losses:
        """Score a batch; the term is ``contrast``, in nats."""
        first, second = views["first"], views["second"]
        if not (isinstance(first, SequenceBatch) and isinstance(second, SequenceBatch)):
            raise ContractError("baselines.contrast: the views first and second must be histories")
        one, other = (encoder(view).users.flatten(1) for view in (first, second))
        kept = torch.nonzero((first.lengths > 0) & (second.lengths > 0)).flatten()
        x, y = (F.normalize(self.head(z[kept]).float(), dim=-1) for z in (one, other))
        loss, accuracy = nt_xent(x, y, self.temperature)
        return Losses({"contrast": loss}, {"accuracy": accuracy})


def nt_xent(x: Tensor, y: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Mean loss of 2n unit vectors, and the share that find their counterpart; (n, d) each."""
    (all_x, all_y), start, ranks = gather_rows(x, y)
    n, every = len(x), len(all_x)
    if n == 0:
        return (x.sum() + y.sum() + all_x.sum() + all_y.sum()) * 0, x.new_zeros(())
    itself = start + torch.arange(n, device=x.device)
    itself = torch.cat((itself, itself + every))
    counterpart = (itself + every) % (2 * every)
    logits = torch.cat((x, y)) @ torch.cat((all_x, all_y)).T / temperature
    logits = logits.scatter(1, itself[:, None], -torch.inf)
    # Every rank sums over its own anchors, and DDP averages over ranks.
    loss = F.cross_entropy(logits, counterpart, reduction="sum") * ranks / (2 * every)
    return loss, (logits.detach().argmax(1) == counterpart).float().mean()
