"""Two random contiguous pieces of each user's lifetime (section 3.2.4)."""

from __future__ import annotations

import torch
from torch import Tensor

from unirep_feast.batch import SequenceBatch
from unirep_feast.objective import Views
from unirep_feast.sampler import Draw, Units
from unirep_feast.sequences import Sequences
from unirep_feast_lurm.config import SamplerSettings


class LurmSampler:
    """Views ``first`` and ``second``: pieces of one lifetime, drawn alike, which may overlap.

    A piece's length is uniform between the least and the whole, and so is its place. Pieces are
    widened to whole moments: events of one basket share a time and stay together. The encoder's
    window then clips a piece at its own end. A unit is a user with more than ``min_events``.

    Args:
        settings: see :class:`SamplerSettings`.
    """

    views = frozenset({"first", "second"})

    def __init__(self, settings: SamplerSettings) -> None:
        self.settings = settings

    def units(self, sequences: Sequences) -> Tensor:
        """Return (n,) int64 rows of the users with enough behaviors for two unlike pieces."""
        return torch.nonzero(sequences.lengths > self.settings.min_events).flatten()

    def sample(self, sequences: Sequences, units: Units, draw: Draw) -> Views:
        """Draw both pieces of some users."""
        return {
            name: self._piece(sequences, units.users, draw.generator(name))
            for name in ("first", "second")
        }

    def _piece(
        self, sequences: Sequences, users: Tensor, generator: torch.Generator
    ) -> SequenceBatch:
        start, total = sequences.starts[users], sequences.lengths[users]
        least = (total * self.settings.min_share).ceil().long()
        least = torch.minimum(least.clamp(min=self.settings.min_events), total)
        length = least + _below(total - least + 1, generator)
        place = start + _below(total - length + 1, generator)
        lo = sequences.locate(users, sequences.times[place])
        as_of = sequences.times[place + length - 1] + 1
        return sequences.window(users, lo, sequences.locate(users, as_of), as_of)


def _below(count: Tensor, generator: torch.Generator) -> Tensor:
    """Draw (n,) int64, each uniform in [0, count)."""
    lot = torch.rand(count.shape, generator=generator, device=count.device, dtype=torch.float64)
    return (lot * count).long().clamp(max=count - 1)
