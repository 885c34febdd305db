"""Inference: order, windows and shapes of vectors, and logs at the edges."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import nn

from unirep_feast.batch import SequenceBatch
from unirep_feast.config import EncodeConfig
from unirep_feast.encoder import Encoded, Window
from unirep_feast.errors import ContractError, PluginError
from unirep_feast.inference import Inference
from unirep_feast.instants import MICROSECONDS_PER_DAY
from unirep_feast.sequences import Sequences
from unirep_feast.testing.world import World, make_world

DAY = MICROSECONDS_PER_DAY


def naive(sequences: Sequences, as_of: int, encoder: Any) -> dict[Any, np.ndarray]:
    """One user at a time, one row per batch, with Python loops."""
    encoder.eval()
    found = {}
    for row, user in enumerate(sequences.users.to_pylist()):
        start, end = int(sequences.starts[row]), int(sequences.ends[row])
        places = [p for p in range(start, end) if int(sequences.times[p]) < as_of]
        if encoder.window.max_days is not None:
            first = as_of - int(encoder.window.max_days * DAY)
            places = [p for p in places if int(sequences.times[p]) >= first]
        if encoder.window.max_events is not None:
            places = places[-encoder.window.max_events :]
        if not places:
            continue
        pick = torch.tensor(places)
        batch = SequenceBatch(
            codes=sequences.codes[pick].long(),
            times=sequences.times[pick],
            lengths=torch.tensor([len(places)]),
            users=torch.tensor([row]),
            as_of=torch.tensor([as_of]),
            width=len(places),
        )
        with torch.inference_mode():
            found[user] = encoder(batch).users.reshape(-1).numpy()
    return found


@pytest.mark.parametrize(
    "window",
    [Window(), Window(max_events=5), Window(max_days=20), Window(max_events=3, max_days=40)],
)
@pytest.mark.parametrize("after", [-60, -20, 0, 15, 400])
def test_vectors_are_those_of_a_plain_loop(
    world: World, window: Window, after: int, Attention: Any, encode: Any
) -> None:
    """Users, order and vectors equal a loop over users, for every window, also past the end."""
    as_of = world.until + after * DAY
    encoder = Attention(window)
    wanted = naive(world.sequences, as_of, encoder)

    found = encode(world.sequences, as_of, encoder)

    assert found["users"] == list(wanted)
    for user, vector in zip(found["users"], found["vectors"], strict=True):
        np.testing.assert_allclose(vector, wanted[user], rtol=1e-4, atol=1e-5)


def test_lengths_and_last_events_are_of_the_whole_past(
    world: World, Attention: Any, encode: Any
) -> None:
    """history_length counts all events before T, not only the window's; last_event is the last."""
    found = encode(world.sequences, world.until, Attention(Window(max_events=3)))

    events = world.events.to_pylist()
    for user, length, last in zip(
        found["users"], found["history_length"], found["last_event"], strict=True
    ):
        row = world.sequences.users.to_pylist().index(user)
        times = world.sequences.times[world.sequences.starts[row] : world.sequences.ends[row]]
        past = times[times < world.until]
        assert (length, last) == (len(past), int(past.max()))
        assert length <= sum(event["user_id"] == user for event in events)
    assert found["history_length"].max() > 3


def test_the_layout_is_k_times_d(world: World, Attention: Any, encode: Any) -> None:
    """Vector k of a user stands at k · D in her row."""
    encoder = Attention(num_vectors=3, dim=4)
    found = encode(world.sequences, world.until, encoder, cells=100_000)

    batch = encoder.seen[0]
    with torch.inference_mode():
        users = encoder(batch).users
    place = {user: row for row, user in enumerate(found["users"])}
    for row, who in enumerate(batch.users.tolist()):
        if who >= 0:
            user = world.sequences.users[who].as_py()
            wanted = users[row].numpy()
            assert (found["vectors"][place[user]].reshape(3, 4) == wanted).all()


def test_slots_are_published_beside_the_vectors(world: World, Attention: Any, encode: Any) -> None:
    """Interest ids are in user order, int64; without any there are none."""
    found = encode(world.sequences, world.until, Attention(slots=True))

    (slots,) = found["slots"]
    clipped = np.minimum(found["history_length"], 10)
    assert slots.dtype == np.int64
    assert (slots == clipped[:, None] + np.arange(2)).all()
    assert encode(world.sequences, world.until)["slots"] == [None]


def test_progress_reaches_the_end(world: World, Attention: Any) -> None:
    """Progress counts users and ends at their number, which count() tells beforehand."""
    told: list[tuple[int, int]] = []
    config = EncodeConfig(cells=64, block_users=9, device="cpu")
    inference = Inference(Attention(), config)

    list(inference.encode(world.sequences, world.until, lambda *numbers: told.append(numbers)))

    total = inference.count(world.sequences, world.until)
    assert told[-1] == (total, total)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


# -- edges -----------------------------------------------------------------------------------------


def tiny(lengths: list[int], step: int = 1) -> Sequences:
    """Users with so many events each, one every ``step`` microseconds from 0 on."""
    world = make_world(users=3)
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    events = int(offsets[-1])
    start = torch.repeat_interleave(offsets[:-1], torch.tensor(lengths))
    return Sequences(
        users=pa.array(range(len(lengths))),
        starts=offsets[:-1],
        ends=offsets[1:],
        codes=(torch.arange(events) % 20).int(),
        times=(torch.arange(events) - start) * step,
        vocabulary=world.vocabulary,
        items=world.sequences.items,
        until=max(lengths) * step,
    )


@pytest.fixture(name="Mean")
def _mean(Attention: Any) -> type[nn.Module]:
    class Mean(Attention):
        """Cheap enough for one history of 200,000 events."""

        def forward(self, batch: SequenceBatch, *, steps: bool = False) -> Encoded:
            self.seen.append(batch)
            mean = (
                self.items(batch.pad(batch.codes) % 64).sum(1) / batch.lengths.clamp(min=1)[:, None]
            )
            return Encoded(self.out(mean).reshape(len(batch), self.num_vectors, self.dim))

    return Mean


def test_a_history_of_200_000_events(world: World, encode: Any, Mean: Any) -> None:
    """A giant among users with one event: clipped, it costs a row; whole, a batch of its own."""
    sequences = tiny([1, 200_000, 1])

    clipped = encode(sequences, sequences.until, Mean(Window(max_events=50)))
    encoder = Mean(Window())
    whole = encode(sequences, sequences.until, encoder)

    assert clipped["history_length"].tolist() == [1, 200_000, 1]
    assert np.isfinite(whole["vectors"]).all()
    assert [(len(b), b.width) for b in encoder.seen] == [(16, 8), (1, 262_144)]


def test_one_user_with_one_event(encode: Any) -> None:
    """The smallest log encodes; a microsecond earlier there is nobody."""
    sequences = tiny([1])

    found = encode(sequences, 1)

    assert found["users"] == [0]
    assert (found["history_length"].tolist(), found["last_event"].tolist()) == ([1], [0])
    assert encode(sequences, 0)["users"] == []


def test_events_at_t_are_not_seen(encode: Any) -> None:
    """Strictly before T: an event exactly at T is the future."""
    sequences = tiny([5])

    assert encode(sequences, 3)["history_length"].tolist() == [3]
    assert encode(sequences, 3)["last_event"].tolist() == [2]


def test_users_without_an_event_in_the_window_are_left_out(Attention: Any, encode: Any) -> None:
    """A window of days that has closed leaves no vector, not a vector of nothing."""
    sequences = tiny([1, 30], step=DAY)
    encoder = Attention(Window(max_days=3))

    assert encode(sequences, 30 * DAY, encoder)["users"] == [1]
    assert encode(sequences, 3 * DAY, encoder)["users"] == [0, 1]
    assert encode(sequences, 100 * DAY, encoder)["users"] == []


def test_days_count_back_from_t_however_long_the_log_is_silent(Attention: Any, encode: Any) -> None:
    """Ten days after the last event, a window of twelve days holds its last two."""
    sequences = tiny([30], step=DAY)
    encoder = Attention(Window(max_days=12))

    encode(sequences, 40 * DAY, encoder)

    (batch,) = encoder.seen
    assert batch.times.tolist() == [28 * DAY, 29 * DAY]
    assert batch.as_of.unique().tolist() == [40 * DAY]


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (
            lambda e: Encoded(e.users[:, :, :-1]),
            ContractError,
            "encoder 'x' returned users (12, 2, 7); it declares (B, K, D) = (12, 2, 8)",
        ),
        (lambda e: Encoded(e.users[:-1]), ContractError, "returned users (11, 2, 8)"),
        (lambda e: Encoded(e.users.flatten(1)), ContractError, "returned users (12, 16)"),
        (lambda e: e.users, ContractError, "encoder 'x' returned Tensor; wanted Encoded"),
        (
            lambda e: Encoded(e.users, None, {"slots": torch.zeros(12, 3)}),
            ContractError,
            "returned slots (12, 3); it declares (B, K) = (12, 2)",
        ),
        (
            lambda e: Encoded(e.users, None, {"slots": torch.zeros(12, 2)}),
            ContractError,
            "encoder 'x' does not declare slots in `provides` and returns some",
        ),
        (
            lambda e: Encoded(e.users / 0),
            ContractError,
            "users hold NaN or infinity (",
        ),
        (lambda e: 1 / 0, PluginError, "encoder 'x' failed in forward while encoding "),
    ],
)
def test_broken_contracts_are_one_line(
    world: World,
    spoil: Callable[[Encoded], Any],
    error: type[Exception],
    message: str,
    Attention: Any,
    encode: Any,
) -> None:
    """Wrong shapes, types or numbers, and exceptions, name the encoder and what was wrong."""

    class Faulty(Attention):
        def forward(self, batch: SequenceBatch, *, steps: bool = False) -> Any:
            return spoil(super().forward(batch))

    with pytest.raises(error) as caught:
        encode(world.sequences, world.until, Faulty(), cells=96)

    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
