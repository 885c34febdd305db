"""The kit's small worlds hold what real logs hold, and their futures leave the past alone."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from unirep_feast.events import TIME_TYPE
from unirep_feast.testing.world import (
    FUTURES,
    START,
    UNTOUCHED,
    Future,
    World,
    make_events,
    make_items,
    make_sequences,
    make_world,
)


def past_rows(world: World) -> pa.Table:
    before = pc.less(world.events["event_timestamp"], pa.scalar(world.until, TIME_TYPE))
    return world.events.filter(before).sort_by(
        [(c, "ascending") for c in world.events.column_names]
    )


@pytest.mark.parametrize("string_ids", [False, True])
def test_a_world_holds_what_real_logs_hold(string_ids: bool) -> None:
    """Ties, a single event, an empty past, missing values and titles, items nobody touched."""
    world = make_world(users=20, items=15, string_ids=string_ids)
    sequences, past = world.sequences, world.past

    assert len(sequences) == 20
    assert sequences.lengths[0] == 1
    assert past.lengths[-1] == 0 < sequences.lengths[-1]
    neighbours = (sequences.times[1:] == sequences.times[:-1]).sum()
    assert 0.1 < float(neighbours) / len(sequences.times) < 0.9
    assert world.events["value"].null_count > 0
    assert world.items["title"].null_count > 0
    assert len(world.items) == 15 + UNTOUCHED
    assert len(past.items) > past.items.known
    assert pa.types.is_string(world.events.schema.field("user_id").type) == string_ids


def test_the_same_seed_makes_the_same_world() -> None:
    """Tables and histories repeat; another seed gives others."""
    assert make_events(9, 9, seed=3).equals(make_events(9, 9, seed=3))
    assert make_items(9, seed=3).equals(make_items(9, seed=3))
    assert not make_events(9, 9, seed=3).equals(make_events(9, 9, seed=4))
    assert make_sequences(seed=3).codes.tolist() == make_world(seed=3).past.codes.tolist()


def test_the_cut_off_can_be_chosen() -> None:
    """``until`` decides what training sees; by default two thirds of the log."""
    early = make_world(until=START + 1)

    assert int(early.past.lengths.sum()) == 0
    assert 0 < int(make_world().past.lengths.sum()) < int(make_world().sequences.lengths.sum())


@pytest.mark.parametrize("how", FUTURES)
@pytest.mark.parametrize("string_ids", [False, True])
def test_another_future_has_the_same_past(how: Future, string_ids: bool) -> None:
    """Rows before the cut-off are the same, those after it are not; and it differs by seed."""
    world = make_world(string_ids=string_ids)

    other = world.with_other_future(how)

    assert past_rows(other).equals(past_rows(world))
    assert not other.events.equals(world.events)
    later = pc.greater_equal(other.events["event_timestamp"], pa.scalar(world.until, TIME_TYPE))
    rows = other.events.num_rows - past_rows(other).num_rows
    assert pc.sum(later).as_py() == rows
    assert (rows == 0) == (how == "removed")
    if how == "added":
        moved = other.sequences.users.index(world.sequences.users[0]).as_py()
        assert moved > 0, "new users move the rows of known ones"
        exactly = pc.equal(other.events["event_timestamp"], pa.scalar(world.until, TIME_TYPE))
        assert pc.sum(exactly).as_py() >= 20
    if how != "removed":
        assert not world.with_other_future(how, seed=2).events.equals(other.events)
