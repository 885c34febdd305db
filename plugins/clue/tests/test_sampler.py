from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from unirep_feast.batch import MASK, SequenceBatch
from unirep_feast.sampler import Draw, Sampler, Units
from unirep_feast.sequences import Sequences, Window
from unirep_feast_clue.config import SamplerSettings
from unirep_feast_clue.sampler import ClueSampler

World = Callable[..., Sequences]


def _history(length: int, user: int = 0) -> list[tuple[str, int]]:
    return [(f"i{user:02}{n:03}", 10 * n) for n in range(length)]


def _views(sequences: Sequences, seed: int = 0, **settings: object) -> dict[str, SequenceBatch]:
    sampler = ClueSampler(SamplerSettings.model_validate(settings))
    users = sampler.units(sequences)
    units = Units(torch.arange(len(users)), users)
    views = dict(sampler.sample(sequences, units, Draw(seed, 0)))
    assert set(views) == sampler.views
    return views  # type: ignore[return-value]


def test_units_are_users_with_enough_events(world: World) -> None:
    """One event is too few by default; the setting decides."""
    sequences = world([_history(n) for n in (1, 0, 2, 5)])

    assert isinstance(ClueSampler(SamplerSettings()), Sampler)
    assert ClueSampler(SamplerSettings()).units(sequences).tolist() == [2, 3]
    assert ClueSampler(SamplerSettings(min_events=5)).units(sequences).tolist() == [3]
    assert ClueSampler(SamplerSettings(min_events=1)).units(sequences).tolist() == [0, 2, 3]


def test_dropout_gives_the_same_events_twice(world: World) -> None:
    """Implicit augmentation leaves the making of views to the encoder."""
    views = _views(world([_history(4), _history(7, 1)]))

    assert torch.equal(views["first"].codes, views["second"].codes)
    assert views["first"].lengths.tolist() == [4, 7]


def test_histories_are_clipped_before_anything_is_drawn(world: World) -> None:
    """Only the most recent n events can be in a view, and proportions are of those."""
    sequences = world([_history(30)], Window(max_events=10))
    views = _views(sequences, augmentation="mask", mask=0.3)

    for view in views.values():
        assert view.lengths.tolist() == [10]
        assert view.width == 10
        assert int((view.codes == MASK).sum()) == 3
        assert torch.equal(view.times, sequences.times[20:])


@pytest.mark.parametrize("augmentation", ["mask", "crop", "permute", "random", ["crop", "mask"]])
def test_views_are_two_different_draws_that_repeat(world: World, augmentation: object) -> None:
    """The two views differ, the same draw gives them again, another step others."""
    sequences = world([_history(20, user) for user in range(8)])
    first = _views(sequences, augmentation=augmentation)
    again = _views(sequences, augmentation=augmentation)
    other = _views(sequences, augmentation=augmentation, seed=1)

    assert torch.equal(first["first"].codes, again["first"].codes)
    assert torch.equal(first["second"].codes, again["second"].codes)
    assert not torch.equal(first["first"].codes, first["second"].codes)
    assert not torch.equal(first["first"].codes, other["first"].codes)


def test_random_gives_each_user_one_of_the_three(world: World) -> None:
    """Every row is either masked, or shorter, or in another order, and all three occur."""
    sequences = world([_history(20, user) for user in range(60)])
    view = _views(sequences, augmentation="random")["first"]

    masked = torch.zeros(60).index_add_(0, view.rows, (view.codes == MASK).float()) > 0
    shorter = view.lengths < 20
    assert not (masked & shorter).any()
    untouched = ~masked & ~shorter
    for kind in (masked, shorter, untouched):
        assert 8 <= int(kind.sum()) <= 32
    for row in torch.nonzero(untouched).flatten().tolist():
        codes = view.codes[view.rows == row]
        assert not torch.equal(codes, codes.sort().values)
        assert sorted(codes.tolist()) == list(range(3 + 20 * row, 23 + 20 * row))


def test_a_list_applies_one_after_the_other(world: World) -> None:
    """Crop to half, then mask half of that."""
    view = _views(world([_history(20)]), augmentation=["crop", "mask"])["first"]

    assert view.lengths.tolist() == [10]
    assert int((view.codes == MASK).sum()) == 5


def test_held_out_events_are_hidden_at_a_time(world: World) -> None:
    """The latest events go, and with them whatever shares the time of the earliest of them."""
    plain = [("a", 1), ("b", 2), ("c", 3), ("d", 4), ("e", 5)]
    tied = [("a", 1), ("b", 2), ("c", 4), ("d", 4), ("e", 5)]
    short = [("a", 1), ("b", 2)]
    sequences = world([plain, tied, short, [("a", 1), ("b", 2), ("c", 3), ("d", 4)]])
    sampler = ClueSampler(SamplerSettings(hold_out=2))
    assert sampler.units(sequences).tolist() == [0, 1, 3]

    view = _views(sequences, hold_out=2)["first"]
    assert view.lengths.tolist() == [3, 2, 2]
    assert view.times.tolist() == [1, 2, 3, 1, 2, 1, 2]
    assert view.as_of.tolist() == [4, 4, 3]


def test_nothing_reaches_the_end_of_the_sequences(world: World) -> None:
    """After ``before(T)`` every event of both views is earlier than T."""
    sequences = world([_history(9), _history(5, 1)]).before(35)
    for view in _views(sequences, augmentation="permute").values():
        assert int(view.times.max()) < 35
        assert (view.as_of <= 35).all()
