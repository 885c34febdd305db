"""Which behaviors are masked, and which pieces of histories are compared."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from unirep_feast.batch import FIRST_ITEM, SequenceBatch
from unirep_feast.items import ItemTable
from unirep_feast.sequences import Sequences


def masked_places(history: SequenceBatch, share: float, generator: torch.Generator) -> Tensor:
    """Draw the behaviors to hide: "10% of user behaviors (and at least one)" of each row.

    A row of several events keeps at least one.

    Args:
        history: B rows; only events of known items can be hidden.
        share: of each row's events, rounded to whole ones.
        generator: on the batch's device.

    Returns:
        (M,) int64 packed positions, ascending.
    """
    named = history.codes >= FIRST_ITEM
    most = (history.lengths - 1).clamp(min=1)
    count = (history.lengths * share).round().long().clamp(min=1).minimum(most)  # (B,)
    lot = torch.rand(
        history.codes.shape, generator=generator, device=history.device, dtype=torch.float64
    )
    # Rows in order, the drawn lots ascending within each, what has no name behind all others.
    order = torch.argsort(history.rows + torch.where(named, lot / 2, 0.5 + lot / 2), stable=True)
    hidden = torch.zeros_like(named)
    hidden[order] = history.steps < count[history.rows]
    return torch.nonzero(hidden & named).flatten()


@dataclass(frozen=True)
class Pair:
    """Two pieces of each of some users' histories: the second begins after the first has ended.

    Attributes:
        rows: (b,) int64 which of the users asked for; the others have no two such pieces.
        first, second: b rows each.
    """

    rows: Tensor
    first: SequenceBatch
    second: SequenceBatch


def disjoint_pieces(sequences: Sequences, users: Tensor, generator: torch.Generator) -> Pair:
    """Cut histories in two at a time, drawn evenly among the behaviors that can begin the second.

    The first piece is what happened strictly before, the second what followed; both are limited by
    the encoder's window, next to the cut. Events of equal time never fall on both sides.

    Args:
        sequences: with the encoder's window.
        users: (n,) int64 rows of users with a behavior.
        generator: on the device of the sequences.
    """
    starts, ends = sequences.starts[users], sequences.ends[users]
    lot = torch.rand(len(users), generator=generator, device=sequences.device, dtype=torch.float64)
    second = sequences.locate(users, sequences.times[starts] + 1)  # behind all of the first time
    rows = torch.nonzero(second < ends).flatten()
    users, starts, ends, second = users[rows], starts[rows], ends[rows], second[rows]
    chosen = second + torch.minimum((lot[rows] * (ends - second)).long(), ends - second - 1)
    cut = sequences.times[chosen]
    middle = sequences.locate(users, cut)
    if sequences.clip.max_events is not None:
        ends = torch.minimum(ends, middle + sequences.clip.max_events)
    return Pair(
        rows,
        sequences.window(users, starts, middle, cut),
        sequences.window(users, middle, ends, sequences.times[ends - 1] + 1),
    )


class Candidates:
    """What negatives are drawn from, all users and all behaviors of a log; made once for it.

    Args:
        sequences: with the encoder's window.
    """

    def __init__(self, sequences: Sequences) -> None:
        self.sequences = sequences
        self.users = torch.nonzero(sequences.lengths).flatten()
        self._ends = sequences.lengths[self.users].cumsum(0)

    def crops(self, count: int | None, generator: torch.Generator) -> SequenceBatch:
        """Crop random sequences: any length up to the window's, anywhere in a history.

        Args:
            count: of how many users, drawn with replacement; None: one of every user.
            generator: on the device of the sequences.
        """
        sequences, users = self.sequences, self.users
        device = sequences.device
        if count is not None:
            drawn = torch.randint(len(users), (count,), generator=generator, device=device)
            users = users[drawn]
        have = sequences.lengths[users]
        most = (
            have if sequences.clip.max_events is None else have.clamp(max=sequences.clip.max_events)
        )
        lot = torch.rand(2, len(users), generator=generator, device=device, dtype=torch.float64)
        length = 1 + torch.minimum((lot[0] * most).long(), most - 1)
        room = have - length
        lo = sequences.starts[users] + torch.minimum((lot[1] * (room + 1)).long(), room)
        hi = lo + length
        return sequences.window(users, lo, hi, sequences.times[hi - 1] + 1)

    def behaviors(self, count: int | None, generator: torch.Generator) -> Tensor:
        """Draw behaviors evenly from all there are; each content once.

        Args:
            count: how many are drawn; fewer contents remain. None: every known item's.
            generator: on the device of the sequences.

        Returns:
            (m, 2) int64 item codes and their contents, see :attr:`contents`.
        """
        sequences = self.sequences
        if count is None:
            codes = torch.arange(FIRST_ITEM, sequences.items.known, device=sequences.device)
        else:
            total = int(self._ends[-1])
            lot = torch.randint(total, (count,), generator=generator, device=sequences.device)
            row = torch.searchsorted(self._ends, lot, right=True)
            user = self.users[row]
            codes = sequences.codes[sequences.ends[user] - (self._ends[row] - lot)].long()
            codes = torch.unique(codes[codes >= FIRST_ITEM])
        return self.with_contents(_first_of_each(codes, self.contents[codes]))

    def with_contents(self, codes: Tensor) -> Tensor:
        """(n,) codes to (n, 2) codes and contents."""
        return torch.stack((codes, self.contents[codes]), 1)

    @cached_property
    def contents(self) -> Tensor:
        """(V,) int64 per item code: equal for items with the same title, spelt alike or not."""
        return contents_of(self.sequences.items).to(self.sequences.device)


def contents_of(items: ItemTable) -> Tensor:
    """Number items by what they say: (V,) int64, the lowest code with the same title.

    Case and surrounding spaces make no difference; items without a title are each of their own.
    """
    own = torch.arange(len(items))
    titles = pc.utf8_lower(pc.utf8_trim_whitespace(items.titles.cast(pa.large_string())))
    titles = pc.if_else(pc.equal(titles, ""), pa.scalar(None, pa.large_string()), titles)
    distinct = pc.unique(pc.drop_null(titles))
    if len(distinct) == 0:
        return own
    lowest = pc.index_in(distinct, value_set=titles)  # where each title stands first
    number = pc.index_in(titles, value_set=distinct, skip_nulls=True)
    first = pc.fill_null(lowest.take(number), -1).to_numpy(zero_copy_only=False)
    place = torch.from_numpy(first.astype("int64"))
    own[FIRST_ITEM:] = torch.where(place >= 0, place + FIRST_ITEM, own[FIRST_ITEM:])
    return own


def _first_of_each(codes: Tensor, contents: Tensor) -> Tensor:
    """Keep one of the codes for each content, the first."""
    order = torch.argsort(contents, stable=True)
    ordered = contents[order]
    fresh = torch.ones_like(ordered, dtype=torch.bool)
    fresh[1:] = ordered[1:] != ordered[:-1]
    return codes[order[fresh]]
