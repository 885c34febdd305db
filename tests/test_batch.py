"""Packed batches: widths that come again, and padding that loses nothing."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unirep_feast.batch import SequenceBatch, bucket_width

LENGTHS = st.lists(st.integers(0, 9), max_size=8)


def batch_of(lengths: list[int], width: int | None = None) -> SequenceBatch:
    """Rows of the given lengths; codes count up, so that every event can be told apart."""
    events = sum(lengths)
    return SequenceBatch(
        codes=torch.arange(3, 3 + events),
        times=torch.arange(events) * 10,
        lengths=torch.tensor(lengths, dtype=torch.int64),
        users=torch.arange(len(lengths)) + 50,
        as_of=torch.arange(len(lengths)) + 10_000,
        width=bucket_width(max(lengths, default=0)) if width is None else width,
        columns={"value": torch.arange(events) / 2, "event_type": torch.arange(events) % 3},
    )


# -- widths -------------------------------------------------------------------------------------


@given(st.integers(0, 300_000))
def test_widths_hold_their_events_with_little_padding(events: int) -> None:
    """A width is a multiple of 8 that holds the row; from 16 on a third at most is padding."""
    width = bucket_width(events)

    assert width >= max(events, 8)
    assert width % 8 == 0
    if events >= 16:
        assert 3 * (width - events) <= width


@given(st.integers(0, 300_000), st.integers(0, 300_000))
def test_widths_are_monotone_and_few(one: int, other: int) -> None:
    """Longer rows never get narrower batches, and a width is its own width."""
    low, high = sorted((one, other))

    assert bucket_width(low) <= bucket_width(high)
    assert bucket_width(bucket_width(one)) == bucket_width(one)


def test_widths_are_few() -> None:
    """Histories of up to 200,000 events need 30 shapes."""
    widths = {bucket_width(n) for n in range(0, 200_001, 7)} | {bucket_width(200_000)}

    assert sorted(widths)[:8] == [8, 16, 24, 32, 48, 64, 96, 128]
    assert len(widths) == 30


@given(st.integers(0, 1000), st.integers(1, 1000))
def test_widths_end_at_the_encoders_limit(events: int, limit: int) -> None:
    """The last width is cut down to the limit, and still holds a clipped row."""
    width = bucket_width(events, limit)

    assert width <= limit
    assert width >= min(events, limit)


# -- layout -------------------------------------------------------------------------------------


@given(LENGTHS)
def test_rows_and_steps_point_at_every_event(lengths: list[int]) -> None:
    """Row and step of each packed event are those of a loop."""
    batch = batch_of(lengths)

    expected = [(row, step) for row, n in enumerate(lengths) for step in range(n)]
    assert list(zip(batch.rows.tolist(), batch.steps.tolist(), strict=True)) == expected
    assert batch.offsets.tolist() == [sum(lengths[:n]) for n in range(len(lengths) + 1)]
    assert batch.mask.sum(1).tolist() == lengths
    assert len(batch) == len(lengths)


@given(LENGTHS)
def test_first_and_last_are_the_ends_of_rows(lengths: list[int]) -> None:
    """For rows with events they point at the oldest and the latest one."""
    batch = batch_of(lengths)

    for row, n in enumerate(lengths):
        if n:
            assert int(batch.first[row]) == sum(lengths[:row])
            assert int(batch.last[row]) == sum(lengths[: row + 1]) - 1


@given(LENGTHS, st.integers(0, 5), st.sampled_from([(), (2,), (2, 3)]))
def test_padding_and_back_loses_nothing(
    lengths: list[int], extra: int, tail: tuple[int, ...]
) -> None:
    """Events stand first in their row, the fill behind them, at any width; unpad undoes it."""
    batch = batch_of(lengths, max(lengths, default=0) + extra)
    packed = torch.randn(sum(lengths), *tail)

    padded = batch.pad(packed, fill=-7.0)

    assert padded.shape == (len(lengths), batch.width, *tail)
    for row, n in enumerate(lengths):
        start = sum(lengths[:row])
        assert torch.equal(padded[row, :n], packed[start : start + n])
        assert bool((padded[row, n:] == -7.0).all())
    assert torch.equal(batch.unpad(padded), packed)


@pytest.mark.parametrize("dtype", [torch.int64, torch.float32, torch.bool])
def test_padding_keeps_the_dtype(dtype: torch.dtype) -> None:
    """Codes stay integers, masks stay booleans; the default fill is zero."""
    batch = batch_of([2, 0, 1])

    padded = batch.pad(torch.ones(3, dtype=dtype))

    assert padded.dtype == dtype
    assert int(padded.sum()) == 3


def test_padding_carries_gradients_to_events_only() -> None:
    """Each event gets the gradient of its own cell."""
    packed = torch.ones(3, requires_grad=True)
    batch = batch_of([2, 0, 1])
    weight = torch.arange(24.0).reshape(3, 8)

    (batch.pad(packed) * weight).sum().backward()

    assert packed.grad.tolist() == [0.0, 1.0, 16.0]


@given(LENGTHS.filter(bool), st.data())
def test_taking_rows_takes_their_events(lengths: list[int], data: st.DataObject) -> None:
    """Any rows in any order, some twice: events, users, times and columns go along."""
    batch = batch_of(lengths)
    rows = data.draw(st.lists(st.integers(0, len(lengths) - 1), max_size=10))

    taken = batch.take(torch.tensor(rows, dtype=torch.int64))

    starts = [sum(lengths[:row]) for row in rows]
    events = [s + n for s, row in zip(starts, rows, strict=True) for n in range(lengths[row])]
    assert taken.codes.tolist() == batch.codes[events].tolist()
    assert taken.times.tolist() == batch.times[events].tolist()
    assert taken.columns["value"].tolist() == batch.columns["value"][events].tolist()
    assert taken.lengths.tolist() == [lengths[row] for row in rows]
    assert taken.users.tolist() == [50 + row for row in rows]
    assert taken.as_of.tolist() == [10_000 + row for row in rows]
    assert taken.width == batch.width
    assert batch.take(torch.tensor(rows, dtype=torch.int64), width=40).width == 40


@given(LENGTHS.filter(bool), st.randoms(use_true_random=False))
def test_taking_back_restores_the_batch(lengths: list[int], random: object) -> None:
    """A permutation and its inverse are the identity."""
    batch = batch_of(lengths)
    order = list(range(len(lengths)))
    random.shuffle(order)  # type: ignore[attr-defined]
    there = torch.tensor(order)

    again = batch.take(there).take(torch.argsort(there))

    assert torch.equal(again.codes, batch.codes)
    assert torch.equal(again.users, batch.users)


def test_other_codes_leave_the_rest() -> None:
    """``with_codes`` changes codes alone and shares everything else."""
    batch = batch_of([2, 1])
    assert batch.rows.tolist() == [0, 0, 1]

    masked = batch.with_codes(torch.tensor([1, 4, 1]))

    assert masked.codes.tolist() == [1, 4, 1]
    assert batch.codes.tolist() == [3, 4, 5]
    assert masked.times.data_ptr() == batch.times.data_ptr()
    assert masked.rows.tolist() == [0, 0, 1]


def test_moving_keeps_everything() -> None:
    """``to`` moves every tensor, columns included."""
    moved = batch_of([2, 1]).to("meta")

    assert moved.device.type == "meta"
    assert {t.device.type for t in (moved.times, moved.lengths, moved.users, moved.as_of)} == {
        "meta"
    }
    assert {t.device.type for t in moved.columns.values()} == {"meta"}
    assert moved.width == 8


def test_a_huge_history_costs_its_events() -> None:
    """One row of 200,000 events among short ones is packed without padding."""
    batch = batch_of([200_000, 1, 0])

    assert batch.codes.shape == (200_001,)
    assert batch.width == 262_144
    assert batch.take(torch.tensor([1])).codes.tolist() == [200_003]
