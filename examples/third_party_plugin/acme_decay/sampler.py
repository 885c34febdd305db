"""A history up to a drawn moment, and the days behind it."""

from __future__ import annotations

import torch
from torch import Tensor

from acme_decay.config import SamplerSettings
from unirep_feast.instants import MICROSECONDS_PER_DAY
from unirep_feast.objective import Views
from unirep_feast.sampler import Draw, Units
from unirep_feast.sequences import Sequences


class MomentSampler:
    """Views `history` and `future`: what is before a drawn event's time, and the days from it on.

    Args:
        settings: see :class:`SamplerSettings`.
    """

    views = frozenset({"history", "future"})

    def __init__(self, settings: SamplerSettings) -> None:
        self.horizon = int(settings.horizon_days * MICROSECONDS_PER_DAY)

    def units(self, sequences: Sequences) -> Tensor:
        """Return (n,) int64 rows of the users with events at more than one time."""
        users = sequences.all_users()[sequences.lengths > 1]
        first = sequences.times[sequences.starts[users]]
        return users[first < sequences.times[sequences.ends[users] - 1]]

    def sample(self, sequences: Sequences, units: Units, draw: Draw) -> Views:
        """Draw one event per user, not of the first time; no view is empty."""
        users = units.users
        lo, hi = sequences.starts[users], sequences.ends[users]
        second = sequences.locate(users, sequences.times[lo] + 1)
        generator = draw.generator("moment")
        lot = torch.rand(users.shape, generator=generator, device=sequences.device)
        chosen = second + (lot * (hi - second)).long().clamp(max=hi - second - 1)
        when = sequences.times[chosen]
        until = torch.clamp(when + self.horizon, max=sequences.until)
        cut, end = sequences.locate(users, when), sequences.locate(users, until)
        return {
            "history": sequences.window(users, lo, cut, when),
            "future": sequences.window(users, cut, end, until),
        }
