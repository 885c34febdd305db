"""What an encoder is about to look at, as one number per user: equal numbers, equal input.

A snapshot keeps these numbers beside the vectors, so that a later one can tell whose history, as
far as the encoder's window shows it, is still the same: no new event, none that arrived late, was
changed or deleted, none that grew too old for the window, no item whose title became known.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from unirep_feast.items import ItemTable
from unirep_feast.sequences import Sequences

#: Events hashed at once; a dozen temporary 8-byte columns of them fit any machine.
_EVENTS = 1 << 21

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


class HistoryHasher:
    """Hashes histories with everything that is known of their items.

    The hash of a history is the sum of its events' hashes. An event's is of its time, its item's
    code, title and categories, and its further columns, so that neither the file order of the log
    nor the other users matter.
    """

    def __init__(self, items: ItemTable) -> None:
        """Hash the items; they are few beside the events."""
        self._items = _item_words(items)

    def __call__(self, past: Sequences, rows: Tensor, as_of: int) -> np.ndarray:
        """Return (n,) int64 hashes of clipped histories.

        Args:
            past: histories before ``as_of``, with the encoder's window as their clip.
            rows: (n,) int64 user rows.
            as_of: T, microseconds.
        """
        ends = past.ends[rows]
        starts = past.bounds(rows, ends, torch.full_like(ends, as_of)).numpy()
        lengths = ends.numpy() - starts
        hashes = np.empty(len(starts), np.uint64)
        for part in _parts(lengths):
            hashes[part] = self._sums(past, starts[part], lengths[part])
        # Mixed once more with the count: the sum of no event is not that of two that cancel out.
        return _mix(hashes + lengths.astype(np.uint64) * _GOLDEN).view(np.int64)

    def _sums(self, past: Sequences, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        ends = np.cumsum(lengths)
        picked = np.repeat(starts - (ends - lengths), lengths)
        picked += np.arange(len(picked))
        words = past.times.numpy()[picked].view(np.uint64) * _GOLDEN
        words += self._items[past.codes.numpy()[picked]]
        words = _mix(words)
        for name in sorted(past.columns):
            words += _bits(past.columns[name].numpy()[picked])
            words = _mix(words)
        sums = np.concatenate((np.zeros(1, np.uint64), np.cumsum(words, dtype=np.uint64)))
        found: np.ndarray = sums[ends] - sums[ends - lengths]
        return found


def _parts(lengths: np.ndarray) -> Iterator[slice]:
    """Cut rows into runs of some millions of events; a longer history is a run of its own."""
    total = np.cumsum(lengths)
    start = 0
    while start < len(lengths):
        before = total[start - 1] if start else 0
        end = max(int(np.searchsorted(total, before + _EVENTS, side="right")), start + 1)
        yield slice(start, end)
        start = end


def _mix(words: np.ndarray) -> np.ndarray:
    """Scramble (n,) uint64 in place, one to one, so that neighbours have nothing in common."""
    words ^= words >> np.uint64(30)
    words *= np.uint64(0xBF58476D1CE4E5B9)
    words ^= words >> np.uint64(27)
    words *= np.uint64(0x94D049BB133111EB)
    words ^= words >> np.uint64(31)
    return words


def _bits(column: np.ndarray) -> np.ndarray:
    """(n,) uint64: the bits of each number, whatever its type."""
    return column.view(np.dtype(f"u{column.itemsize}")).astype(np.uint64)


def _item_words(items: ItemTable) -> np.ndarray:
    """(codes,) uint64 hashes of what an encoder may know of an item."""
    words = _mix(np.arange(len(items), dtype=np.uint64) + np.uint64(1))
    known = words[len(items) - len(items.item_ids) :]
    if items.titles.null_count < len(items.titles):
        known += _text_words(items.titles)
    if items.categories.null_count < len(items.categories):
        known += _list_words(items.categories)
    return words


def _text_words(texts: pa.Array) -> np.ndarray:
    import pandas as pd

    words: np.ndarray = pd.util.hash_array(texts.to_numpy(zero_copy_only=False), categorize=False)
    return _mix(words.copy())


def _list_words(lists: pa.ListArray) -> np.ndarray:
    """Hashes of (n,) lists of texts, in which the order counts; null is not the empty list."""
    lengths = lists.value_lengths().fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    ends = np.cumsum(lengths)
    place = np.arange(int(lengths.sum())) - np.repeat(ends - lengths, lengths)
    words = _mix(_text_words(lists.flatten()) + (place.astype(np.uint64) + np.uint64(1)) * _GOLDEN)
    sums = np.concatenate((np.zeros(1, np.uint64), np.cumsum(words, dtype=np.uint64)))
    found = sums[ends] - sums[ends - lengths]
    found += lists.is_valid().to_numpy(zero_copy_only=False).astype(np.uint64) * _GOLDEN
    return _mix(found)
