"""Histories and their slices by time: exactly the events before T, whatever came later."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unirep_feast.batch import FIRST_ITEM, UNK, SequenceBatch, bucket_width
from unirep_feast.events import TIME_TYPE, read_events
from unirep_feast.instants import MICROSECONDS_PER_DAY
from unirep_feast.packing import pack
from unirep_feast.sequences import Sequences, Vocabulary, Window, fit_vocabulary
from unirep_feast.spec_file import parse_spec
from unirep_feast.testing.world import (
    FUTURES,
    START,
    Future,
    World,
    make_sequences,
    make_world,
    pack_table,
)

SEEDS = st.integers(0, 50)
#: Times around and on the events, which fall on full hours of 90 days.
WHEN = st.one_of(
    st.integers(-2, 92 * 24).map(lambda hour: START + hour * 3_600_000_000),
    st.integers(START - 10, START + 91 * MICROSECONDS_PER_DAY),
)
WINDOWS = st.builds(
    Window,
    max_events=st.one_of(st.none(), st.integers(1, 12)),
    max_days=st.one_of(st.none(), st.sampled_from([0.5, 1, 3.25, 30, 1000])),
)


def sequences_of(seed: int, string_ids: bool = False) -> Sequences:
    return make_world(seed=seed, string_ids=string_ids).sequences


def same(one: SequenceBatch, other: SequenceBatch) -> bool:
    """Whether two batches are equal in every tensor, NaN equal to NaN."""
    for f in fields(one):
        a, b = getattr(one, f.name), getattr(other, f.name)
        if isinstance(a, torch.Tensor) and not torch.equal(a, b):
            return False
    return (
        one.width == other.width
        and one.columns.keys() == other.columns.keys()
        and all(
            torch.equal(a.nan_to_num(nan=-9), other.columns[n].nan_to_num(nan=-9))
            for n, a in one.columns.items()
        )
    )


# -- coding -------------------------------------------------------------------------------------


@pytest.mark.parametrize("string_ids", [False, True])
def test_events_are_coded_by_the_item_table(string_ids: bool) -> None:
    """Each event's code leads back to its item id; times and users are the packed ones."""
    world = make_world(string_ids=string_ids)
    sequences, packed = world.sequences, world.packed

    codes = sequences.codes.numpy() - FIRST_ITEM
    found = sequences.items.item_ids.take(pa.array(codes))

    assert found.equals(packed.item_ids.take(pa.array(packed.items)))
    assert sequences.users.equals(packed.users)
    assert sequences.times.tolist() == packed.times.tolist()
    assert sequences.until == packed.times.max() + 1
    assert len(sequences) == 12


def test_items_nothing_is_known_of_are_unk() -> None:
    """Without a catalogue, items first seen after the cut-off are UNK and no others."""
    world = make_world(items=60)
    sequences = Sequences.from_packed(world.packed, world.vocabulary)

    known = set(world.vocabulary.item_ids.to_pylist())
    items = world.packed.item_ids.take(pa.array(world.packed.items)).to_pylist()

    assert [code == UNK for code in sequences.codes.tolist()] == [i not in known for i in items]
    assert UNK in sequences.codes


def test_event_types_follow_the_vocabulary() -> None:
    """Types keep the codes of training; one the vocabulary does not know is 0."""
    world = make_world()
    vocabulary = Vocabulary(world.vocabulary.item_ids, world.vocabulary.counts, ("view", "x"))

    sequences = Sequences.from_packed(world.packed, vocabulary)

    names = [world.packed.event_types[t - 1] for t in world.packed.columns["event_type"]]
    assert sequences.columns["event_type"].tolist() == [int(name == "view") for name in names]
    assert set(names) == {"purchase", "view"}


@given(SEEDS, WHEN)
def test_a_vocabulary_knows_nothing_later(seed: int, until: int) -> None:
    """Items, counts and event types are those of events strictly before the cut-off."""
    packed = make_world(seed=seed).packed

    vocabulary = fit_vocabulary(packed, until)

    past = packed.times < until
    items = packed.item_ids.take(pa.array(packed.items[past])).to_pylist()
    counted = dict(zip(vocabulary.item_ids.to_pylist(), vocabulary.counts.to_pylist(), strict=True))
    assert counted == {i: items.count(i) for i in items}
    types = {packed.event_types[t - 1] for t in packed.columns["event_type"][past] if t}
    assert vocabulary.event_types == tuple(sorted(types))


# -- slices by time -----------------------------------------------------------------------------


@given(SEEDS, st.lists(st.tuples(st.integers(0, 11), WHEN), max_size=20), st.none() | WHEN)
def test_locate_equals_a_loop(seed: int, asked: list[tuple[int, int]], cut: int | None) -> None:
    """Bisection finds the first event at or after each time, in sliced histories too."""
    sequences = sequences_of(seed)
    if cut is not None:
        sequences = sequences.before(cut)
    users = torch.tensor([user for user, _ in asked], dtype=torch.int64)
    when = torch.tensor([time for _, time in asked], dtype=torch.int64)

    found = sequences.locate(users, when)

    expected = []
    for user, time in asked:
        at = int(sequences.starts[user])
        while at < int(sequences.ends[user]) and int(sequences.times[at]) < time:
            at += 1
        expected.append(at)
    assert found.tolist() == expected


def test_locate_takes_one_time_for_all() -> None:
    """A plain number is the time of every row."""
    sequences = sequences_of(0)
    users = sequences.all_users()
    when = START + 40 * MICROSECONDS_PER_DAY

    assert torch.equal(
        sequences.locate(users, when), sequences.locate(users, torch.full_like(users, when))
    )


@given(SEEDS, WHEN)
def test_before_holds_exactly_earlier_events(seed: int, when: int) -> None:
    """Every event before T is in, none at or after it, and nothing was copied."""
    sequences = sequences_of(seed)

    cut = sequences.before(when)

    held = torch.zeros(len(sequences.times), dtype=torch.bool)
    for start, end in zip(cut.starts.tolist(), cut.ends.tolist(), strict=True):
        held[start:end] = True
    assert torch.equal(held, sequences.times < when)
    assert cut.codes.data_ptr() == sequences.codes.data_ptr()
    assert cut.until == when


@given(SEEDS, WHEN, WHEN)
def test_between_holds_exactly_its_span(seed: int, one: int, other: int) -> None:
    """Events in [start, end), none else; an empty span gives empty histories."""
    sequences = sequences_of(seed)
    start, end = min(one, other), max(one, other)

    piece = sequences.between(start, end)

    inside = ((sequences.times >= start) & (sequences.times < end)).sum()
    assert int(piece.lengths.sum()) == int(inside)
    for a, b in zip(piece.starts.tolist(), piece.ends.tolist(), strict=True):
        assert all(start <= t < end for t in sequences.times[a:b].tolist())
    assert int(sequences.between(end, start).lengths.sum()) == 0


@given(SEEDS, WHEN, WHEN)
def test_slices_of_slices_are_the_smaller_slice(seed: int, one: int, other: int) -> None:
    """Cutting twice equals cutting at the earlier time; a later cut gives nothing back."""
    sequences = sequences_of(seed)

    twice = sequences.before(one).before(other)

    assert torch.equal(twice.ends, sequences.before(min(one, other)).ends)
    assert twice.until == min(one, other)


def test_as_of_does_not_show_whether_the_log_goes_on() -> None:
    """A cut behind the last event is at the time asked for, so days are counted from it."""
    world = make_world()
    later = START + 200 * MICROSECONDS_PER_DAY

    past = world.sequences.before(later)

    assert past.until == later
    assert past.before(later + 1).until == later
    recent = past.limit(Window(max_days=120)).histories(past.all_users())
    assert recent.as_of.tolist() == [later] * 12
    assert bool((recent.times >= later - 120 * MICROSECONDS_PER_DAY).all())
    assert int(recent.lengths.sum()) < int(past.lengths.sum())


@given(seed=SEEDS, how=st.sampled_from(FUTURES), string_ids=st.booleans(), window=WINDOWS)
def test_the_future_leaves_no_trace(
    seed: int, how: Future, string_ids: bool, window: Window
) -> None:
    """Changing, adding or removing events at or after T leaves batches as of T equal bit for bit.

    Vocabulary included: it is fitted on each log anew, before T.
    """
    world = make_world(seed=seed, string_ids=string_ids)
    other = world.with_other_future(how, seed + 1)
    users = [u for u in world.past.users.to_pylist() if u in set(other.past.users.to_pylist())]

    def batch(one: World) -> SequenceBatch:
        rows = pa.compute.index_in(pa.array(users, one.past.users.type), one.past.users)
        picked = torch.from_numpy(rows.to_numpy().astype(np.int64))
        as_of = torch.full_like(picked, one.until)
        taken = one.past.limit(window).histories(picked, as_of)
        return SequenceBatch(
            **{f.name: getattr(taken, f.name) for f in fields(taken) if f.name != "users"},
            users=torch.arange(len(users)),
        )

    assert other.vocabulary.hash == world.vocabulary.hash
    assert same(batch(world), batch(other))
    assert int(other.past.lengths.sum()) == int(world.past.lengths.sum())


# -- windows ------------------------------------------------------------------------------------


@given(seed=SEEDS, window=WINDOWS, cut=WHEN, data=st.data())
def test_histories_are_clipped_by_events_and_days(
    seed: int, window: Window, cut: int, data: st.DataObject
) -> None:
    """A history as of T is its latest events before T, at most so many and at most so old."""
    sequences = sequences_of(seed)
    users = data.draw(st.lists(st.integers(0, 11), min_size=1, max_size=6))

    batch = sequences.limit(window).histories(torch.tensor(users), torch.full((len(users),), cut))

    for row, user in enumerate(users):
        events = range(int(sequences.starts[user]), int(sequences.ends[user]))
        kept = [e for e in events if int(sequences.times[e]) < cut]
        if window.max_days is not None:
            earliest = cut - int(window.max_days * MICROSECONDS_PER_DAY)
            kept = [e for e in kept if int(sequences.times[e]) >= earliest]
        if window.max_events is not None:
            kept = kept[-window.max_events :]
        start, end = int(batch.offsets[row]), int(batch.offsets[row + 1])
        assert batch.times[start:end].tolist() == sequences.times[kept].tolist()
        assert batch.codes[start:end].tolist() == sequences.codes[kept].tolist()
    longest = int(batch.lengths.max())
    assert batch.width == bucket_width(longest, window.max_events)
    assert batch.width >= longest
    assert batch.users.tolist() == users


@given(seed=SEEDS, window=WINDOWS, data=st.data())
def test_windows_gather_the_named_events(seed: int, window: Window, data: st.DataObject) -> None:
    """Row b is events lo[b]:hi[b] with every column; without ``limit`` nothing is clipped."""
    sequences = sequences_of(seed).limit(window)
    users, lo, hi = [], [], []
    for user in data.draw(st.lists(st.integers(0, 11), max_size=6)):
        start, end = int(sequences.starts[user]), int(sequences.ends[user])
        a, b = sorted((data.draw(st.integers(start, end)), data.draw(st.integers(start, end))))
        users.append(user), lo.append(a), hi.append(b)
    rows, low, high = (torch.tensor(x, dtype=torch.int64) for x in (users, lo, hi))
    as_of = torch.full_like(rows, sequences.until)

    batch = sequences.window(rows, low, high, as_of, limit=False)
    clipped = sequences.window(rows, low, high, as_of)

    events = [e for a, b in zip(lo, hi, strict=True) for e in range(a, b)]
    assert batch.codes.tolist() == sequences.codes[events].tolist()
    assert batch.columns["event_type"].tolist() == sequences.columns["event_type"][events].tolist()
    assert batch.columns["event_type"].dtype == torch.int64
    assert batch.width == bucket_width(max([b - a for a, b in zip(lo, hi, strict=True)], default=0))
    assert all(c <= n for c, n in zip(clipped.lengths, batch.lengths, strict=True))
    again = sequences.window(
        rows, torch.maximum(low, sequences.bounds(rows, high, as_of)), high, as_of
    )
    assert same(clipped, again)


def test_a_clip_keeps_an_event_as_old_as_the_limit() -> None:
    """``max_days`` counts back from the as-of time and includes its far end."""
    day = MICROSECONDS_PER_DAY
    times = pa.array([START, START + 1, START + 2 * day], TIME_TYPE)
    packed = pack_table(
        pa.table({"user_id": [1] * 3, "item_id": [1] * 3, "event_timestamp": times})
    )
    sequences = Sequences.from_packed(packed, fit_vocabulary(packed, START + 9 * day))

    batch = sequences.limit(Window(max_days=2)).histories(
        torch.tensor([0]), torch.tensor([START + 2 * day])
    )

    assert batch.times.tolist() == [START, START + 1]


def test_empty_selections_make_empty_batches() -> None:
    """No rows, and rows without events, are batches all the same."""
    sequences = sequences_of(0).before(START)
    none = torch.empty(0, dtype=torch.int64)

    assert len(sequences.histories(none)) == 0
    batch = sequences.histories(sequences.all_users())
    assert (len(batch), batch.codes.numel(), batch.width) == (12, 0, 8)


def test_select_keeps_the_given_users_in_order() -> None:
    """Chosen rows carry their ids and histories."""
    sequences = sequences_of(0)
    rows = torch.tensor([5, 0, 5])

    some = sequences.select(rows)

    assert some.users.to_pylist() == [105, 100, 105]
    assert same_events(some.histories(torch.arange(3)), sequences.histories(rows))


def same_events(one: SequenceBatch, other: SequenceBatch) -> bool:
    return torch.equal(one.codes, other.codes) and torch.equal(one.lengths, other.lengths)


def test_moving_to_a_device_keeps_everything() -> None:
    """``to`` moves bounds and columns; histories are the same."""
    sequences = make_sequences()

    moved = sequences.to("cpu")

    assert moved.device.type == "cpu"
    rows = sequences.all_users()
    assert same(moved.histories(rows), sequences.histories(rows))


@pytest.mark.parametrize("name", ["online-retail", "ml-1m"])
def test_real_histories_split_at_a_time(name: str, data_dir: Callable[[str], Path]) -> None:
    """On real logs full of ties, ``before`` equals a count over the file; baskets stay whole."""
    path = data_dir(name) / "events.parquet"
    spec = parse_spec({"name": "x", "plugin": "p", "events": {"path": str(path)}}, "test")
    packed = pack(read_events(spec), "keep")
    cut = int(np.median(packed.times))
    sequences = Sequences.from_packed(packed, fit_vocabulary(packed, cut))

    past = sequences.before(cut)

    assert int(past.lengths.sum()) == int((packed.times < cut).sum())
    inside = past.ends < sequences.ends
    assert bool((sequences.times[past.ends[inside]] >= cut).all())
    some = past.lengths > 0
    assert bool((sequences.times[past.ends[some] - 1] < cut).all())
