"""Views of pre-training: masked histories, two pieces of each, and pools of candidates."""

from __future__ import annotations

import torch
from torch import Tensor

from unirep_feast.batch import FIRST_ITEM, MASK
from unirep_feast.objective import Views
from unirep_feast.sampler import Draw, Units, seed_of
from unirep_feast.sequences import Sequences
from unirep_feast_userbert.config import SamplerSettings
from unirep_feast_userbert.pieces import Candidates, disjoint_pieces, masked_places

_POOL = "userbert.sequence_pool"


class UserBertSampler:
    """Everything that Eq 1 and Eq 2 need, and the pools of section 3.3.

    - ``history``: B rows, the masked behaviors' codes are MASK.
    - ``masked``: (M,) int64 their packed positions; ``targets``: (M, 2) int64 what they were, item
      code and content (equal for items that say the same).
    - ``behaviors``: (m, 2) int64 the behavior pool of this step, each content once.
    - ``first``, ``second``: two pieces of a history without overlap in time, one row each per user
      who has them.
    - ``following``: (F, 3) int64 the next behaviors after ``first``: row, item code, content.
    - ``candidates``: u rows, the sequence pool; the same for all steps of a period.
    - ``period``: () int64, a number that no other period or run has.

    A unit is a user with at least ``min_events`` behaviors within the encoder's window.

    Args:
        settings: see :class:`SamplerSettings`.
    """

    views = frozenset(
        {
            "history",
            "masked",
            "targets",
            "behaviors",
            "first",
            "second",
            "following",
            "candidates",
            "period",
        }
    )

    def __init__(self, settings: SamplerSettings) -> None:
        self.settings = settings
        self._candidates: Candidates | None = None

    def units(self, sequences: Sequences) -> Tensor:
        """Return (n,) int64 rows of the users with enough behaviors inside the window."""
        users = sequences.all_users()
        hi = sequences.ends
        lengths = hi - sequences.bounds(users, hi, sequences.until)
        return users[lengths >= self.settings.min_events]

    def sample(self, sequences: Sequences, units: Units, draw: Draw) -> Views:
        """Draw masks, cuts and pools."""
        chosen, users = self.settings, units.users
        candidates = self._of(sequences)
        history = sequences.histories(users)
        masked = masked_places(history, chosen.mask, draw.generator("mask"))
        pair = disjoint_pieces(sequences, users, draw.generator("cut"))
        pool = draw.generator(_POOL, every=chosen.interval)
        hidden = history.codes.index_fill(0, masked, MASK)
        second = pair.second
        near = (second.steps < chosen.next_behaviors) & (second.codes >= FIRST_ITEM)
        following = candidates.with_contents(second.codes[near])
        return {
            "history": history.with_codes(hidden),
            "masked": masked,
            "targets": candidates.with_contents(history.codes[masked]),
            "behaviors": candidates.behaviors(chosen.behavior_pool, draw.generator("behaviors")),
            "first": pair.first,
            "second": second,
            "following": torch.cat((second.rows[near, None], following), 1),
            "candidates": candidates.crops(chosen.sequence_pool, pool),
            "period": torch.tensor(seed_of(draw.seed, _POOL, draw.step // chosen.interval)),
        }

    def _of(self, sequences: Sequences) -> Candidates:
        # A function of the sequences alone; kept because every step asks for it.
        if self._candidates is None or self._candidates.sequences is not sequences:
            self._candidates = Candidates(sequences)
        return self._candidates
