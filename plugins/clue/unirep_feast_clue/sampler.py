"""Two views of one history: the sampler of contrastive pre-training."""

from __future__ import annotations

import torch
from torch import Tensor

from unirep_feast.batch import SequenceBatch
from unirep_feast.objective import Views
from unirep_feast.sampler import Draw, Units
from unirep_feast.sequences import Sequences
from unirep_feast_clue.config import SamplerSettings
from unirep_feast_clue.holding import held_out_ends
from unirep_feast_clue.views import AUGMENTATIONS, share


class ClueSampler:
    """Views ``first`` and ``second`` of each user's history, clipped to the encoder's window.

    Implements section IV-B. A unit is a user with at least ``min_events`` events.

    Args:
        settings: see :class:`SamplerSettings`.
    """

    views = frozenset({"first", "second"})

    def __init__(self, settings: SamplerSettings) -> None:
        self.settings = settings

    def units(self, sequences: Sequences) -> Tensor:
        """Return (n,) int64 rows of the users with enough events inside the window."""
        users = sequences.all_users()
        hi, as_of = held_out_ends(sequences, users, self.settings.hold_out)
        lengths = hi - sequences.bounds(users, hi, as_of)
        return users[lengths >= self.settings.min_events]

    def sample(self, sequences: Sequences, units: Units, draw: Draw) -> Views:
        """Draw both views; with ``augmentation: dropout`` they are the same events."""
        users = units.users
        hi, as_of = held_out_ends(sequences, users, self.settings.hold_out)
        history = sequences.window(users, sequences.starts[users], hi, as_of)
        return {
            "first": self._view(history, draw.generator("first")),
            "second": self._view(history, draw.generator("second")),
        }

    def _view(self, history: SequenceBatch, generator: torch.Generator) -> SequenceBatch:
        chosen = self.settings.augmentation
        if chosen == "dropout":
            return history
        if chosen != "random":
            names: tuple[str, ...] = (chosen,) if isinstance(chosen, str) else chosen
            for name in names:
                history = self._apply(name, history, None, generator)
            return history
        lot = torch.randint(
            len(AUGMENTATIONS), history.lengths.shape, generator=generator, device=history.device
        )
        for number, drawn in enumerate(AUGMENTATIONS):
            history = self._apply(drawn, history, lot == number, generator)
        return history

    def _apply(
        self, name: str, history: SequenceBatch, rows: Tensor | None, generator: torch.Generator
    ) -> SequenceBatch:
        augment, at_least, spared = AUGMENTATIONS[name]
        proportion = getattr(self.settings, name)
        if isinstance(proportion, tuple):
            low, high = proportion
            lot = torch.rand(len(history), generator=generator, device=history.device)
            proportion = low + (high - low) * lot
        count = share(history.lengths, proportion, at_least, spared)
        if rows is not None:
            count = count * rows
        return augment(history, count, generator)
