"""Leave-one-out next-item prediction: what came before an event, and which item it was."""

from __future__ import annotations

import torch
from torch import Tensor

from unirep_feast.batch import FIRST_ITEM
from unirep_feast.objective import Views
from unirep_feast.sampler import Draw, Units
from unirep_feast.sequences import Sequences
from unirep_feast_clue.config import NextItemSettings
from unirep_feast_clue.holding import held_out_ends


class NextItemSampler:
    """Views ``history``, ``target`` and ``candidates`` for sequential recommendation.

    "The last item is used as the test data, the item before the last one is used as the validation
    data, and the remaining data is used for training" (section V-A). A history holds the events
    strictly before its target's time: other events of the target's basket are in neither. A unit
    is a user; with ``target: train`` every step draws one of the user's possible targets. Pre-train
    with the same ``hold_out`` in the ``clue`` sampler, so that it sees neither held-out event.

    Args:
        settings: see :class:`NextItemSettings`.
    """

    views = frozenset({"history", "target", "candidates"})

    def __init__(self, settings: NextItemSettings) -> None:
        self.settings = settings

    def units(self, sequences: Sequences) -> Tensor:
        """Return (n,) int64 rows of the users with a possible target of a known item."""
        users = sequences.all_users()
        lo, hi = self._targets(sequences, users)
        some = lo < hi
        if self.settings.target != "train":
            users, lo = users[some], lo[some]
            return users[_known(sequences, sequences.codes[lo])]
        known = _known(sequences, sequences.codes).long().cumsum(0)  # (N,) known ones up to here
        known = torch.cat((known.new_zeros(1), known))
        return users[some & (known[hi] > known[torch.minimum(lo, hi)])]

    def sample(self, sequences: Sequences, units: Units, draw: Draw) -> Views:
        """Return histories, (b,) target codes, and the (C,) codes of all known items, ascending.

        A drawn target of an item without a code is left out of the step.
        """
        users = units.users
        lo, hi = self._targets(sequences, users)
        lot = torch.rand(
            users.shape,
            generator=draw.generator("target"),
            device=sequences.device,
            dtype=torch.float64,
        )
        position = lo + (lot * (hi - lo)).long()
        kept = _known(sequences, sequences.codes[position])
        users, position = users[kept], position[kept]
        first = FIRST_ITEM
        return {
            "history": sequences.histories(users, sequences.times[position]),
            "target": sequences.codes[position].long(),
            "candidates": torch.arange(first, sequences.items.known, device=sequences.device),
        }

    def _targets(self, sequences: Sequences, users: Tensor) -> tuple[Tensor, Tensor]:
        """(n,) and (n,) int64: each user's possible targets are the positions ``lo`` to ``hi``."""
        starts, ends = sequences.starts[users], sequences.ends[users]
        if self.settings.target == "train":
            hi, _ = held_out_ends(sequences, users, self.settings.hold_out)
        else:
            hi = ends if self.settings.target == "test" else torch.maximum(ends - 1, starts)
        # A target needs min_events events strictly before it: it is later than the last of them.
        enough = starts + self.settings.min_events - 1
        last = max(sequences.times.shape[0] - 1, 0)
        some = enough < ends
        when = sequences.times[enough.clamp(max=last)] + 1 if len(sequences.times) else enough
        lo = torch.where(some, sequences.locate(users, when), ends)
        if self.settings.target != "train":
            lo = torch.where(lo < hi, hi - 1, lo)
        return lo, hi


def _known(sequences: Sequences, codes: Tensor) -> Tensor:
    return (codes >= FIRST_ITEM) & (codes < sequences.items.known)
