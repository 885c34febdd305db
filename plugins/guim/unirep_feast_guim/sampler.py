"""Histories before a time T with some items masked, and what happened from T on."""

from __future__ import annotations

import torch
from torch import Tensor

from unirep_feast.batch import MASK
from unirep_feast.instants import MICROSECONDS_PER_DAY
from unirep_feast.objective import Views
from unirep_feast.sampler import Draw, Units
from unirep_feast.sequences import Sequences
from unirep_feast_guim.config import SamplerSettings


class GuimSampler:
    """Views of ``[T - D1, T)`` and ``[T, T + D2)`` (section 3.1, Eq 1).

    - ``history``: events before T within the encoder's window, each masked with a probability:
      its code becomes MASK, its time stays.
    - ``items``: (N,) int64 the history's codes before masking.
    - ``masked``: (M,) int64 packed positions of the masked events.
    - ``future``: the first ``max_future`` events from T on, one row per row of ``history``.

    A unit is a user with events on both sides. With a drawn T it is a user with two events at
    different times, less than D1 + D2 apart: one event is drawn, and T evenly between it and what
    precedes it, so that the last event before T tells nothing of the distance to the next. A draw
    that leaves one side empty (a gap of years) is left out of the step.

    Args:
        settings: see :class:`SamplerSettings`.
    """

    views = frozenset({"history", "items", "masked", "future"})

    def __init__(self, settings: SamplerSettings) -> None:
        self.settings = settings
        self.history = int(settings.history_days * MICROSECONDS_PER_DAY)
        self.future = int(settings.future_days * MICROSECONDS_PER_DAY)

    def units(self, sequences: Sequences) -> Tensor:
        """Return (n,) int64 rows of the users with events on both sides of T."""
        users = sequences.all_users()
        if self.settings.cut_off != "drawn":
            cut = torch.full_like(users, self._cut_off(sequences))
            lo, middle, hi = self._bounds(sequences, users, cut)
            return users[(lo < middle) & (middle < hi)]
        gaps = sequences.times.diff()  # gap i lies between events i and i + 1
        fits = (gaps > 0) & (gaps < self.history + self.future)
        before = torch.cat((fits.new_zeros(1, dtype=torch.int64), fits.long().cumsum(0)))
        first = sequences.starts.clamp(max=len(before) - 1)
        last = (sequences.ends - 1).clamp(max=len(before) - 1).maximum(first)
        return users[before[last] > before[first]]

    def sample(self, sequences: Sequences, units: Units, draw: Draw) -> Views:
        """Draw T where it is drawn, and the masked events."""
        users = units.users
        if self.settings.cut_off == "drawn":
            cut = self._drawn(sequences, users, draw)
        else:
            cut = torch.full_like(users, self._cut_off(sequences))
        lo, middle, hi = self._bounds(sequences, users, cut)
        both = (lo < middle) & (middle < hi)
        users, cut, lo, middle, hi = (x[both] for x in (users, cut, lo, middle, hi))
        history = sequences.window(users, lo, middle, cut)
        lot = torch.rand(
            history.codes.shape, generator=draw.generator("mask"), device=sequences.device
        )
        hidden = lot < self.settings.mask
        until = (cut + self.future).clamp(max=sequences.until)
        return {
            "history": history.with_codes(history.codes.masked_fill(hidden, MASK)),
            "items": history.codes,
            "masked": hidden.nonzero().squeeze(1),
            "future": sequences.window(users, middle, hi, until, limit=False),
        }

    def _cut_off(self, sequences: Sequences) -> int:
        chosen = self.settings.cut_off
        return chosen if isinstance(chosen, int) else sequences.until - self.future

    def _bounds(
        self, sequences: Sequences, users: Tensor, cut: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Three (n,) int64 positions: history is ``lo:middle``, the future ``middle:hi``."""
        middle = sequences.locate(users, cut)
        lo = torch.maximum(
            sequences.bounds(users, middle, cut), sequences.locate(users, cut - self.history)
        )
        most = self.settings.max_future
        if sequences.clip.max_events is not None:
            most = min(most, sequences.clip.max_events)
        hi = torch.minimum(sequences.locate(users, cut + self.future), middle + most)
        return lo, middle, hi

    def _drawn(self, sequences: Sequences, users: Tensor, draw: Draw) -> Tensor:
        """Draw T for each user: (n,) int64, with an event in [T, T + D2) and one before it."""
        starts, ends = sequences.starts[users], sequences.ends[users]
        second = sequences.locate(users, sequences.times[starts] + 1)
        lot = torch.rand(
            2,
            len(users),
            generator=draw.generator("cut_off"),
            device=sequences.device,
            dtype=torch.float64,
        )
        span = ends - second
        chosen = second + torch.minimum((lot[0] * span).long(), span - 1)
        after = sequences.times[chosen]
        before = sequences.times[sequences.locate(users, after) - 1]
        earliest = torch.maximum(before, after - self.future)
        latest = torch.minimum(after, before + self.history)
        # From the latest down to just behind the earliest; where there is no time left between
        # them, whatever comes out has one side empty and is left out.
        return latest - (lot[1] * (latest - earliest).clamp(min=0)).long()
