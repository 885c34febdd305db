"""A history cut in two at a random time."""

from __future__ import annotations

import torch
from torch import Tensor

from unirep_feast.objective import Views
from unirep_feast.sampler import Draw, Units
from unirep_feast.sequences import Sequences
from unirep_feast_baselines.config import CutSettings


class CutSampler:
    """Views ``first`` and ``second``: what a user did before a moment, and from it on.

    The moment is the time of an event drawn evenly among those that are later than the first.
    ``first`` ends with its latest events, ``second`` begins with its earliest, each at most a
    window long.

    Args:
        settings: see :class:`CutSettings`.
    """

    views = frozenset({"first", "second"})

    def __init__(self, settings: CutSettings) -> None:
        self.settings = settings

    def units(self, sequences: Sequences) -> Tensor:
        """Return (n,) int64 rows of the users with enough events, not all at one time."""
        users = torch.nonzero(sequences.lengths >= max(self.settings.min_events, 2)).flatten()
        return users[self._later(sequences, users) < sequences.ends[users]]

    def sample(self, sequences: Sequences, units: Units, draw: Draw) -> Views:
        """Cut some users' histories."""
        users = units.users
        later, end = self._later(sequences, users), sequences.ends[users]
        generator = draw.generator("cut")
        lots = torch.rand(len(users), generator=generator, device=users.device, dtype=torch.float64)
        chosen = later + (lots * (end - later)).long()
        when = sequences.times[chosen]
        middle = sequences.locate(users, when)
        most = sequences.clip.max_events
        stop = end if most is None else torch.minimum(end, middle + most)
        until = torch.full_like(when, sequences.until)
        return {
            "first": sequences.window(users, sequences.starts[users], middle, when),
            "second": sequences.window(users, middle, stop, until, limit=False),
        }

    @staticmethod
    def _later(sequences: Sequences, users: Tensor) -> Tensor:
        """(n,) position of each user's first event that is later than the very first."""
        return sequences.locate(users, sequences.times[sequences.starts[users]] + 1)
