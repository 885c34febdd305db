"""A batch of histories, packed end to end: what every encoder gets.

Axes used across the project: ``B`` users (rows), ``T`` steps (padded width), ``N`` packed events,
``K`` vectors per user, ``D`` dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property

import torch
from torch import Tensor

PAD, MASK, UNK = 0, 1, 2
#: The first code that stands for an item; lower ones are PAD, MASK and UNK.
FIRST_ITEM = 3

_SMALLEST_WIDTH = 8


def bucket_width(events: int, at_most: int | None = None) -> int:
    """Round a number of events up to one of few widths, so that shapes repeat.

    Widths are 8, 16, 24, 32, 48, 64, 96, 128, 192, …: at most a third of a row is padding from 16
    events on, and compiled graphs and bit-equal results need shapes that come again.

    Args:
        events: the longest history of a batch, in events, >= 0.
        at_most: the encoder's own limit; the last width is cut down to it.

    >>> [bucket_width(n) for n in (0, 8, 9, 17, 33, 50, 65, 200_000)]
    [8, 8, 16, 24, 48, 64, 96, 262144]
    >>> bucket_width(50, at_most=50)
    50
    """
    width = _SMALLEST_WIDTH
    while width < events:
        width *= 2
    middle = width // 4 * 3
    if middle % _SMALLEST_WIDTH == 0 and events <= middle:
        width = middle
    return width if at_most is None else max(1, min(width, at_most))


@dataclass(frozen=True)
class SequenceBatch:
    """Histories of ``B`` users, events packed one user after the other, oldest first.

    Nothing is padded until an encoder asks for it, so a batch with one history of 200,000 events
    costs what its events cost. All tensors are on one device.

    Attributes:
        codes: (N,) int64 item codes; 0 PAD, 1 MASK, 2 UNK, items from 3 on.
        times: (N,) int64 event times, microseconds since 1970 UTC.
        lengths: (B,) int64 events per row; 0 is allowed.
        users: (B,) int64 row of the user in the ``Sequences``; -1 for a filler row.
        as_of: (B,) int64 microseconds; every event of the row is strictly earlier.
        width: T, at least the longest row; chosen by the host so that shapes repeat.
        columns: further (N,) columns: ``event_type`` (int64, 0 unknown), ``value`` (float32, NaN
            where the log has none).
    """

    codes: Tensor
    times: Tensor
    lengths: Tensor
    users: Tensor
    as_of: Tensor
    width: int
    columns: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        """Return the number of rows, B."""
        return int(self.lengths.shape[0])

    @property
    def device(self) -> torch.device:
        """The device all tensors are on."""
        return self.codes.device

    @cached_property
    def offsets(self) -> Tensor:
        """(B + 1,) int64: row b holds events ``offsets[b]:offsets[b + 1]``."""
        zero = self.lengths.new_zeros(1)
        return torch.cat((zero, self.lengths.cumsum(0)))

    @cached_property
    def rows(self) -> Tensor:
        """(N,) int64: the row of every packed event."""
        index = torch.arange(len(self), device=self.device)
        return torch.repeat_interleave(index, self.lengths, output_size=self.codes.shape[0])

    @cached_property
    def steps(self) -> Tensor:
        """(N,) int64: the position of every packed event in its row, oldest 0."""
        position = torch.arange(self.codes.shape[0], device=self.device)
        return position - self.offsets[:-1][self.rows]

    @cached_property
    def mask(self) -> Tensor:
        """(B, T) bool: True where there is an event; rows are padded on the right."""
        return torch.arange(self.width, device=self.device) < self.lengths[:, None]

    @cached_property
    def first(self) -> Tensor:
        """(B,) int64: packed position of each row's oldest event (undefined for empty rows)."""
        return self.offsets[:-1]

    @cached_property
    def last(self) -> Tensor:
        """(B,) int64: packed position of each row's latest event (undefined for empty rows)."""
        return self.offsets[1:] - 1

    @cached_property
    def _gather(self) -> Tensor:
        position = self.first[:, None] + torch.arange(self.width, device=self.device)
        return position.clamp_(max=max(self.codes.shape[0] - 1, 0))  # (B, T)

    def pad(self, packed: Tensor, fill: float = 0) -> Tensor:
        """Lay a packed column out in rows.

        Args:
            packed: (N, ...) one entry per event.
            fill: what stands where there is no event.

        Returns:
            (B, T, ...), events first, then ``fill``.
        """
        tail = packed.shape[1:]
        if packed.shape[0] == 0:
            return packed.new_full((len(self), self.width, *tail), fill)
        mask = self.mask.reshape(*self.mask.shape, *(1 for _ in tail))
        return packed[self._gather].masked_fill(~mask, fill)

    def unpad(self, padded: Tensor) -> Tensor:
        """Undo :meth:`pad`: (B, T, ...) to (N, ...)."""
        return padded[self.rows, self.steps]

    def take(self, rows: Tensor, width: int | None = None) -> SequenceBatch:
        """Return the batch of the given rows, in that order.

        Args:
            rows: (b,) int64 row numbers.
            width: the T of the new batch; None keeps this one's.
        """
        lengths = self.lengths[rows]
        events = int(lengths.sum())
        shift = self.first[rows] - (lengths.cumsum(0) - lengths)
        picked = torch.repeat_interleave(shift, lengths, output_size=events)
        picked = picked + torch.arange(events, device=self.device)
        return SequenceBatch(
            codes=self.codes[picked],
            times=self.times[picked],
            lengths=lengths,
            users=self.users[rows],
            as_of=self.as_of[rows],
            width=self.width if width is None else width,
            columns={name: column[picked] for name, column in self.columns.items()},
        )

    def with_codes(self, codes: Tensor) -> SequenceBatch:
        """Return the same events with other codes, for instance with some of them MASK."""
        return replace(self, codes=codes)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> SequenceBatch:
        """Move every tensor to a device."""
        moved = {
            f.name: getattr(self, f.name).to(device, non_blocking=non_blocking)
            for f in fields(self)
            if isinstance(getattr(self, f.name), Tensor)
        }
        columns = {k: v.to(device, non_blocking=non_blocking) for k, v in self.columns.items()}
        return replace(self, columns=columns, **moved)
