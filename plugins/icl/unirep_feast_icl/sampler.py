"""A user's history and the future behind it, by dates or by shares of the user's time."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from unirep_feast.objective import Views
from unirep_feast.sampler import Draw, Units
from unirep_feast.sequences import Sequences
from unirep_feast_icl.config import SamplerSettings


class Piece(NamedTuple):
    """A period of some users' histories: events ``lo:hi``, all before ``as_of``; (n,) int64."""

    lo: Tensor
    hi: Tensor
    as_of: Tensor


class IclSampler:
    """Views ``first`` (S1) and ``second`` (S2 or S3) of each user, disjoint in time (section 3.4).

    Periods are dates, the same for all users, or shares of the time between a user's first and last
    behavior. They are cut at a time, never within a basket. Nothing is drawn at random but, with
    ``jitter``, the part of a user's time that the shares are of: the same few users then give other
    pairs at every step.

    Args:
        settings: see :class:`SamplerSettings`; ``horizon`` picks S2 or S3.
    """

    views = frozenset({"first", "second"})

    def __init__(self, settings: SamplerSettings) -> None:
        self.settings = settings

    def units(self, sequences: Sequences) -> Tensor:
        """Return (n,) int64 rows of the users with enough behaviors in both periods."""
        users = torch.nonzero(sequences.lengths).flatten()
        return users[self._enough(sequences, users, self._pieces(sequences, users))]

    def sample(self, sequences: Sequences, units: Units, draw: Draw) -> Views:
        """Gather both periods of some users, clipped to the encoder's window."""
        users = units.users
        pieces = self._pieces(sequences, users)
        if self.settings.jitter:
            moved = self._pieces(sequences, users, draw.generator("span"))
            enough = self._enough(sequences, users, moved)
            pieces = [
                Piece(*(torch.where(enough, a, b) for a, b in zip(one, other, strict=True)))
                for one, other in zip(moved, pieces, strict=True)
            ]
        first, second = (sequences.window(users, *piece) for piece in pieces)
        return {"first": first, "second": second}

    def _enough(self, sequences: Sequences, users: Tensor, pieces: list[Piece]) -> Tensor:
        """Whether both pieces hold enough behaviors within the encoder's window: (n,) bool."""
        enough = torch.ones_like(users, dtype=torch.bool)
        for lo, hi, as_of in pieces:
            clipped = torch.maximum(lo, sequences.bounds(users, hi, as_of))
            enough &= hi - clipped >= self.settings.min_events
        return enough

    def _pieces(
        self, sequences: Sequences, users: Tensor, generator: torch.Generator | None = None
    ) -> list[Piece]:
        """Locate the two periods of users who have a behavior."""
        if self.settings.history is not None:
            future = getattr(self.settings, self.settings.horizon)
            bounds = [torch.full_like(users, when) for when in (*self.settings.history, *future)]
        else:
            bounds = self._shares(sequences, users, generator)
        return [_piece(sequences, users, start, end) for start, end in (bounds[:2], bounds[2:])]

    def _shares(
        self, sequences: Sequences, users: Tensor, generator: torch.Generator | None
    ) -> list[Tensor]:
        """Start and end of both periods, as shares of each user's time or of a part of it."""
        begin = sequences.times[sequences.starts[users]]
        last = sequences.times[sequences.ends[users] - 1]
        if generator is not None:
            lots = torch.rand(
                2, len(users), generator=generator, device=users.device, dtype=torch.float64
            )
            left = self.settings.jitter * lots[0] * (last - begin)
            begin = begin + (lots[1] * left).long()
            last = last - ((1 - lots[1]) * left).long()
        span = (last - begin).double()  # exact: microseconds of centuries fit
        history, short, _ = self.settings.fractions
        one = begin + (span * history).long()
        two = begin + (span * (history + short)).long()
        if self.settings.horizon == "short":
            return [begin, one, one, two]
        return [begin, one, two, last + 1]


def _piece(sequences: Sequences, users: Tensor, start: Tensor, end: Tensor) -> Piece:
    end = end.clamp(max=sequences.until)
    lo = sequences.locate(users, start)
    return Piece(lo, torch.maximum(lo, sequences.locate(users, end)), end)
