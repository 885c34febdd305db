"""How often each term occurs in each history, sparse, in a fixed order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from unirep_feast.batch import FIRST_ITEM, SequenceBatch
from unirep_feast.sequences import Sequences

#: Users whose events are in memory at once while something is fitted.
_BLOCK = 8192


@dataclass(frozen=True)
class Counts:
    """Distinct terms of each row, by ascending term; rows without one have no entry.

    Attributes:
        terms: (E,) int64.
        counts: (E,) int64, at least 1.
        rows: (E,) int64, ascending.
        lengths: (B,) int64 entries per row.
    """

    terms: Tensor
    counts: Tensor
    rows: Tensor
    lengths: Tensor

    @classmethod
    def of(cls, rows: Tensor, terms: Tensor, batch: int, size: int) -> Counts:
        """Count (M,) terms below ``size`` of (M,) rows below ``batch``."""
        key, counts = torch.unique(rows * size + terms, return_counts=True)
        row = torch.div(key, max(size, 1), rounding_mode="floor")
        return cls(key - row * size, counts, row, torch.bincount(row, minlength=batch))

    @property
    def starts(self) -> Tensor:
        """(B,) int64 where each row's entries begin."""
        return self.lengths.cumsum(0) - self.lengths

    def sums(self, values: Tensor) -> Tensor:
        """Add up (E,) values per row, in order: (B,)."""
        return row_sums(values, self.lengths)


def row_sums(values: Tensor, lengths: Tensor) -> Tensor:
    """Add up (E,) float values of packed rows, in order, whoever else is there: (B,)."""
    if not len(values):
        return values.new_zeros(len(lengths))
    sums: Tensor = torch.segment_reduce(values, "sum", lengths=lengths)
    return sums


def count_items(batch: SequenceBatch, known: int) -> Counts:
    """Count the items of a batch whose codes are below ``known``; UNK and MASK are left out."""
    kept = (batch.codes >= FIRST_ITEM) & (batch.codes < known)
    return Counts.of(batch.rows[kept], batch.codes[kept], len(batch), known)


def blocks(sequences: Sequences, users: int = _BLOCK) -> Iterator[SequenceBatch]:
    """Yield the histories of all users with an event, some thousand users at a time."""
    rows = torch.nonzero(sequences.lengths).flatten()
    for some in torch.split(rows, users):
        yield sequences.histories(some)


def count_matrix(
    sequences: Sequences, count: Callable[[SequenceBatch], Counts], size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Count the terms of all users with an event, for libraries that take a sparse matrix.

    Args:
        sequences: histories before the training cut-off.
        count: of a batch.
        size: terms there are.

    Returns:
        CSR data (float32), indices (int32) and offsets (int64), and the number of rows.
    """
    data, indices, lengths = [], [], []
    for batch in blocks(sequences):
        counts = count(batch)
        data.append(counts.counts.to(torch.float32).cpu().numpy())
        indices.append(counts.terms.to(torch.int32).cpu().numpy())
        lengths.append(counts.lengths.cpu().numpy())
    if not lengths:
        return np.zeros(0, np.float32), np.zeros(0, np.int32), np.zeros(1, np.int64), 0
    joined = np.concatenate(lengths)
    offsets = np.concatenate(([0], np.cumsum(joined, dtype=np.int64)))
    return np.concatenate(data), np.concatenate(indices), offsets, len(joined)
