"""LURM's loss: two pieces of one lifetime must find each other among those of a batch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unirep_feast.batch import SequenceBatch
from unirep_feast.encoder import Encoder
from unirep_feast.errors import ContractError
from unirep_feast.objective import Losses, Views
from unirep_feast_lurm.config import ObjectiveSettings
from unirep_feast_lurm.contrast import nt_xent


class MixingHead(nn.Module):
    """h of Eq 8 and 9: anchors by themselves, then mixed with each other; training only.

    "allows interaction between different preferences". No biases, as in the equations; a is ReLU.

    Args:
        vectors: M.
        dim: H.

    Shape:
        input (B, M, H), output (B, M * H).
    """

    def __init__(self, vectors: int, dim: int) -> None:
        super().__init__()
        self.own = nn.Parameter(torch.randn(vectors, dim, dim) * (2 / dim) ** 0.5)  # W^h1
        # A single anchor has nobody to mix with, and a draw below -1 would silence it for good.
        mix = torch.randn(vectors, vectors) if vectors > 1 else torch.zeros(1, 1)
        self.mix = nn.Parameter(mix * vectors**-0.5)  # W^h3
        self.out = nn.Linear(vectors * dim, vectors * dim, bias=False)  # W^h2

    def forward(self, users: Tensor) -> Tensor:
        """Project users for the loss."""
        v = F.relu(torch.bmm(users.transpose(0, 1), self.own)).transpose(0, 1)  # (B, M, H)
        projected: Tensor = self.out(F.relu(v + self.mix @ v).flatten(1))
        return projected


class LurmObjective(nn.Module):
    """Contrast of two random pieces per lifetime (section 3.2.4): Eq 3 on the head's output.

    Under DDP the users of all ranks are candidates. Users without behaviors in either view are
    left out.

    Args:
        vectors: K of the encoder, the paper's M.
        dim: D of the encoder, the paper's H.
        settings: see :class:`ObjectiveSettings`.
    """

    requires: frozenset[str] = frozenset()
    views = frozenset({"first", "second"})
    validate_with_dropout = False
    trains_encoder = True

    def __init__(self, vectors: int, dim: int, settings: ObjectiveSettings) -> None:
        super().__init__()
        self.head = MixingHead(vectors, dim)
        self.temperature = settings.temperature

    def forward(self, encoder: Encoder, views: Views) -> Losses:
        """Score a batch; the term is ``contrast``."""
        first, second = views["first"], views["second"]
        if not (isinstance(first, SequenceBatch) and isinstance(second, SequenceBatch)):
            raise ContractError("lurm: the views first and second must be batches of histories")
        if len(first) != len(second):
            raise ContractError(
                f"lurm: the views first and second have {len(first)} and {len(second)} rows; "
                "wanted one row of each per user"
            )
        one, other = encoder(first).users, encoder(second).users  # (B, M, H)
        kept = torch.nonzero((first.lengths > 0) & (second.lengths > 0)).flatten()
        x, y = self.head(torch.cat((one[kept], other[kept]))).tensor_split(2)
        loss, accuracy = nt_xent(x, y, self.temperature)
        left_out = loss.new_tensor(float(len(first) - len(kept)))
        return Losses({"contrast": loss}, {"accuracy": accuracy, "left_out": left_out})
