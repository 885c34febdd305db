"""Hashes of histories: equal exactly where an encoder would see the same."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from unirep_feast import history_hash
from unirep_feast.history_hash import HistoryHasher
from unirep_feast.instants import MICROSECONDS_PER_DAY
from unirep_feast.items import ItemTable
from unirep_feast.sequences import Sequences, Window
from unirep_feast.testing.world import make_world

WORLD = make_world(users=40, items=25, seed=3)


def hashes(sequences: Sequences, as_of: int | None = None, rows: Any = None) -> np.ndarray:
    rows = sequences.all_users() if rows is None else torch.as_tensor(rows)
    as_of = sequences.until if as_of is None else as_of
    return HistoryHasher(sequences.items)(sequences, rows, as_of)


def changed(column: str, place: int) -> Sequences:
    """The world with one event's value in a column replaced by another."""
    past = WORLD.past
    if column in past.columns:
        values = past.columns[column].clone()
        values[place] = values[place].nan_to_num(0) + 1
        return replace(past, columns={**past.columns, column: values})
    values = getattr(past, column).clone()
    values[place] += 1
    return replace(past, **{column: values})


def with_items(**columns: Any) -> Sequences:
    items = WORLD.past.items
    return replace(WORLD.past, items=replace(items, **columns))


def test_users_of_other_histories_have_other_hashes() -> None:
    """Whoever has events has a hash of his own, and the same one in any order and company."""
    past = WORLD.past
    found = hashes(past)
    some = past.lengths > 0

    assert len(np.unique(found[some.numpy()])) == int(some.sum())

    order = torch.randperm(len(past), generator=torch.Generator().manual_seed(0))
    assert (hashes(past, rows=order) == found[order.numpy()]).all()


@pytest.mark.parametrize("column", ["times", "codes", "event_type", "value"])
def test_one_changed_event_changes_one_hash(column: str) -> None:
    """The user whose event has another time, item, type or value, and nobody else."""
    past = WORLD.past
    user = int(past.lengths.argmax())
    place = int(past.ends[user]) - 1

    differs = hashes(changed(column, place)) != hashes(past)

    assert np.flatnonzero(differs).tolist() == [user]


def test_events_outside_the_window_do_not_count() -> None:
    """Older events than the latest so many, or than so many days, change nothing."""
    past = WORLD.past
    user = int(past.lengths.argmax())
    first = int(past.starts[user])
    few = Window(max_events=int(past.lengths[user]) - 1)

    assert (hashes(changed("codes", first).limit(few)) == hashes(past.limit(few))).all()
    assert (hashes(changed("codes", first)) != hashes(past)).any()

    days = Window(max_days=10)
    age = past.until - int(past.times[past.ends[user] - 1])
    beyond = past.until - age + 11 * MICROSECONDS_PER_DAY
    aged = hashes(past.limit(days), as_of=beyond, rows=[user])

    assert aged != hashes(past.limit(days), rows=[user])


def test_ties_and_cuts_at_a_time_are_exact() -> None:
    """The hash as of T is that of the log without events at or after T."""
    sequences = WORLD.sequences
    when = int(sequences.times.sort().values[len(sequences.times) // 2])
    keep = sequences.times < when
    counts = torch.zeros(len(sequences), dtype=torch.long)
    owners = torch.repeat_interleave(sequences.all_users(), sequences.lengths)
    counts.index_add_(0, owners, keep.long())
    ends = counts.cumsum(0)
    cut = replace(
        sequences,
        starts=ends - counts,
        ends=ends,
        codes=sequences.codes[keep],
        times=sequences.times[keep],
        columns={name: column[keep] for name, column in sequences.columns.items()},
    )

    assert (hashes(sequences.before(when), when) == hashes(cut, when)).all()


def test_what_becomes_known_of_an_item_counts_for_who_met_it() -> None:
    """Another title, or categories in another order, change the hashes of its users only."""
    past = WORLD.past
    titles = past.items.titles.to_pylist()
    titles[0] = "something else"
    code = 3
    owners = torch.repeat_interleave(past.all_users(), past.ends - past.starts)
    inside = torch.cat([past.codes[s:e] for s, e in zip(past.starts, past.ends, strict=True)])
    met = sorted(set(owners[inside == code].tolist()))

    differs = hashes(with_items(titles=pa.array(titles))) != hashes(past)

    assert met
    assert np.flatnonzero(differs).tolist() == met

    lists = [["a", "b"]] * len(titles)
    turned = [["b", "a"], *lists[1:]]
    one = hashes(with_items(categories=pa.array(lists)))
    other = hashes(with_items(categories=pa.array(turned)))

    assert np.flatnonzero(one != other).tolist() == met


def test_unknown_and_empty_categories_differ() -> None:
    """Null is not the empty list, and neither is a list with an empty text."""
    count = len(WORLD.past.items.titles)
    kinds = [None, [], [""]]
    found = [
        hashes(with_items(categories=pa.array([kind] * count, pa.list_(pa.string()))))
        for kind in kinds
    ]

    assert (found[0] != found[1]).any()
    assert (found[1] != found[2]).any()


def test_an_item_table_that_grows_changes_nobody() -> None:
    """Items behind the last one that nobody has met leave every hash as it was."""
    past = WORLD.past
    items = past.items
    longer = ItemTable(
        pa.concat_arrays([items.item_ids, pa.array([10**9])]),
        pa.concat_arrays([items.titles, pa.array(["new"])]),
        pa.concat_arrays([items.categories, pa.array([["new"]], items.categories.type)]),
        items.known,
    )

    assert (hashes(replace(past, items=longer)) == hashes(past)).all()


def test_parts_of_any_size_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hashing three events at a time, fewer than one history has, changes nothing."""
    found = hashes(WORLD.past)
    monkeypatch.setattr(history_hash, "_EVENTS", 3)

    assert (hashes(WORLD.past) == found).all()
    assert hashes(WORLD.past, rows=torch.empty(0, dtype=torch.long)).shape == (0,)
