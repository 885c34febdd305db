"""Bags of interests: how often each interest occurs in each calendar period, sparse (Eq 4)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from unirep_feast.batch import SequenceBatch
from unirep_feast_lurm.periods import month_of, period_of

#: (N,) codes to (N, S) interests and (N, S) shares, 0 for none.
InterestsOf = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Bag:
    """Counts of interests per row and period; only those above 0 are there.

    Entries are sorted by row, period and interest, and each such triple is there once.

    Attributes:
        rows: (E,) int64 row of the batch.
        periods: (E,) int64 absolute number of the period.
        interests: (E,) int64.
        counts: (E,) float64: behaviors, or with soft assignment sums of shares.
        first: (B,) int64 the period of each row's first event.
        steps: (B,) int64 periods from the first event's to the last one's; 0 without events.
    """

    rows: Tensor
    periods: Tensor
    interests: Tensor
    counts: Tensor
    first: Tensor
    steps: Tensor

    @classmethod
    def monthly(cls, batch: SequenceBatch, interests_of: InterestsOf, count: int) -> Bag:
        """Count the interests of a batch's events per row and month; cost follows events.

        Args:
            batch: histories.
            interests_of: looks codes up.
            count: D, above every interest.
        """
        months = month_of(batch.times)
        places, shares = interests_of(batch.codes)
        kept = shares > 0  # (N, S)
        shape = kept.shape
        rows, entries = (x[:, None].expand(shape)[kept] for x in (batch.rows, months))
        filled = batch.lengths > 0
        first = batch.lengths.new_zeros(len(batch))
        steps = torch.zeros_like(first)
        first[filled] = months[batch.first[filled]]
        steps[filled] = months[batch.last[filled]] - first[filled] + 1
        return cls._summed(rows, entries, places[kept], shares[kept].double(), first, steps, count)

    def at(self, length: int, count: int) -> Bag:
        """Return the bag of periods of ``length`` months, its counts added up from the months'."""
        if length == 1:
            return self
        first = period_of(self.first, length)
        last = period_of(self.first + self.steps - 1, length)
        steps = (last - first + 1) * (self.steps > 0)
        periods = period_of(self.periods, length)
        return self._summed(self.rows, periods, self.interests, self.counts, first, steps, count)

    def whole(self, count: int) -> Bag:
        """Return the bag of the whole history as one period."""
        none = torch.zeros_like(self.first)
        periods = torch.zeros_like(self.periods)
        return self._summed(
            self.rows, periods, self.interests, self.counts, none, self.steps.clamp(max=1), count
        )

    @property
    def values(self) -> Tensor:
        """(E,) float64: log(1 + count), Eq 4."""
        return self.counts.log1p()

    @property
    def places(self) -> Tensor:
        """(E,) int64: each entry's period among the packed periods of all rows, row after row."""
        offsets = self.steps.cumsum(0) - self.steps
        return (offsets - self.first)[self.rows] + self.periods

    @classmethod
    def _summed(
        cls,
        rows: Tensor,
        periods: Tensor,
        interests: Tensor,
        counts: Tensor,
        first: Tensor,
        steps: Tensor,
        count: int,
    ) -> Bag:
        """Sort entries, and add up those of one row, period and interest."""
        # Periods since the row's first keep the key within 63 bits.
        longest = int(steps.max()) + 1 if len(steps) else 1
        key = (rows * longest + periods - first[rows]) * count + interests
        # Stable, so that shares are added in the order of the events, whoever else is there.
        key, order = torch.sort(key, stable=True)
        key, lengths = torch.unique_consecutive(key, return_counts=True)
        sums = (
            counts[:0]
            if not len(key)
            else torch.segment_reduce(counts[order], "sum", lengths=lengths)
        )
        cell = torch.div(key, count, rounding_mode="floor")
        row = torch.div(cell, longest, rounding_mode="floor")
        return cls(row, cell - row * longest + first[row], key - cell * count, sums, first, steps)
