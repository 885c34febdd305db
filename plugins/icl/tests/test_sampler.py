"""Histories and futures: disjoint in time, before the cut-off, by dates or by shares."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unirep_feast.batch import SequenceBatch
from unirep_feast.instants import MICROSECONDS_PER_DAY, parse_instant
from unirep_feast.sampler import Draw, Sampler, Units
from unirep_feast.sequences import Sequences, Window
from unirep_feast.testing import make_sequences
from unirep_feast.testing.world import START
from unirep_feast_icl.config import SamplerSettings
from unirep_feast_icl.sampler import IclSampler

Views = dict[str, SequenceBatch]


def _sampler(**settings: Any) -> IclSampler:
    return IclSampler(SamplerSettings.model_validate(settings))


def _draw(sampler: IclSampler, sequences: Sequences) -> tuple[torch.Tensor, Views]:
    users = sampler.units(sequences)
    units = Units(torch.arange(len(users)), users)
    return users, dict(sampler.sample(sequences, units, Draw(0, 0)))  # type: ignore[arg-type]


def _times(sequences: Sequences, user: int) -> list[int]:
    return sequences.times[sequences.starts[user] : sequences.ends[user]].tolist()


def _row(view: SequenceBatch, row: int) -> list[int]:
    return view.times[view.offsets[row] : view.offsets[row + 1]].tolist()


def _day(number: float) -> int:
    return START + int(number * MICROSECONDS_PER_DAY)


def _iso(number: int) -> str:
    from unirep_feast.instants import format_instant

    return format_instant(_day(number))


@given(
    seed=st.integers(0, 50),
    horizon=st.sampled_from(["short", "long"]),
    cuts=st.tuples(st.integers(1, 8), st.integers(1, 8), st.integers(1, 8)),
    until=st.integers(10, 95),
    least=st.integers(1, 3),
)
def test_shares_of_a_users_time(
    seed: int, horizon: str, cuts: tuple[int, int, int], until: int, least: int
) -> None:
    """For every user: each behavior falls into the period that its time says, all before T."""
    fractions = [cut / sum(cuts) for cut in cuts]
    sequences = make_sequences(users=15, seed=seed, until=_day(until))
    sampler = _sampler(horizon=horizon, fractions=fractions, min_events=least)
    users, views = _draw(sampler, sequences)

    eligible = []
    for user in range(len(sequences)):
        times = _times(sequences, user)
        if not times:
            continue
        first, span = times[0], times[-1] - times[0]
        one = first + int(span * fractions[0])
        two = first + int(span * (fractions[0] + fractions[1]))
        history = [t for t in times if t < one]
        short, long = [t for t in times if one <= t < two], [t for t in times if t >= two]
        future = short if horizon == "short" else long
        if min(len(history), len(future)) < least:
            continue
        row = len(eligible)
        eligible.append(user)
        assert _row(views["first"], row) == history
        assert _row(views["second"], row) == future
        assert max(history) < int(views["first"].as_of[row]) <= min(future)
        assert max(future) < int(views["second"].as_of[row]) <= sequences.until
    assert users.tolist() == eligible


@given(seed=st.integers(0, 50), days=st.lists(st.integers(0, 95), min_size=6, max_size=6))
def test_dates(seed: int, days: list[int]) -> None:
    """For every user: exactly the behaviors between the dates, none at or after the cut-off."""
    a, b, c, d, e, f = sorted(days)
    sequences = make_sequences(users=15, seed=seed)
    periods = {"history": (a, b + 1), "short": (c + 1, d + 2), "long": (e + 2, f + 3)}
    given_ = {name: [_iso(start), _iso(end)] for name, (start, end) in periods.items()}
    for horizon in ("short", "long"):
        users, views = _draw(_sampler(horizon=horizon, **given_), sequences)
        eligible = []
        for user in range(len(sequences)):
            times = _times(sequences, user)
            pieces = [
                [t for t in times if _day(start) <= t < _day(end)]
                for start, end in (periods["history"], periods[horizon])
            ]
            if not all(pieces):
                continue
            row = len(eligible)
            eligible.append(user)
            assert [_row(views[name], row) for name in ("first", "second")] == pieces
            assert max(pieces[0]) < min(pieces[1])
        assert users.tolist() == eligible
        for view in views.values():
            assert bool((view.as_of <= sequences.until).all())


def test_jitter_takes_another_part_of_the_time_at_every_step() -> None:
    """Pairs differ between steps, stay disjoint, and no eligible user ever lacks a period."""
    sequences = make_sequences(users=40, longest=40)
    sampler = _sampler(jitter=0.8, min_events=2)
    users = sampler.units(sequences)
    units = Units(torch.arange(len(users)), users)
    assert torch.equal(users, _sampler(min_events=2).units(sequences))
    spans = set()
    for step in range(20):
        views: Any = sampler.sample(sequences, units, Draw(0, step))
        first, second = views["first"], views["second"]
        assert int(first.lengths.min()) >= 2 and int(second.lengths.min()) >= 2
        assert bool((first.times[first.last] < first.as_of).all())
        assert bool((first.as_of <= second.times[second.first]).all())
        assert bool((second.as_of <= sequences.until).all())
        spans.add((int(first.lengths.sum()), int(second.lengths.sum())))
    assert len(spans) > 15


def test_the_papers_periods_need_no_short_term() -> None:
    """Amazon: S1 2014-07 to 12, S3 2015-01 to 06, no S2."""
    settings = SamplerSettings.model_validate(
        {"history": ["2014-07-01", "2015-01-01"], "long": ["2015-01-01", "2015-07-01"]}
    )

    assert settings.history == (parse_instant("2014-07-01"), parse_instant("2015-01-01"))
    assert isinstance(IclSampler(settings), Sampler)


def test_periods_are_clipped_to_the_window() -> None:
    """The latest behaviors of each period; a user whose period is clipped away has none."""
    sequences = make_sequences(users=15).limit(Window(max_events=2))
    _, views = _draw(_sampler(), sequences)

    for view in views.values():
        assert int(view.lengths.max()) == 2 and view.width == 2
    nothing = sequences.limit(Window(max_days=1e-9))
    assert len(_sampler().units(nothing)) == 0


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"fractions": [0.5, 0.5, 0.5]}, "sum to 1"),
        ({"fractions": [1.5, -0.25, -0.25]}, "sum to 1"),
        ({"fractions": [0.5, 0.5, 0]}, "leave time for S1 and for the long future"),
        ({"fractions": [0.5, 0, 0.5], "horizon": "short"}, "the short future"),
        ({"history": ["2020-01-01", "2020-02-01"]}, "found no long"),
        ({"long": ["2020-01-01", "2020-02-01"]}, "found no history"),
        ({"horizon": "short", "long": ["2020-01-01", "2020-02-01"]}, "no history and no short"),
        ({"history": ["2020-02-01", "2020-02-01"]}, "`history` ends before it starts"),
        (
            {"history": ["2020-01-01", "2020-02-01"], "long": ["2020-01-31", "2020-03-01"]},
            "`long` must start at or after the end of `history`",
        ),
        (
            {
                "history": ["2020-01-01", "2020-02-01"],
                "long": ["2020-03-01", "2020-04-01"],
                "jitter": 0.5,
            },
            "`jitter` is of fractions",
        ),
        ({"history": ["soon", "2020-02-01"]}, "wanted an ISO date"),
    ],
)
def test_wrong_periods_are_refused(wrong: dict[str, Any], says: str) -> None:
    """Each message says what is wrong and what is wanted."""
    with pytest.raises(ValueError, match=says):
        SamplerSettings.model_validate(wrong)


def test_a_share_of_nothing_may_be_skipped() -> None:
    """Without S2 the long horizon still has its two periods."""
    _, views = _draw(_sampler(fractions=[0.5, 0, 0.5]), make_sequences(users=15))

    assert len(views["first"]) > 3
