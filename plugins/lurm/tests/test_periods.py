from __future__ import annotations

from datetime import UTC, datetime, timedelta

import torch
from hypothesis import given
from hypothesis import strategies as st

from unirep_feast.instants import parse_instant
from unirep_feast_lurm.periods import month_of, period_of

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LEAST, MOST = datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, tzinfo=UTC)


@given(
    st.integers(
        (LEAST - EPOCH) // timedelta(microseconds=1), (MOST - EPOCH) // timedelta(microseconds=1)
    )
)
def test_months_are_those_of_the_calendar(microseconds: int) -> None:
    """For every moment that Python's datetime knows."""
    when = EPOCH + timedelta(microseconds=microseconds)

    assert int(month_of(torch.tensor([microseconds]))) == (when.year - 1970) * 12 + when.month - 1


def test_a_month_ends_with_its_last_microsecond() -> None:
    """Leap days and turns of years included."""
    for first in ("2000-03-01", "2001-03-01", "1900-03-01", "1970-01-01", "2012-02-01"):
        start = parse_instant(first)
        before, at = month_of(torch.tensor([start - 1, start])).tolist()

        assert at == before + 1


def test_seasons_and_years_are_whole_months() -> None:
    """January 1970 begins season 0 and year 0; December 1969 is in the ones before."""
    months = torch.arange(-13, 13)

    seasons, years = period_of(months, 3).tolist(), period_of(months, 12).tolist()

    assert seasons == [n // 3 for n in range(-13, 13)]
    assert years == [n // 12 for n in range(-13, 13)]
