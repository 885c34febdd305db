"""Training of item vectors: two items that one user met within few days (section 3.1.1)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from unirep_feast.encoder import Encoder
from unirep_feast.errors import ContractError
from unirep_feast.instants import MICROSECONDS_PER_DAY
from unirep_feast.objective import Losses, Views
from unirep_feast.sampler import Draw, Units
from unirep_feast.sequences import Sequences
from unirep_feast_lurm.config import PairObjectiveSettings, PairSettings
from unirep_feast_lurm.contrast import nt_xent


class PairSampler:
    """Views ``item`` and ``positive``: codes of two behaviors less than beta days apart.

    The first is drawn from the user's behaviors that have a neighbour, the second from its
    neighbours. A unit is a user with at least one such pair.

    Args:
        settings: see :class:`PairSettings`.
    """

    views = frozenset({"item", "positive"})

    def __init__(self, settings: PairSettings) -> None:
        # Times are whole microseconds: less than beta apart is at most this.
        self.reach = math.ceil(settings.beta_days * MICROSECONDS_PER_DAY) - 1

    def units(self, sequences: Sequences) -> Tensor:
        """Return (n,) int64 rows of the users with a pair."""
        users = torch.nonzero(sequences.lengths > 1).flatten()
        near = (sequences.times[1:] - sequences.times[:-1]) <= self.reach
        # Pairs before each place, so that a user's number is a difference of two.
        pairs = torch.cat((near.new_zeros(1, dtype=torch.int64), near.cumsum(0)))
        last = sequences.ends[users] - 1
        return users[pairs[last] > pairs[sequences.starts[users]]]

    def sample(self, sequences: Sequences, units: Units, draw: Draw) -> Views:
        """Draw one pair per user; cost follows the users' behaviors."""
        users = units.users
        generator = draw.generator("pairs")
        start, end = sequences.starts[users], sequences.ends[users]
        batch = sequences.window(users, start, end, torch.full_like(end, sequences.until), False)
        near = (batch.times[1:] - batch.times[:-1]) <= self.reach
        near &= batch.rows[1:] == batch.rows[:-1]
        no = near.new_zeros(1)
        paired = torch.cat((near, no)) | torch.cat((no, near))  # (N,) has a neighbour
        before = torch.cat((no.long(), paired.cumsum(0)))  # (N + 1,) paired ones before each place
        count = before[batch.offsets[1:]] - before[batch.offsets[:-1]]
        wanted = before[batch.offsets[:-1]] + _below(count, generator)
        chosen = torch.nonzero(paired).flatten()[wanted]  # (b,) places in the batch
        place = start + batch.steps[chosen]
        time = sequences.times[place]
        low = sequences.locate(users, time - self.reach)
        high = sequences.locate(users, time + self.reach + 1)
        other = low + _below(high - low - 1, generator)
        other = other + (other >= place)  # any of them but the behavior itself
        return {"item": sequences.codes[place].long(), "positive": sequences.codes[other].long()}


class PairObjective(nn.Module):
    """Let two items of one user find each other among those of a batch (Eq 2 and 3).

    Pairs of one item with itself, and pairs of which an item has no vector, are left out and
    counted. Copies of an item are one candidate.

    Args:
        settings: see :class:`PairObjectiveSettings`.
    """

    requires = frozenset({"items"})
    views = frozenset({"item", "positive"})
    validate_with_dropout = False
    trains_encoder = True

    def __init__(self, settings: PairObjectiveSettings) -> None:
        super().__init__()
        self.temperature = settings.temperature

    def forward(self, encoder: Encoder, views: Views) -> Losses:
        """Score a batch; the term is ``contrast``."""
        item, positive = views["item"], views["positive"]
        if not (isinstance(item, Tensor) and isinstance(positive, Tensor)):
            raise ContractError("lurm.items: the views item and positive must be (b,) item codes")
        e = encoder.embed_items(torch.cat((item, positive)))  # (2b, d)
        x, y = e.tensor_split(2)
        there = (e.detach() != 0).any(1).tensor_split(2)
        kept = torch.nonzero((item != positive) & there[0] & there[1]).flatten()
        loss, accuracy = nt_xent(x[kept], y[kept], self.temperature, (item[kept], positive[kept]))
        left_out = loss.new_tensor(float(len(item) - len(kept)))
        return Losses({"contrast": loss}, {"accuracy": accuracy, "left_out": left_out})


def _below(count: Tensor, generator: torch.Generator) -> Tensor:
    """Draw (n,) int64, each uniform in [0, count)."""
    lot = torch.rand(count.shape, generator=generator, device=count.device, dtype=torch.float64)
    return (lot * count).long().clamp(max=count - 1)
