from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unirep_feast.batch import MASK, SequenceBatch
from unirep_feast_clue.views import AUGMENTATIONS, crop, mask, permute, share

#: Histories whose codes are all different, so that moves can be seen.
HISTORIES = st.lists(st.integers(1, 20), min_size=1, max_size=8)
PROPORTIONS = st.sampled_from([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9])


def _batch(lengths: list[int]) -> SequenceBatch:
    events = sum(lengths)
    codes = torch.arange(3, 3 + events)
    return SequenceBatch(
        codes=codes,
        times=torch.arange(events) * 5,
        lengths=torch.tensor(lengths),
        users=torch.arange(len(lengths)),
        as_of=torch.full((len(lengths),), events * 5),
        width=24,
        columns={"value": codes.float() / 2},
    )


def _rows(batch: SequenceBatch, column: torch.Tensor) -> list[list[int]]:
    return [piece.tolist() for piece in torch.split(column, batch.lengths.tolist())]


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(HISTORIES, PROPORTIONS, st.integers(0, 1000))
@settings(deadline=None)
def test_mask_hides_the_proportion_and_nothing_else(
    lengths: list[int], proportion: float, seed: int
) -> None:
    """round(p n) events become [MASK], at least one, never all of several; the rest stays."""
    batch = _batch(lengths)
    count = share(batch.lengths, proportion, 1, 1)
    out = mask(batch, count, _seeded(seed))

    hidden = out.codes == MASK
    per_row = [sum(row) for row in _rows(out, hidden)]
    assert per_row == [min(max(round(proportion * n), 1), n - 1) for n in lengths]
    assert torch.equal(out.codes[~hidden], batch.codes[~hidden])
    assert torch.equal(out.times, batch.times)
    assert torch.equal(out.lengths, batch.lengths)
    assert torch.equal(out.columns["value"], batch.columns["value"])


@given(HISTORIES, PROPORTIONS, st.integers(0, 1000))
@settings(deadline=None)
def test_crop_drops_one_piece_and_keeps_the_rest_in_order(
    lengths: list[int], proportion: float, seed: int
) -> None:
    """A contiguous piece of round(p n) events goes; at least one event stays."""
    batch = _batch(lengths)
    count = share(batch.lengths, proportion, 1, 1)
    out = crop(batch, count, _seeded(seed))

    gone = [min(max(round(proportion * n), 1), n - 1) for n in lengths]
    assert out.lengths.tolist() == [n - k for n, k in zip(lengths, gone, strict=True)]
    assert int(out.lengths.min()) >= 1
    assert out.width >= int(out.lengths.max())
    for before, after, k in zip(
        _rows(batch, batch.codes), _rows(out, out.codes), gone, strict=True
    ):
        starts = range(len(before) - k + 1)
        assert after in [before[:start] + before[start + k :] for start in starts]
    kept = torch.isin(batch.codes, out.codes)
    assert torch.equal(out.times, batch.times[kept])
    assert torch.equal(out.columns["value"], batch.columns["value"][kept])


@given(HISTORIES, PROPORTIONS, st.integers(0, 1000))
@settings(deadline=None)
def test_permute_shuffles_one_piece_only(lengths: list[int], proportion: float, seed: int) -> None:
    """The same events, moved within a piece of round(p n), at least two; times stay in order."""
    batch = _batch(lengths)
    count = share(batch.lengths, proportion, 2, 0)
    out = permute(batch, count, _seeded(seed))

    for before, after, n in zip(
        _rows(batch, batch.codes), _rows(out, out.codes), lengths, strict=True
    ):
        assert sorted(after) == before
        moved = [place for place in range(n) if before[place] != after[place]]
        if moved:
            assert moved[-1] - moved[0] < min(max(round(proportion * n), 2), n)
    assert torch.equal(out.times, batch.times)
    assert torch.equal(out.columns["value"], out.codes.float() / 2)  # columns move along


@given(HISTORIES, st.integers(0, 1000))
@settings(deadline=None)
def test_a_count_of_zero_touches_nothing(lengths: list[int], seed: int) -> None:
    """Rows that are not asked for stay as they are."""
    batch = _batch(lengths)
    none = torch.zeros_like(batch.lengths)
    for augment, _, _ in AUGMENTATIONS.values():
        out = augment(batch, none, _seeded(seed))

        assert torch.equal(out.codes, batch.codes)
        assert torch.equal(out.lengths, batch.lengths)


@pytest.mark.parametrize("name", sorted(AUGMENTATIONS))
def test_draws_repeat_by_seed_and_differ_between_seeds(name: str) -> None:
    """The generator decides everything."""
    batch = _batch([20] * 10)
    augment, at_least, spared = AUGMENTATIONS[name]
    count = share(batch.lengths, 0.5, at_least, spared)
    first, again, other = (augment(batch, count, _seeded(seed)).codes for seed in (1, 1, 2))

    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("name", sorted(AUGMENTATIONS))
def test_all_places_are_equally_likely(name: str) -> None:
    """Each place of a history of 5 is touched as often as its symmetric one; none is spared."""
    batch = _batch([5] * 20_000)
    augment = AUGMENTATIONS[name][0]
    out = augment(batch, torch.full_like(batch.lengths, 2), _seeded(0))
    gone = ~torch.isin(batch.codes, out.codes)
    touched = gone if name == "crop" else out.codes != batch.codes
    share_of = touched.view(-1, 5).float().mean(0)
    # mask: 2 of 5; a piece of 2 has 4 places, so the ends are in it 1/4, inner places 1/2 of
    # the time; a shuffle of two moves them half of the time.
    expected = {
        "mask": [0.4] * 5,
        "crop": [0.25, 0.5, 0.5, 0.5, 0.25],
        "permute": [0.125, 0.25, 0.25, 0.25, 0.125],
    }[name]

    torch.testing.assert_close(share_of, torch.tensor(expected), rtol=0, atol=0.02)


def test_empty_batches_pass_through(batch_of: Callable[..., SequenceBatch]) -> None:
    """No rows, or rows without events, are nothing to change."""
    for rows in ([], [[], []]):
        batch = batch_of(rows, width=3)
        for augment, at_least, spared in AUGMENTATIONS.values():
            count = share(batch.lengths, 0.5, at_least, spared)

            assert augment(batch, count, _seeded(0)).lengths.tolist() == [0] * len(rows)
