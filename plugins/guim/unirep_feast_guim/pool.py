"""The items of a mini-batch: what InfoNCE tells a positive from."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from unirep_feast.batch import FIRST_ITEM

#: How often a draw that hit one of the user's own items is repeated before foreign ones are sought.
_ROUNDS = 4


@dataclass(frozen=True)
class ItemPool:
    """The distinct items of all sequences in a mini-batch, and whose they are.

    "We sample K negative items from the interaction sequences of other users which reside in the
    same mini-batch" (section 3.3): an item is drawn as often as the other users' sequences hold it.
    What a user has in the own sequence is never a negative for that user, which takes care of
    copies of the positive too.

    Attributes:
        codes: (P,) int64 distinct item codes, ascending; never PAD, MASK or UNK.
        events: (E,) int64 place in ``codes`` of each event of the mini-batch.
        own: (B, P) bool: whether a user's sequence holds an item.
    """

    codes: Tensor
    events: Tensor
    own: Tensor

    @classmethod
    def of(cls, rows: Tensor, codes: Tensor, users: int, others: Tensor | None = None) -> ItemPool:
        """Collect the items of a mini-batch.

        Args:
            rows: (E,) int64 user row of each event.
            codes: (E,) int64 its item code.
            users: B.
            others: (e,) int64 codes of further events, of users that are not among the B.
        """
        named = codes >= FIRST_ITEM
        rows, codes = rows[named], codes[named]
        events = codes
        if others is not None:
            events = torch.cat((codes, others[others >= FIRST_ITEM]))
        distinct, places = torch.unique(events, return_inverse=True)
        own = torch.zeros(users, len(distinct), dtype=torch.bool, device=codes.device)
        own[rows, places[: len(codes)]] = True
        return cls(distinct, places, own)

    def places(self, codes: Tensor) -> Tensor:
        """(n,) int64 places in the pool of codes that are in it."""
        return torch.searchsorted(self.codes, codes)

    def foreign(self) -> Tensor:
        """(B,) int64: events of other users' items that each user can be told from."""
        return self._weights.sum(1)

    def draw(self, rows: Tensor, count: int) -> Tensor:
        """Draw items of other users, by how often their sequences hold them.

        Args:
            rows: (n,) int64 user rows for whom to draw; each must have some foreign events.
            count: K, draws per row, independent of each other.

        Returns:
            (n, K) int64 places in the pool, never of an item of the user's own.
        """
        if not len(rows):  # of an empty pool, perhaps
            return rows.new_empty(0, count)
        place = self._anyone(len(rows) * count)
        # Draw from all events, and anew where it is the user's own: nothing of B * P is built.
        own, starts = self.own.flatten(), (rows * len(self.codes)).repeat_interleave(count)
        for _ in range(_ROUNDS):
            again = own.index_select(0, starts + place).nonzero().squeeze(1)
            if not len(again):
                return place.view(-1, count)
            place[again] = self._anyone(len(again))
        again = own.index_select(0, starts + place).nonzero().squeeze(1)
        place[again] = self._foreign_place(rows[again // count])
        return place.view(-1, count)

    def _anyone(self, count: int) -> Tensor:
        """(count,) int64 places of events drawn evenly, whosever they are."""
        lots = torch.randint(len(self.events), (count,), device=self.events.device)
        return self.events.index_select(0, lots)

    def _foreign_place(self, rows: Tensor) -> Tensor:
        """Draw one foreign item for each of some rows, however few a user leaves: (m,) int64."""
        ends = self._weights.flatten().cumsum(0)  # one ladder for all users: (B * P,)
        totals = self._weights.sum(1)
        starts = totals.cumsum(0) - totals
        # float64 holds every integer that so many events can reach.
        lot = torch.rand(len(rows), dtype=torch.float64, device=rows.device)
        step = torch.minimum((lot * totals[rows]).long(), totals[rows] - 1)
        return torch.searchsorted(ends, starts[rows] + step, right=True) - rows * len(self.codes)

    @cached_property
    def counts(self) -> Tensor:
        """(P,) int64 events of each item in the mini-batch."""
        return torch.bincount(self.events, minlength=len(self.codes))

    @cached_property
    def _weights(self) -> Tensor:
        return self.counts * ~self.own  # (B, P)
