"""Lists of items as training units: a history as of a moment, and all that was shown then."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from unirep_feast.objective import Views
from unirep_feast.sampler import Draw, Units
from unirep_feast.sequences import Sequences
from unirep_feast_userbert.config import ListsSettings
from unirep_feast_userbert.impressions import ImpressionRows, match_rows


@dataclass(frozen=True)
class ShownLists:
    """Rows of a table, ordered so that what was shown together stands together.

    Attributes:
        rows: the table's rows.
        order: (n,) int64 places in ``rows``, list by list.
        starts, lengths: (L,) int64 of each list in ``order``.
        left_out: rows that are in no list, by reason.
    """

    rows: ImpressionRows
    order: Tensor
    starts: Tensor
    lengths: Tensor
    left_out: dict[str, int]


class ListsSampler:
    """Views ``history``, ``candidates``, ``rows`` and ``clicked`` for lists of a parquet table.

    Rows of one user and one time are a list. ``candidates``, ``rows`` and ``clicked`` are (C,)
    int64: item code, which row of ``history`` it was shown to, ascending, and 0 or 1. Rows are left
    out, and counted in :attr:`left_out`, as :class:`ImpressionsSampler` does; so are lists in which
    all or nothing was clicked, for these nothing can be ranked.

    Args:
        settings: see :class:`ListsSettings`.

    Attributes:
        left_out: rows that are in no list, by reason; of the last call to :meth:`units`.
    """

    views = frozenset({"history", "candidates", "rows", "clicked"})

    def __init__(self, settings: ListsSettings) -> None:
        self.settings = settings
        self.left_out: dict[str, int] = {}
        self._lists: tuple[Sequences, ShownLists] | None = None

    def units(self, sequences: Sequences) -> Tensor:
        """Return (L,) int64: the user row of each list, by user and time."""
        lists = self._units(sequences)
        self.left_out = lists.left_out
        return lists.rows.users[lists.order[lists.starts]]

    def sample(self, sequences: Sequences, units: Units, draw: Draw) -> Views:
        """Return histories and whole lists; nothing is random."""
        lists = self._units(sequences)
        starts, lengths = lists.starts[units.index], lists.lengths[units.index]
        rows = torch.repeat_interleave(lengths)
        first = lengths.cumsum(0) - lengths  # where each list begins in what is returned
        within = torch.arange(len(rows), device=rows.device) - first[rows]
        place = lists.order[starts[rows] + within]
        return {
            "history": sequences.histories(units.users, lists.rows.as_of[lists.order[starts]]),
            "candidates": lists.rows.items[place],
            "rows": rows,
            "clicked": lists.rows.clicked[place],
        }

    def _units(self, sequences: Sequences) -> ShownLists:
        # A function of file and sequences alone; kept because every step asks for it.
        if self._lists is None or self._lists[0] is not sequences:
            self._lists = (sequences, _grouped(match_rows(self.settings, sequences, None)))
        return self._lists[1]


def _grouped(rows: ImpressionRows) -> ShownLists:
    """Put rows of one user and one time together, in the table's order."""
    order = torch.argsort(rows.as_of, stable=True)
    order = order[torch.argsort(rows.users[order], stable=True)]
    both = torch.stack((rows.users[order], rows.as_of[order]), 1)
    _, number, lengths = torch.unique_consecutive(
        both, dim=0, return_inverse=True, return_counts=True
    )
    clicks = torch.zeros_like(lengths).index_add_(0, number, rows.clicked[order])
    kept = (clicks > 0) & (clicks < lengths)
    left_out = dict(rows.left_out)
    if not bool(kept.all()):
        left_out["list with all or nothing clicked"] = int(lengths[~kept].sum())
    starts = lengths.cumsum(0) - lengths
    return ShownLists(rows, order, starts[kept], lengths[kept], left_out)
