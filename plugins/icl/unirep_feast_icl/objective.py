"""ICL's loss: a user's history and future, each a set of vectors, must find each other."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unirep_feast.batch import SequenceBatch
from unirep_feast.encoder import Encoded, Encoder
from unirep_feast.errors import ContractError
from unirep_feast.gathering import gather_rows
from unirep_feast.objective import Losses, Views
from unirep_feast_icl.config import ObjectiveSettings
from unirep_feast_icl.similarity import concatenated_similarity, interest_similarity


class ProjectionHead(nn.Sequential):
    """g of Eq 12, an MLP with one hidden layer that all K vectors pass alike; training only.

    Shape:
        input (..., dim), output (..., width).
    """

    def __init__(self, dim: int, hidden: int, width: int) -> None:
        super().__init__(nn.Linear(dim, hidden), nn.ReLU(), nn.Linear(hidden, width))


class IclObjective(nn.Module):
    """Contrast of 2B sets, histories and futures of a mini-batch (Eq 12-19).

    For each set as the anchor, its counterpart of the same user is the positive among all sets but
    itself, as in SimCLR; the losses of the 2B anchors are summed. Under DDP the sets of all ranks
    are candidates. Users without behaviors in either view are left out.

    Args:
        vectors: K of the encoder.
        dim: D of the encoder.
        settings: see :class:`ObjectiveSettings`.
    """

    requires: frozenset[str] = frozenset()
    views = frozenset({"first", "second"})
    validate_with_dropout = False
    trains_encoder = True

    def __init__(self, vectors: int, dim: int, settings: ObjectiveSettings) -> None:
        super().__init__()
        self.settings = settings
        self.head = ProjectionHead(dim, settings.hidden or dim, settings.projection)

    def forward(self, encoder: Encoder, views: Views) -> Losses:
        """Score a batch; the term is ``contrast``, the regulariser comes from the encoder."""
        first, second = views["first"], views["second"]
        if not (isinstance(first, SequenceBatch) and isinstance(second, SequenceBatch)):
            raise ContractError("icl: the views first and second must be batches of histories")
        if len(first) != len(second):
            raise ContractError(
                f"icl: the views first and second have {len(first)} and {len(second)} rows; wanted "
                "one row of each per user"
            )
        history, future = encoder(first), encoder(second)
        kept = torch.nonzero((first.lengths > 0) & (second.lengths > 0)).flatten()
        q1, q2 = (_full(self.head(one.users[kept])) for one in (history, future))  # (b, K, W)
        loss, accuracy = self._contrast(q1, q2)
        metrics = {"accuracy": accuracy, "left_out": loss.new_tensor(float(len(first) - len(kept)))}
        if "slots" in history.extras:
            metrics["interests_used"] = _used(history, future)
        return Losses({"contrast": self.settings.weight * loss}, metrics)

    def _contrast(self, q1: Tensor, q2: Tensor) -> tuple[Tensor, Tensor]:
        """Sum Eq 13 (or 17) over the anchors; also the share that find their counterpart."""
        (all1, all2), start, ranks = gather_rows(q1, q2)
        b, B = len(q1), len(all1)
        if b == 0:
            return q1.sum() + q2.sum() + all1.sum() * 0 + all2.sum() * 0, q1.new_zeros(())
        itself = start + torch.arange(b, device=q1.device)
        itself = torch.cat((itself, itself + B))  # (2b,) of the 2B sets
        counterpart = (itself + B) % (2 * B)
        similarity = (
            interest_similarity
            if self.settings.similarity == "interests"
            else concatenated_similarity
        )
        with torch.autocast(q1.device.type, enabled=False):  # bfloat16 would round cosines to 1/256
            logits = similarity(torch.cat((q1, q2)), torch.cat((all1, all2)))  # (2b, 2B)
        logits = logits / self.settings.temperature
        logits = logits.scatter(1, itself[:, None], -torch.inf)
        # Every rank sums over its own anchors, and DDP averages over ranks.
        loss = F.cross_entropy(logits, counterpart, reduction="sum") * ranks
        found = logits.detach().argmax(1) == counterpart
        return loss, found.float().mean()


@torch.no_grad()
def _used(*encoded: Encoded) -> Tensor:
    """How many interests the sets of a batch use: the exponential of their entropy."""
    slots = torch.cat([one.extras["slots"].flatten() for one in encoded])
    share = torch.bincount(slots).float() / max(len(slots), 1)
    entropy: Tensor = torch.special.entr(share).sum()
    return entropy.exp()


def _full(x: Tensor) -> Tensor:
    """Return half-precision numbers (autocast) as float32, others untouched."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
