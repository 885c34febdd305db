"""Explicit augmentation (section IV-B.1): mask, crop or permute events, all users at once.

Each function takes, per row, how many events to touch; 0 leaves a row as it is. Rows never lose
their last event, and no function looks at padding, because packed batches have none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from unirep_feast.batch import MASK, SequenceBatch, bucket_width


def share(lengths: Tensor, proportion: float | Tensor, at_least: int, spared: int) -> Tensor:
    """How many events a proportion of each history is.

    Args:
        lengths: (B,) int64 events per row.
        proportion: one for all or (B,) float; rounded to the nearest number of events.
        at_least: events that are touched in any case, where there are so many to touch.
        spared: events that must stay untouched.

    Returns:
        (B,) int64, within 0 and ``lengths``.
    """
    wanted = (lengths * proportion).round().long().clamp(min=at_least)
    return torch.minimum(wanted, (lengths - spared).clamp(min=0))


def mask(batch: SequenceBatch, count: Tensor, generator: torch.Generator) -> SequenceBatch:
    """Replace ``count`` random events of each row by [MASK]; times stay.

    Args:
        batch: packed histories.
        count: (B,) int64, at most the length of each row.
        generator: on the batch's device.
    """
    lot = _uniform(batch.codes.shape[0], batch, generator)
    order = torch.argsort(batch.rows + lot)  # within each row, events in random order
    chosen = torch.empty_like(order)
    chosen[order] = batch.steps  # place in that order; rows keep their places as a whole
    return batch.with_codes(batch.codes.masked_fill(chosen < count[batch.rows], MASK))


def crop(batch: SequenceBatch, count: Tensor, generator: torch.Generator) -> SequenceBatch:
    """Drop a random contiguous piece of ``count`` events from each row, keep the rest.

    Args:
        batch: packed histories.
        count: (B,) int64, less than the length of each row that has events.
        generator: on the batch's device.
    """
    kept = ~_inside_piece(batch, count, generator)
    lengths = batch.lengths - count
    longest = int(lengths.max()) if len(batch) else 0
    return replace(
        batch,
        codes=batch.codes[kept],
        times=batch.times[kept],
        lengths=lengths,
        width=bucket_width(longest, batch.width),
        columns={name: column[kept] for name, column in batch.columns.items()},
    )


def permute(batch: SequenceBatch, count: Tensor, generator: torch.Generator) -> SequenceBatch:
    """Shuffle a random contiguous piece of ``count`` events of each row.

    What happened moves, the times stay where they are, so a history stays sorted by time.

    Args:
        batch: packed histories.
        count: (B,) int64, at most the length of each row.
        generator: on the batch's device.
    """
    inside = _inside_piece(batch, count, generator)
    place = torch.arange(batch.codes.shape[0], device=batch.device)
    # Pieces are contiguous, so ordering the inside by (row, lot) and writing it back to the same
    # places in turn shuffles every piece within itself.
    places = place[inside]
    lot = _uniform(places.shape[0], batch, generator)
    source = place.clone()
    source[places] = places[torch.argsort(batch.rows[inside] + lot)]
    columns = {name: column[source] for name, column in batch.columns.items()}
    return replace(batch, codes=batch.codes[source], columns=columns)


#: Each explicit augmentation with its (at_least, spared) of :func:`share`.
AUGMENTATIONS: dict[
    str, tuple[Callable[[SequenceBatch, Tensor, torch.Generator], SequenceBatch], int, int]
] = {
    "mask": (mask, 1, 1),
    "crop": (crop, 1, 1),
    "permute": (permute, 2, 0),
}


def _uniform(count: int, batch: SequenceBatch, generator: torch.Generator) -> Tensor:
    # float64: next to a row number, float32 would leave few bits for the lot.
    return torch.rand(count, generator=generator, device=batch.device, dtype=torch.float64)


def _inside_piece(batch: SequenceBatch, count: Tensor, generator: torch.Generator) -> Tensor:
    """(N,) bool: whether an event is in its row's piece; all places are equally likely."""
    lot = _uniform(len(batch), batch, generator)
    start = (lot * (batch.lengths - count + 1)).long()
    start, end = start[batch.rows], (start + count)[batch.rows]
    return (batch.steps >= start) & (batch.steps < end)
