"""Splits by a hash of the user id: stable, even, independent of who else is there."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unirep_feast.splits import hash_ids, shares

MASK = 2**64 - 1


def mix(value: int) -> int:
    """splitmix64's finaliser in plain Python integers."""
    value = (value + 0x9E3779B97F4A7C15) & MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK
    return value ^ (value >> 31)


def hash_one(value: int | str, seed: int) -> int:
    """The hash of one id, written as a loop."""
    if isinstance(value, str):
        total, power = 0, 1
        for byte in value.encode():
            power = power * 0x100000001B3 & MASK
            total += (byte + 1) * power
        value = total + len(value.encode())
    return mix((value + mix(seed)) & MASK)


@given(st.lists(st.integers(-(2**63), 2**63 - 1)), st.integers(0, 2**32))
def test_integers_hash_as_the_loop_does(ids: list[int], seed: int) -> None:
    """The vectorised hash of integers equals plain Python arithmetic."""
    expected = [hash_one(value & MASK, seed) for value in ids]

    assert hash_ids(pa.array(ids, pa.int64()), seed).tolist() == expected


@given(st.lists(st.text(max_size=12)), st.integers(0, 2**32))
def test_strings_hash_as_the_loop_does(ids: list[str], seed: int) -> None:
    """The vectorised hash of strings equals a loop over their bytes; empty ones included."""
    expected = [hash_one(value, seed) for value in ids]

    assert hash_ids(pa.array(ids, pa.string()), seed).tolist() == expected


def test_hashes_never_change() -> None:
    """Fixed values: another machine or version must put everybody into the same share."""
    assert hash_ids(pa.array([0, 1, -1])).tolist() == [
        hash_one(0, 0),
        hash_one(1, 0),
        hash_one(MASK, 0),
    ]
    assert hash_ids(pa.array([1])).tolist() == [3069472533636442495]
    assert hash_ids(pa.array(["user-1"])).tolist() == [8605290519724938878]


@pytest.mark.parametrize("kind", [pa.int64(), pa.string()])
def test_a_share_does_not_depend_on_the_others(kind: pa.DataType) -> None:
    """A user's share is the same alone, in a slice, in another order."""
    ids = pa.array(range(1000)).cast(kind)
    whole = shares(ids, 0.2, 0.1, seed=3)
    order = np.random.default_rng(0).permutation(1000)

    assert (shares(ids.slice(100, 50), 0.2, 0.1, seed=3) == whole[100:150]).all()
    assert (shares(ids.take(pa.array(order)), 0.2, 0.1, seed=3) == whole[order]).all()


@pytest.mark.parametrize("kind", [pa.int64(), pa.string()])
@pytest.mark.parametrize(("validation", "test"), [(0.05, 0.0), (0.2, 0.1), (0.0, 0.0), (0.5, 0.49)])
def test_shares_have_the_size_asked_for(kind: pa.DataType, validation: float, test: float) -> None:
    """Of many ids, shares are within four standard deviations of what was asked for."""
    n = 50_000
    found = shares(pa.array(range(n)).cast(kind), validation, test)

    for share, wanted in ((1, validation), (2, test)):
        spread = 4 * np.sqrt(wanted * (1 - wanted) / n)
        assert abs((found == share).mean() - wanted) <= spread
    assert found.dtype == np.int8


def test_a_larger_validation_share_keeps_the_test_share() -> None:
    """Who is in the test share stays there when the validation share changes."""
    ids = pa.array(range(5000))

    small, large = shares(ids, 0.05, 0.1), shares(ids, 0.4, 0.1)

    assert ((small == 2) == (large == 2)).all()
    assert (large[small == 1] == 1).all()


def test_another_seed_is_another_split() -> None:
    """Splits of two seeds are independent: about a fifth of a fifth is in both."""
    ids = pa.array(range(50_000))
    both = (shares(ids, 0.2, 0, seed=1) == 1) & (shares(ids, 0.2, 0, seed=2) == 1)

    assert abs(both.mean() - 0.04) < 0.005


def test_similar_strings_do_not_collide() -> None:
    """Two hundred thousand consecutive names have as many hashes."""
    ids = pa.array([f"user-{i}" for i in range(200_000)])

    assert len(np.unique(hash_ids(ids))) == 200_000


def test_nobody_is_split_into_nothing() -> None:
    """No ids give no shares."""
    assert shares(pa.array([], pa.string()), 0.1, 0.1).tolist() == []
    assert shares(pa.array([], pa.int64()), 0.1, 0.1).tolist() == []
