"""What the sampler promises of masks, pieces and pools."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unirep_feast.batch import FIRST_ITEM, MASK, SequenceBatch
from unirep_feast.items import ItemTable
from unirep_feast.sequences import Sequences
from unirep_feast.testing import Recipe, make_world
from unirep_feast.testing.recipe import draw_views
from unirep_feast_userbert.pieces import contents_of, disjoint_pieces, masked_places


@pytest.fixture
def views(recipe: Callable[..., Recipe], past: Sequences) -> dict[str, object]:
    return dict(draw_views(recipe().build(past), past))


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=8),
    st.floats(0.05, 0.9),
    st.integers(0, 1000),
)
def test_a_tenth_is_masked_and_at_least_one(lengths: list[int], share: float, seed: int) -> None:
    """Exactly round(share · n) of each row, at least one, and one stays where there are two."""
    counts = torch.tensor(lengths)
    total = int(counts.sum())
    batch = SequenceBatch(
        codes=torch.full((total,), 7),
        times=torch.arange(total),
        lengths=counts,
        users=torch.arange(len(lengths)),
        as_of=torch.full_like(counts, total),
        width=40,
    )
    places = masked_places(batch, share, torch.Generator().manual_seed(seed))

    found = torch.bincount(batch.rows[places], minlength=len(lengths)).tolist()
    for n, hidden in zip(lengths, found, strict=True):
        wanted = min(max(1, round(share * n)), max(n - 1, 1)) if n else 0
        assert abs(hidden - wanted) <= (abs(share * n % 1 - 0.5) < 1e-4)


def test_only_known_items_are_masked(views: dict[str, object]) -> None:
    """Where MASK stands, the targets say what stood there: an item, with its content."""
    history, masked, targets = views["history"], views["masked"], views["targets"]

    assert torch.equal(torch.nonzero(history.codes == MASK).flatten(), masked)
    assert bool((targets[:, 0] >= FIRST_ITEM).all()) and len(targets) == len(masked)
    per_row = torch.bincount(history.rows[masked], minlength=len(history))
    assert int(per_row.min()) >= 1


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000))
def test_pieces_never_overlap_in_time(seed: int) -> None:
    """Every first piece ends strictly before its second begins; both are of one user, not empty."""
    past = make_world(users=30, items=20, longest=15, seed=seed % 7).past
    users = torch.nonzero(past.lengths).flatten()
    pair = disjoint_pieces(past, users, torch.Generator().manual_seed(seed))

    assert torch.equal(pair.first.users, pair.second.users)
    assert torch.equal(pair.first.users, users[pair.rows])
    assert bool((pair.first.lengths > 0).all()) and bool((pair.second.lengths > 0).all())
    ends = pair.first.times[pair.first.last]
    assert bool((ends < pair.second.times[pair.second.first]).all())
    lost = set(users.tolist()) - set(pair.first.users.tolist())
    for user in lost:  # all behaviors at one time
        times = past.times[past.starts[user] : past.ends[user]]
        assert int(times.min()) == int(times.max())


def test_what_follows_is_what_begins_the_second_piece(views: dict[str, object]) -> None:
    """The first two behaviors behind the cut, by row."""
    second, following = views["second"], views["following"]
    wanted = [
        [row, code]
        for row in range(len(second))
        for code in second.codes[second.rows == row][:2].tolist()
        if code >= FIRST_ITEM
    ]

    assert following[:, :2].tolist() == wanted


def test_the_sequence_pool_lasts_a_period_and_the_behavior_pool_a_step(
    recipe: Callable[..., Recipe], past: Sequences
) -> None:
    """Interval 5: steps 0 to 4 share their sequences, step 5 has others."""
    trio = recipe().build(past)
    drawn = [draw_views(trio, past, step) for step in (0, 4, 5)]
    pools = [view["candidates"] for view in drawn]

    assert torch.equal(pools[0].codes, pools[1].codes)
    assert torch.equal(pools[0].users, pools[1].users)
    assert int(drawn[0]["period"]) == int(drawn[1]["period"]) != int(drawn[2]["period"])
    assert not torch.equal(pools[0].users, pools[2].users)
    assert not torch.equal(drawn[0]["behaviors"], drawn[1]["behaviors"])


def test_pools_of_all_hold_everyone_and_everything(
    recipe: Callable[..., Recipe], past: Sequences
) -> None:
    """``null``: one sequence of every user with a past, every known content once."""
    trio = recipe(sampler={"behavior_pool": None, "sequence_pool": None}).build(past)
    views = draw_views(trio, past)

    assert torch.equal(views["candidates"].users, torch.nonzero(past.lengths).flatten())
    contents = contents_of(past.items)[FIRST_ITEM : past.items.known]
    assert sorted(views["behaviors"][:, 1].tolist()) == sorted(set(contents.tolist()))


def test_a_content_stands_once_in_the_behavior_pool(views: dict[str, object]) -> None:
    """Items that say the same are candidates once."""
    contents = views["behaviors"][:, 1]

    assert len(contents.unique()) == len(contents) > 0


def test_contents_are_titles_whatever_their_case() -> None:
    """The same words in other letters are the same; nothing is like nothing else."""
    titles = ["Week 1", " week 1", None, "", "Week 2", None, "WEEK 2"]
    table = ItemTable(
        pa.array(range(7), pa.int64()),
        pa.array(titles, pa.string()),
        pa.nulls(7, pa.list_(pa.string())),
        FIRST_ITEM + 7,
    )

    assert contents_of(table).tolist() == [0, 1, 2, 3, 3, 5, 6, 7, 8, 7]


def test_units_are_users_with_two_behaviors(recipe: Callable[..., Recipe], past: Sequences) -> None:
    """One to mask and one to see, within the window."""
    trio = recipe().build(past)
    units = trio.sampler.units(past.limit(trio.encoder.window))

    assert torch.equal(units, torch.nonzero(past.lengths >= 2).flatten())
