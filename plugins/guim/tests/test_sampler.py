"""What the sampler hands out: a past before T, a future from T on, and nothing after the end."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise

import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unirep_feast.batch import FIRST_ITEM, MASK, SequenceBatch
from unirep_feast.instants import MICROSECONDS_PER_DAY as DAY
from unirep_feast.items import ItemTable, Vocabulary
from unirep_feast.objective import Views
from unirep_feast.sampler import Draw, Units
from unirep_feast.sequences import Sequences, Window
from unirep_feast_guim.config import SamplerSettings
from unirep_feast_guim.sampler import GuimSampler

#: Histories as (quarter of a day, item) pairs; long gaps, ties and empty users are common.
HISTORIES = st.lists(
    st.lists(
        st.tuples(
            st.integers(0, 40) | st.integers(0, 4000), st.integers(FIRST_ITEM, FIRST_ITEM + 9)
        ),
        max_size=12,
    ),
    min_size=1,
    max_size=6,
)
CUTS = st.sampled_from(["drawn", "last", "1970-04-11"])


def _sequences(histories: list[list[tuple[int, int]]], window: Window | None = None) -> Sequences:
    rows = [sorted(history) for history in histories]
    events = [event for row in rows for event in row]
    lengths = torch.tensor([len(row) for row in rows], dtype=torch.int64)
    vocabulary = Vocabulary(pa.array(range(10), pa.int64()), pa.array([1] * 10, pa.int64()))
    times = torch.tensor([when * DAY // 4 for when, _ in events], dtype=torch.int64)
    made = Sequences(
        users=pa.array(range(len(rows)), pa.int64()),
        starts=lengths.cumsum(0) - lengths,
        ends=lengths.cumsum(0),
        codes=torch.tensor([item for _, item in events], dtype=torch.int32),
        times=times,
        vocabulary=vocabulary,
        items=ItemTable.build(vocabulary, None),
        until=int(times.max()) + 1 if len(times) else 0,
    )
    return made.limit(window or Window(max_events=8, max_days=365))


def _sample(sampler: GuimSampler, sequences: Sequences, step: int = 0) -> Views:
    rows = sampler.units(sequences)
    return sampler.sample(sequences, Units(torch.arange(len(rows)), rows), Draw(0, step))


def _batches(views: Views) -> tuple[SequenceBatch, SequenceBatch]:
    history, future = views["history"], views["future"]
    assert isinstance(history, SequenceBatch) and isinstance(future, SequenceBatch)
    return history, future


@given(HISTORIES, CUTS, st.integers(0, 5), st.sampled_from([1, 7.5, 31]))
@settings(max_examples=150, deadline=None)
def test_history_is_before_t_and_the_future_from_t_on(
    histories: list[list[tuple[int, int]]], cut: str, step: int, days: float
) -> None:
    """[T - D1, T) and [T, T + D2), one row each, both with events, before the training ends."""
    whole = _sequences(histories)
    sequences = whole.before(max(whole.until - 3 * DAY, 0))
    sampler = GuimSampler(
        SamplerSettings.model_validate(
            {"cut_off": cut, "future_days": days, "history_days": 100, "max_future": 5}
        )
    )
    history, future = _batches(_sample(sampler, sequences, step))
    when = history.as_of

    assert torch.equal(history.users, future.users)
    assert bool((history.lengths > 0).all()) and bool((future.lengths > 0).all())
    assert bool((history.times < when[history.rows]).all())
    assert bool((history.times >= (when - 100 * DAY)[history.rows]).all())
    assert bool((future.times >= when[future.rows]).all())
    assert bool((future.times < (when + int(days * DAY))[future.rows]).all())
    assert bool((future.times < sequences.until).all())
    assert bool((history.lengths <= 8).all())
    assert bool((future.lengths <= 5).all())


@given(HISTORIES, CUTS, st.integers(0, 3))
@settings(max_examples=100, deadline=None)
def test_views_are_pieces_of_the_users_own_sequence(
    histories: list[list[tuple[int, int]]], cut: str, step: int
) -> None:
    """History, then future, without a gap or an overlap, unless a limit cut them."""
    sequences = _sequences(histories)
    sampler = GuimSampler(SamplerSettings.model_validate({"cut_off": cut}))
    views = _sample(sampler, sequences, step)
    history, future = _batches(views)
    items = views["items"]
    assert not isinstance(items, SequenceBatch)

    for row, user in enumerate(history.users.tolist()):
        events = sorted((when * DAY // 4, item) for when, item in histories[user])
        past = [e for e in events if e[0] < int(history.as_of[row])]
        end = int(future.as_of[row])
        later = [e for e in events if int(history.as_of[row]) <= e[0] < end]
        own = history.rows == row
        after = future.rows == row
        found = list(zip(history.times[own].tolist(), items[own].tolist(), strict=True))
        recent = [e for e in past if e[0] >= int(history.as_of[row]) - 365 * DAY]
        assert found == recent[-8:]
        seen = list(zip(future.times[after].tolist(), future.codes[after].tolist(), strict=True))
        assert seen == later[:8]


@given(HISTORIES, st.floats(0, 0.9), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_masked_events_are_named_and_others_left(
    histories: list[list[tuple[int, int]]], share: float, step: int
) -> None:
    """Codes become MASK at the named positions only, and are known from `items`."""
    views = _sample(GuimSampler(SamplerSettings(mask=share)), _sequences(histories), step)
    history, future = _batches(views)
    items, masked = views["items"], views["masked"]
    assert not isinstance(items, SequenceBatch) and not isinstance(masked, SequenceBatch)

    assert torch.equal((history.codes == MASK).nonzero().squeeze(1), masked)
    assert bool((items >= FIRST_ITEM).all())
    kept = history.codes != MASK
    assert torch.equal(history.codes[kept], items[kept])
    assert bool((future.codes != MASK).all())


@given(HISTORIES)
@settings(max_examples=100, deadline=None)
def test_units_are_the_users_who_can_have_both_sides(
    histories: list[list[tuple[int, int]]],
) -> None:
    """With a drawn T: two events at different times, less than D1 + D2 apart."""
    sampler = GuimSampler(SamplerSettings(history_days=20, future_days=10))
    expected = []
    for user, history in enumerate(histories):
        times = sorted({when / 4 for when, _ in history})
        gaps = [b - a for a, b in pairwise(times)]
        if any(gap < 30 for gap in gaps):
            expected.append(user)

    assert sampler.units(_sequences(histories)).tolist() == expected


def test_every_user_gets_a_turn_and_t_moves() -> None:
    """A drawn T falls anywhere between two events, not only at events."""
    sequences = _sequences([[(0, 3), (40, 4), (80, 5)]])
    sampler = GuimSampler(SamplerSettings())
    drawn = [
        int(_batches(_sample(sampler, sequences, step))[0].as_of[0]) / DAY for step in range(200)
    ]

    assert 0 < min(drawn) < 1 and 19 < max(drawn) <= 20
    assert any(t < 10 for t in drawn) and any(t > 10 for t in drawn)
    assert len(set(drawn)) == 200


def test_the_share_of_masked_events_is_the_probability() -> None:
    sequences = _sequences([[(n, 3) for n in range(100)]] * 20, Window())
    views = _sample(GuimSampler(SamplerSettings(cut_off="1970-01-24", mask=0.15)), sequences)
    history, _ = _batches(views)

    assert len(views["masked"]) / len(history.codes) == pytest.approx(0.15, abs=0.03)


def test_the_papers_t_is_d2_before_the_training_data_end() -> None:
    sequences = _sequences([[(n, 3) for n in range(400)]]).before(90 * DAY)
    history, future = _batches(_sample(GuimSampler(SamplerSettings(cut_off="last")), sequences))

    assert history.as_of.tolist() == [59 * DAY]
    assert future.as_of.tolist() == [90 * DAY]


def test_a_given_t_is_the_same_for_all() -> None:
    instant = datetime(1970, 3, 1, tzinfo=UTC)
    sampler = GuimSampler(SamplerSettings.model_validate({"cut_off": instant.isoformat()}))
    histories = [[(n, 3) for n in range(400)], [(400, 3)], [(n, 4) for n in range(0, 400, 3)]]
    history, _ = _batches(_sample(sampler, _sequences(histories)))

    assert history.users.tolist() == [0, 2]
    assert set(history.as_of.tolist()) == {int(instant.timestamp() * 1e6)}


def test_nothing_is_cut_inside_a_basket() -> None:
    """Events of one time are all before T or all from T on."""
    sequences = _sequences([[(n // 4 * 8, 3 + n % 4) for n in range(24)]], Window())
    for step in range(40):
        history, future = _batches(_sample(GuimSampler(SamplerSettings()), sequences, step))
        assert len(history.codes) % 4 == 0 and len(future.codes) % 4 == 0
