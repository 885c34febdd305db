"""Hide each user's latest events, at a time and never inside a tie."""

from __future__ import annotations

import torch
from torch import Tensor

from unirep_feast.sequences import Sequences


def held_out_ends(sequences: Sequences, users: Tensor, hold_out: int) -> tuple[Tensor, Tensor]:
    """Find where histories end once the latest events are hidden.

    Leave-one-out counts events, but a history may only be cut at a time: events that share the
    time of a hidden one are hidden too.

    Args:
        sequences: all histories.
        users: (n,) int64 user rows.
        hold_out: events to hide from each.

    Returns:
        Two (n,) int64: the position behind the last event that is left (a user with no more
        than ``hold_out`` events has none left), and the time, in microseconds, that every event
        left is strictly earlier than.
    """
    ends = sequences.ends[users]
    until = torch.full_like(ends, sequences.until)
    if hold_out == 0:
        return ends, until
    starts = sequences.starts[users]
    if sequences.times.shape[0] == 0:
        return starts, until
    first_hidden = (ends - hold_out).clamp(min=starts)
    some = starts < ends  # else first_hidden is the next user's event
    last = sequences.times.shape[0] - 1
    times = torch.where(some, sequences.times[first_hidden.clamp(max=last)], until)
    return sequences.locate(users, times), times
