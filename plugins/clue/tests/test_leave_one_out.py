from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from unirep_feast.batch import SequenceBatch
from unirep_feast.sampler import Draw, Sampler, Units
from unirep_feast.sequences import Sequences, Window
from unirep_feast_clue.config import NextItemSettings
from unirep_feast_clue.leave_one_out import NextItemSampler

World = Callable[..., Sequences]
PLAIN = [("a", 1), ("b", 2), ("c", 3), ("d", 4), ("e", 5)]


def _sample(
    sequences: Sequences, step: int = 0, **options: object
) -> tuple[Tensor, SequenceBatch, Tensor, Tensor]:
    sampler = NextItemSampler(NextItemSettings.model_validate(options))
    assert isinstance(sampler, Sampler)
    users = sampler.units(sequences)
    views = sampler.sample(sequences, Units(torch.arange(len(users)), users), Draw(0, step))
    history, target, candidates = views["history"], views["target"], views["candidates"]
    assert isinstance(history, SequenceBatch)
    assert isinstance(target, Tensor) and isinstance(candidates, Tensor)
    return users, history, target, candidates


def test_test_is_the_last_item_and_valid_the_one_before(world: World) -> None:
    """The history is everything strictly before the target's time."""
    sequences = world([PLAIN])

    _, history, target, candidates = _sample(sequences, target="test")
    assert (history.codes.tolist(), target.tolist()) == ([3, 4, 5, 6], [7])
    assert candidates.tolist() == [3, 4, 5, 6, 7]

    _, history, target, _ = _sample(sequences, target="valid")
    assert (history.codes.tolist(), target.tolist()) == ([3, 4, 5], [6])


def test_training_never_sees_the_held_out_events(world: World) -> None:
    """Over many steps the targets are exactly those left, each with its own past."""
    sequences = world([PLAIN])
    seen = set()
    for step in range(40):
        _, history, target, _ = _sample(sequences, step)
        seen.add((target.item(), tuple(history.codes.tolist())))

    assert seen == {(4, (3,)), (5, (3, 4))}


def test_a_basket_is_never_split(world: World) -> None:
    """Events that share the target's time are in no history, as targets they share theirs."""
    tied = [("a", 1), ("b", 2), ("c", 7), ("d", 7), ("e", 7)]
    sequences = world([tied])

    assert _sample(sequences, target="test")[1].codes.tolist() == [3, 4]
    assert _sample(sequences, target="valid")[1].codes.tolist() == [3, 4]
    # The held-out two drag the third of their basket with them: only b is left to predict.
    _, history, target, _ = _sample(sequences)
    assert (history.codes.tolist(), target.tolist()) == ([3], [4])


def test_users_without_a_target_are_no_units(world: World) -> None:
    """A target needs min_events earlier events and, for training, must not be held out."""
    histories = [PLAIN[:n] for n in range(6)] + [[("a", 1), ("b", 1), ("c", 1)]]
    sequences = world(histories)

    assert _sample(sequences, target="test")[0].tolist() == [2, 3, 4, 5]
    assert _sample(sequences, target="valid")[0].tolist() == [3, 4, 5]
    assert _sample(sequences, target="train")[0].tolist() == [4, 5]
    assert _sample(sequences, target="train", hold_out=0)[0].tolist() == [2, 3, 4, 5]
    assert _sample(sequences, target="test", min_events=4)[0].tolist() == [5]


def test_items_without_a_code_are_no_targets(world: World) -> None:
    """What the vocabulary does not know cannot be ranked; as history it stays."""
    unknown_last = [("a", 1), ("b", 2), ("new", 3)]
    unknown_inside = [("a", 1), ("new", 2), ("b", 3)]
    sequences = world([unknown_last, unknown_inside], unknown=["new"])

    users, history, target, candidates = _sample(sequences, target="test")
    assert (users.tolist(), target.tolist()) == ([1], [4])
    assert history.codes.tolist() == [3, 5]
    assert candidates.tolist() == [3, 4]

    users = _sample(sequences, hold_out=0)[0]
    assert users.tolist() == [0, 1]
    drawn = torch.cat([_sample(sequences, step, hold_out=0)[2] for step in range(30)])
    assert drawn.unique().tolist() == [4]


def test_histories_are_clipped_to_the_window(world: World) -> None:
    """Only the most recent events before the target, as the encoder asks."""
    sequences = world([PLAIN], Window(max_events=2))

    assert _sample(sequences, target="test")[1].codes.tolist() == [5, 6]


def test_nobody_to_train_on(world: World) -> None:
    """No events at all give no units, not a crash."""
    for sequences in (world([[], []]), world([])):
        for target in ("train", "valid", "test"):
            assert _sample(sequences, target=target)[0].tolist() == []


@pytest.mark.parametrize("target", ["train", "valid", "test"])
@given(data=st.data())
@settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_agrees_with_a_plain_loop(world: World, target: str, data: st.DataObject) -> None:
    """Units and targets are those a loop over users and events finds."""
    times = st.lists(st.integers(0, 6), max_size=7)
    histories = [
        [(f"i{user}{n}", time) for n, time in enumerate(sorted(drawn))]
        for user, drawn in enumerate(data.draw(st.lists(times, min_size=1, max_size=4)))
    ]
    hold_out, min_events = data.draw(st.integers(0, 3)), data.draw(st.integers(1, 3))
    sequences = world(histories)
    options = {"target": target, "hold_out": hold_out, "min_events": min_events}
    users, history, found, _ = _sample(sequences, **options)

    possible: dict[int, dict[str, list[str]]] = {}
    for user, events in enumerate(histories):
        if target == "train":
            hidden = events[max(len(events) - hold_out, 0) :]
            left = [e for e in events if not hidden or e[1] < hidden[0][1]]
        else:
            place = len(events) - (1 if target == "test" else 2)
            left = events[place : place + 1] if place >= 0 else []
        for item, time in left:
            past = [earlier for earlier, when in events if when < time]
            if len(past) >= min_events:
                possible.setdefault(user, {})[item] = past
    assert users.tolist() == sorted(possible)

    names = sequences.items.item_ids.to_pylist()
    pieces = torch.split(history.codes, history.lengths.tolist())
    for user, code, past in zip(users.tolist(), found.tolist(), pieces, strict=True):
        assert [names[c - 3] for c in past.tolist()] == possible[user][names[code - 3]]
