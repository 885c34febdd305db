"""Histories of all users, packed end to end, and slices of them by time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from unirep_feast.batch import SequenceBatch, bucket_width
from unirep_feast.instants import MICROSECONDS_PER_DAY
from unirep_feast.items import ItemTable, Vocabulary
from unirep_feast.packing import PackedEvents

__all__ = ["ItemTable", "Sequences", "Vocabulary", "Window", "fit_vocabulary"]


@dataclass(frozen=True)
class Window:
    """How much of a history an encoder looks at; the host clips before anything is drawn.

    Attributes:
        max_events: keep the latest so many events; None keeps all.
        max_days: keep events of the last so many days before the as-of time; None keeps all.
    """

    max_events: int | None = None
    max_days: float | None = None


@dataclass(frozen=True)
class Sequences:
    """The histories of ``U`` users over shared columns; slicing makes new bounds, never copies.

    Attributes:
        users: (U,) user ids, int64 or string, sorted.
        starts, ends: (U,) int64; user u has events ``starts[u]:ends[u]``.
        codes: (N,) int32 item codes.
        times: (N,) int64 microseconds, ascending within a user.
        columns: further (N,) columns: ``event_type`` int16, ``value`` float32.
        vocabulary: which item has which code.
        items: what is known of the items.
        until: microseconds; every event is strictly earlier.
        cut: whether ``until`` was asked for, or is only where the log ends.
        clip: applied by :meth:`window`; the encoder's, set by the host.
    """

    users: pa.Array
    starts: Tensor
    ends: Tensor
    codes: Tensor
    times: Tensor
    vocabulary: Vocabulary
    items: ItemTable
    until: int
    columns: Mapping[str, Tensor] = field(default_factory=dict)
    clip: Window = Window()
    cut: bool = False

    @classmethod
    def from_packed(
        cls, packed: PackedEvents, vocabulary: Vocabulary, items: pa.Table | None = None
    ) -> Sequences:
        """Code packed events.

        Args:
            packed: sorted events.
            vocabulary: fitted on this log or, at inference, on the one of the training.
            items: item titles and categories, see :class:`ItemTable`.
        """
        table = ItemTable.build(vocabulary, items)
        codes = table.codes(packed.item_ids)[packed.items]
        columns = dict(packed.columns)
        if "event_type" in columns:
            known = {name: code for code, name in enumerate(vocabulary.event_types, start=1)}
            lookup = np.array([0, *(known.get(n, 0) for n in packed.event_types)], np.int16)
            columns["event_type"] = lookup[columns["event_type"]]
        offsets = torch.from_numpy(packed.offsets)
        return cls(
            users=packed.users,
            starts=offsets[:-1],
            ends=offsets[1:],
            codes=torch.from_numpy(codes),
            times=torch.from_numpy(packed.times),
            columns={name: torch.from_numpy(column) for name, column in columns.items()},
            vocabulary=vocabulary,
            items=table,
            until=int(packed.times.max(initial=np.iinfo(np.int64).min)) + 1,
        )

    def __len__(self) -> int:
        """Return the number of users, U."""
        return len(self.users)

    @property
    def device(self) -> torch.device:
        """The device the columns are on."""
        return self.codes.device

    @property
    def lengths(self) -> Tensor:
        """(U,) int64 events per user within the current bounds."""
        return self.ends - self.starts

    def to(self, device: torch.device | str) -> Sequences:
        """Move bounds and columns to a device; ids and tables stay where they are."""
        return replace(
            self,
            starts=self.starts.to(device),
            ends=self.ends.to(device),
            codes=self.codes.to(device),
            times=self.times.to(device),
            columns={name: column.to(device) for name, column in self.columns.items()},
        )

    def locate(self, users: Tensor, when: Tensor | int) -> Tensor:
        """Find where a time falls in histories: the first event at or after it.

        A split falls at a time and never at an index: events of one basket share a time, and an
        index in the middle of them would put half a basket into the past.

        Args:
            users: (n,) int64 user rows; one may stand several times.
            when: (n,) int64 microseconds, or one time for all.

        Returns:
            (n,) int64 position p with ``times[start:p] < when <= times[p:end]``. It may equal the
            user's end: do not read ``times`` there, it is the next user's.
        """
        low, high = self.starts[users], self.ends[users]
        if not isinstance(when, Tensor):
            when = torch.full_like(low, when)
        longest = int((high - low).max()) if low.numel() else 0
        last = max(self.times.shape[0] - 1, 0)
        for _ in range(longest.bit_length()):
            middle = (low + high) >> 1
            earlier = (low < high) & (self.times[middle.clamp(max=last)] < when)
            low = torch.where(earlier, middle + 1, low)
            high = torch.where(earlier, high, torch.maximum(middle, low))
        return low

    def all_users(self) -> Tensor:
        """(U,) int64 rows of all users."""
        return torch.arange(len(self), device=self.device)

    def before(self, when: int) -> Sequences:
        """Return the histories as of a time: events strictly before it.

        ``until`` becomes that time even where the log ends earlier: an as-of time must not show
        whether there are later events. Only a cut that was made before stays.
        """
        if when >= self.until:
            return self if self.cut else replace(self, until=when, cut=True)
        return replace(self, ends=self.locate(self.all_users(), when), until=when, cut=True)

    def between(self, start: int, end: int) -> Sequences:
        """Return the histories within ``[start, end)``."""
        cut = self.before(end)
        return replace(cut, starts=cut.locate(cut.all_users(), start))

    def select(self, rows: Tensor) -> Sequences:
        """Return the given users only, in that order."""
        return replace(
            self,
            users=self.users.take(pa.array(rows.cpu().numpy())),
            starts=self.starts[rows],
            ends=self.ends[rows],
        )

    def limit(self, window: Window) -> Sequences:
        """Return the same histories with a rule by which :meth:`window` clips what is drawn."""
        return replace(self, clip=window)

    def bounds(self, users: Tensor, hi: Tensor, as_of: Tensor | int) -> Tensor:
        """Return (n,) int64: where a history that ends at ``hi`` begins once it is clipped."""
        lo = self.starts[users]
        if self.clip.max_events is not None:
            lo = torch.maximum(lo, hi - self.clip.max_events)
        if self.clip.max_days is not None:
            earliest = as_of - int(self.clip.max_days * MICROSECONDS_PER_DAY)
            lo = torch.maximum(lo, self.locate(users, earliest))
        return torch.minimum(lo, hi)

    def window(
        self, users: Tensor, lo: Tensor, hi: Tensor, as_of: Tensor, limit: bool = True
    ) -> SequenceBatch:
        """Gather pieces of histories into a batch.

        Args:
            users: (B,) int64 user rows.
            lo: (B,) int64 positions of the first events.
            hi: (B,) int64 positions behind the last ones; row b is events ``lo[b]:hi[b]``.
            as_of: (B,) int64 microseconds, not before the last event's time.
            limit: clip each piece to the encoder's window first.
        """
        if limit:
            lo = torch.maximum(lo, self.bounds(users, hi, as_of))
        lengths = hi - lo
        ends = lengths.cumsum(0)
        events = int(ends[-1]) if ends.numel() else 0
        picked = torch.repeat_interleave(lo - (ends - lengths), lengths, output_size=events)
        picked += torch.arange(events, device=self.device)
        longest = int(lengths.max()) if lengths.numel() else 0
        columns = {name: column[picked] for name, column in self.columns.items()}
        if "event_type" in columns:
            columns["event_type"] = columns["event_type"].long()
        return SequenceBatch(
            codes=self.codes[picked].long(),
            times=self.times[picked],
            lengths=lengths,
            users=users,
            as_of=as_of,
            width=bucket_width(longest, self.clip.max_events if limit else None),
            columns=columns,
        )

    def histories(self, users: Tensor, as_of: Tensor | None = None) -> SequenceBatch:
        """Gather whole histories (clipped to the encoder's window).

        Args:
            users: (B,) int64 user rows.
            as_of: (B,) int64 microseconds, each row up to its time; None: up to ``until``.
        """
        if as_of is None:
            hi = self.ends[users]
            as_of = torch.full_like(hi, self.until)
        else:
            hi = self.locate(users, as_of)
        return self.window(users, self.starts[users], hi, as_of)


def fit_vocabulary(
    packed: PackedEvents, until: int, min_count: int = 1, max_items: int | None = None
) -> Vocabulary:
    """Fit a vocabulary on the events strictly before a time, so that it knows no later item.

    Args:
        packed: sorted events.
        until: microseconds, exclusive.
        min_count: events an item needs.
        max_items: at most so many items, the most frequent.
    """
    past = packed.times < until
    counts = np.bincount(packed.items[past], minlength=len(packed.item_ids))
    types: list[str] = []
    if "event_type" in packed.columns:
        seen = np.bincount(
            packed.columns["event_type"][past], minlength=len(packed.event_types) + 1
        )
        types = [name for name, n in zip(packed.event_types, seen[1:], strict=True) if n]
    return Vocabulary.fit(packed.item_ids, counts, types, min_count, max_items)
