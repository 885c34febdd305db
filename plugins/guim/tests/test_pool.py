"""Negatives: other users' items, as often as they hold them, never the user's own."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unirep_feast_guim.pool import ItemPool

#: Events of a mini-batch as (user row, item code); codes below 3 are PAD, MASK and UNK.
EVENTS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 12)), max_size=60)


def _pool(events: list[tuple[int, int]]) -> ItemPool:
    rows, codes = torch.tensor(events, dtype=torch.int64).view(-1, 2).unbind(1)
    return ItemPool.of(rows, codes, users=5)


@given(EVENTS, st.integers(0, 1000))
@settings(max_examples=200, deadline=None)
def test_negatives_are_items_of_others_and_never_the_users_own(
    events: list[tuple[int, int]], seed: int
) -> None:
    """So never the positive, nor a copy of it; and whoever has none to draw is known."""
    pool = _pool(events)
    torch.manual_seed(seed)
    own = [{code for row, code in events if row == user} for user in range(5)]
    others = [
        [code for row, code in events if row != user and code >= 3 and code not in own[user]]
        for user in range(5)
    ]

    assert pool.foreign().tolist() == [len(codes) for codes in others]
    rows = (pool.foreign() > 0).nonzero().squeeze(1)
    drawn = pool.codes[pool.draw(rows, 31)]
    assert drawn.shape == (len(rows), 31)
    for row, codes in zip(rows.tolist(), drawn.tolist(), strict=True):
        assert set(codes) <= set(others[row])


@given(EVENTS)
@settings(max_examples=50, deadline=None)
def test_the_pool_holds_each_item_once(events: list[tuple[int, int]]) -> None:
    """Codes, counts and owners, as plain loops find them."""
    pool = _pool(events)
    items = [code for _, code in events if code >= 3]

    assert pool.codes.tolist() == sorted(set(items))
    assert pool.counts.tolist() == [items.count(code) for code in sorted(set(items))]
    for row in range(5):
        held = {code for user, code in events if user == row and code >= 3}
        assert set(pool.codes[pool.own[row]].tolist()) == held
    assert torch.equal(pool.places(pool.codes), torch.arange(len(pool.codes)))


def test_negatives_follow_how_often_others_hold_them() -> None:
    """\"The noise distribution is roughly equal to the purchase frequency of item j\"."""
    events = [(0, 3), (1, 4), (1, 4), (1, 4), (2, 5), (1, 3)]
    pool = _pool(events)
    drawn = pool.codes[pool.draw(torch.zeros(1000, dtype=torch.int64), 40)]
    share = torch.bincount(drawn.flatten(), minlength=6) / drawn.numel()

    torch.testing.assert_close(share, torch.tensor([0, 0, 0, 0, 0.75, 0.25]), rtol=0, atol=0.015)


def test_items_of_users_elsewhere_are_negatives_too() -> None:
    """Under DDP the other ranks' items join the pool; they are nobody's own here."""
    rows, codes = torch.tensor([0, 1]), torch.tensor([3, 4])
    pool = ItemPool.of(rows, codes, users=2, others=torch.tensor([5, 4, 2]))

    assert pool.codes.tolist() == [3, 4, 5]
    assert pool.counts.tolist() == [1, 2, 1]
    assert pool.foreign().tolist() == [3, 2]
