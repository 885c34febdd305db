from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from datetime import datetime

import pytest
import torch

from unirep_feast.batch import MASK, SequenceBatch
from unirep_feast_lurm.bag import Bag

INTERESTS = 5
LENGTHS = {"month": 1, "season": 3, "year": 12}

Entries = dict[tuple[int, int, int], float]


def interests_of(codes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Items are of interest code mod 5; the special codes of none."""
    return (codes % INTERESTS)[:, None], (codes > 2).float()[:, None]


def shared_interests_of(codes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Three quarters of one interest, a quarter of the next."""
    places = torch.stack((codes % INTERESTS, (codes + 1) % INTERESTS), 1)
    return places, torch.tensor([0.75, 0.25]).expand(len(codes), 2) * (codes > 2)[:, None]


def counted(rows: list[list[tuple[int, str]]], length: int, soft: bool) -> Entries:
    """Count by dictionary: (row, absolute period, interest) to a count."""
    counts: Entries = defaultdict(float)
    for row, events in enumerate(rows):
        for code, text in events:
            when = datetime.fromisoformat(text)
            period = ((when.year - 1970) * 12 + when.month - 1) // length
            for place, share in ((0, 0.75), (1, 0.25)) if soft else ((0, 1.0),):
                counts[row, period, (code + place) % INTERESTS] += share
    return counts


def entries_of(bag: Bag) -> Entries:
    keys = zip(bag.rows.tolist(), bag.periods.tolist(), bag.interests.tolist(), strict=True)
    return dict(zip(keys, bag.counts.tolist(), strict=True))


@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize("scale", LENGTHS)
def test_bags_are_those_counted_by_a_dictionary(
    batch_of: Callable[..., SequenceBatch],
    random_rows: Callable[..., list[list[tuple[int, str]]]],
    scale: str,
    soft: bool,
) -> None:
    """Per row, calendar period and interest; the values are log(1 + count), Eq 4."""
    rows = random_rows(9, longest=60)
    lookup = shared_interests_of if soft else interests_of
    bag = Bag.monthly(batch_of(rows), lookup, INTERESTS).at(LENGTHS[scale], INTERESTS)

    wanted = counted(rows, LENGTHS[scale], soft)
    assert entries_of(bag) == wanted
    keys = zip(bag.rows.tolist(), bag.periods.tolist(), bag.interests.tolist(), strict=True)
    logs = dict(zip(keys, bag.values.tolist(), strict=True))
    assert logs == pytest.approx({key: math.log(1 + count) for key, count in wanted.items()})


def test_a_year_is_no_sum_of_its_months(batch_of: Callable[..., SequenceBatch]) -> None:
    """Two events of an interest in two months: log 3 in the year, not 2 log 2."""
    batch = batch_of([[(5, "2012-01-31"), (5, "2012-02-01")]])
    months = Bag.monthly(batch, interests_of, INTERESTS)

    assert months.values.tolist() == pytest.approx([math.log(2)] * 2)
    assert months.at(12, INTERESTS).values.tolist() == pytest.approx([math.log(3)])


def test_periods_run_from_the_first_event_to_the_last(
    batch_of: Callable[..., SequenceBatch],
) -> None:
    """Empty periods between them count, those before and behind do not; an empty row has none."""
    batch = batch_of([[(5, "2011-12-31"), (6, "2012-03-01")], [], [(7, "2013-05-05")]])
    months = Bag.monthly(batch, interests_of, INTERESTS)

    assert months.steps.tolist() == [4, 0, 1]
    assert months.places.tolist() == [0, 3, 4]
    assert months.at(3, INTERESTS).steps.tolist() == [2, 0, 1]
    assert months.at(12, INTERESTS).steps.tolist() == [2, 0, 1]
    assert months.whole(INTERESTS).steps.tolist() == [1, 0, 1]


def test_events_without_an_interest_mark_time_only(
    batch_of: Callable[..., SequenceBatch],
) -> None:
    """A masked or unknown item is no entry, but its period is a step."""
    bag = Bag.monthly(batch_of([[(MASK, "2012-01-01"), (5, "2012-02-01")]]), interests_of, 5)

    assert (bag.steps.tolist(), bag.places.tolist()) == ([2], [1])
