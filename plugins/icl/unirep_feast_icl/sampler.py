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
    behavior. They are cut at a time, never within a basket. Nothing is drawn at random.

    Args:
        settings: see :class:`SamplerSettings`; ``horizon`` picks S2 or S3.
    """

    views = frozenset({"first", "second"})

    def __init__(self, settings: SamplerSettings) -> None:
        self.settings = settings

    def units(self, sequences: Sequences) -> Tensor:
        """Return (n,) int64 rows of the users with enough behaviors in both periods."""
        users = torch.nonzero(sequences.lengths).flatten()
        enough = torch.ones_like(users, dtype=torch.bool)
        for lo, hi, as_of in self._pieces(sequences, users):
            clipped = torch.maximum(lo, sequences.bounds(users, hi, as_of))
            enough &= hi - clipped >= self.settings.min_events
        return users[enough]

    def sample(self, sequences: Sequences, units: Units, draw: Draw) -> Views:
        """Gather both periods of some users, clipped to the encoder's window."""
        first, second = (
            sequences.window(units.users, *piece) for piece in self._pieces(sequences, units.users)
        )
        return {"first": first, "second": second}

    def _pieces(self, sequences: Sequences, users: Tensor) -> tuple[Piece, Piece]:
        """Locate the two periods of users who have a behavior."""
        if self.settings.history is not None:
            future = getattr(self.settings, self.settings.horizon)
            bounds = [torch.full_like(users, when) for when in (*self.settings.history, *future)]
        else:
            bounds = self._shares(sequences, users)
        start, end, later, last = bounds
        return self._piece(sequences, users, start, end), self._piece(sequences, users, later, last)

    def _shares(self, sequences: Sequences, users: Tensor) -> list[Tensor]:
        begin = sequences.times[sequences.starts[users]]
        last = sequences.times[sequences.ends[users] - 1]
        span = (last - begin).double()
        history, short, _ = self.settings.fractions
        # Shares of microseconds: doubles are exact far beyond any log.
        one = begin + (span * history).long()
        two = begin + (span * (history + short)).long()
        return (
            [begin, one, one, two]
            if self.settings.horizon == "short"
            else [
                begin,
                one,
                two,
                last + 1,
            ]
        )

    def _piece(self, sequences: Sequences, users: Tensor, start: Tensor, end: Tensor) -> Piece:
        end = end.clamp(max=sequences.until)
        lo = sequences.locate(users, start)
        return Piece(lo, torch.maximum(lo, sequences.locate(users, end)), end)
