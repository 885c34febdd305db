"""Inference: order, windows and shapes; the past alone decides, to the last bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from unirep_feast.batch import SequenceBatch
from unirep_feast.config import MICROSECONDS_PER_DAY, EncodeConfig
from unirep_feast.encoder import Encoded, Window
from unirep_feast.errors import ContractError, PluginError
from unirep_feast.events import TIME_TYPE
from unirep_feast.inference import Inference
from unirep_feast.sequences import Sequences
from unirep_feast.snapshot import VectorBlock
from unirep_feast.testing.world import FUTURES, World, make_events, make_world, pack_table

DAY = MICROSECONDS_PER_DAY


class Attention(nn.Module):
    """One attention layer over item embeddings and ages: enough to feel every bit of a batch."""

    depends_on_as_of = True
    provides = frozenset({"batch_independent"})

    def __init__(
        self, window: Window | None = None, num_vectors: int = 2, dim: int = 8, slots: bool = False
    ) -> None:
        super().__init__()
        self.window = window or Window(max_events=10)
        self.num_vectors, self.dim, self.slots = num_vectors, dim, slots
        if slots:
            self.provides = frozenset({"batch_independent", "slots"})
        torch.manual_seed(0)
        self.items = nn.Embedding(64, 16)
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, 0.2, batch_first=True)
        self.out = nn.Linear(16, num_vectors * dim)
        self.seen: list[SequenceBatch] = []

    def bind(self, items: object) -> None: ...
    def penalties(self, extras: object) -> dict[str, Tensor]:
        return {}

    def forward(self, batch: SequenceBatch, *, steps: bool = False) -> Encoded:
        self.seen.append(batch)
        hidden = self.items(batch.pad(batch.codes) % 64)
        age = (batch.as_of[:, None] - batch.pad(batch.times)).double() / DAY
        hidden = hidden + age.sin().float()[..., None]
        mask = batch.mask.clone()
        mask[:, 0] = True  # a softmax over nothing is NaN
        hidden = self.layer(hidden, src_key_padding_mask=~mask)
        pooled = (hidden * batch.mask[..., None]).sum(1) / batch.lengths.clamp(min=1)[:, None]
        users = self.out(pooled).reshape(len(batch), self.num_vectors, self.dim)
        extras = {}
        if self.slots:
            extras["slots"] = batch.lengths[:, None] + torch.arange(self.num_vectors)
        return Encoded(users, None, extras)


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(users=70, items=30, longest=40, seed=5)


def joined(blocks: list[VectorBlock]) -> dict[str, Any]:
    return {
        "users": [user for block in blocks for user in block.users.to_pylist()],
        "vectors": np.concatenate([block.vectors for block in blocks]),
        "history_length": np.concatenate([block.history_length for block in blocks]),
        "last_event": np.concatenate([block.last_event for block in blocks]),
        "slots": [block.slots for block in blocks],
    }


def encode(
    sequences: Sequences, as_of: int, encoder: nn.Module | None = None, **config: Any
) -> dict[str, Any]:
    config = {"cells": 128, "device": "cpu", **config}
    inference = Inference(encoder or Attention(), EncodeConfig(**config), "x")
    return joined(list(inference.encode(sequences, as_of)))


def by_user(found: dict[str, Any]) -> dict[Any, bytes]:
    vectors = zip(found["users"], found["vectors"], strict=True)
    return {user: vector.tobytes() for user, vector in vectors}


def naive(sequences: Sequences, as_of: int, encoder: Attention) -> dict[Any, np.ndarray]:
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
def test_vectors_are_those_of_a_plain_loop(world: World, window: Window, after: int) -> None:
    """Users, order and vectors equal a loop over users, for every window, also past the end."""
    as_of = world.until + after * DAY
    encoder = Attention(window)
    wanted = naive(world.sequences, as_of, encoder)

    found = encode(world.sequences, as_of, encoder)

    assert found["users"] == list(wanted)
    for user, vector in zip(found["users"], found["vectors"], strict=True):
        np.testing.assert_allclose(vector, wanted[user], rtol=1e-4, atol=1e-5)


def test_lengths_and_last_events_are_of_the_whole_past(world: World) -> None:
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


def test_the_layout_is_k_times_d(world: World) -> None:
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


def test_slots_are_published_beside_the_vectors(world: World) -> None:
    """Interest ids are in user order, int64; without any there are none."""
    found = encode(world.sequences, world.until, Attention(slots=True))

    (slots,) = found["slots"]
    clipped = np.minimum(found["history_length"], 10)
    assert slots.dtype == np.int64
    assert (slots == clipped[:, None] + np.arange(2)).all()
    assert encode(world.sequences, world.until)["slots"] == [None]


# -- fixed shapes ----------------------------------------------------------------------------------


def test_every_batch_of_a_width_has_the_same_shape(world: World) -> None:
    """Batches are filled up with empty rows: one shape per width, cells bounded, all rows told."""
    encoder = Attention(Window())
    encode(world.sequences, world.until, encoder, cells=128)

    shapes: dict[int, set[int]] = {}
    for batch in encoder.seen:
        shapes.setdefault(batch.width, set()).add(len(batch))
        assert len(batch) * batch.width <= max(128, batch.width)
        assert int(batch.lengths.max()) <= batch.width
        filler = batch.users == -1
        assert (batch.lengths[filler] == 0).all()
        assert (batch.lengths[~filler] > 0).all()
        assert (batch.as_of == world.until).all()
    assert all(len(rows) == 1 for rows in shapes.values())
    assert len(shapes) >= 3


@pytest.mark.parametrize("window", [Window(max_events=10), Window(max_days=25), Window()])
def test_a_fifth_of_the_users_is_bit_equal(world: World, window: Window) -> None:
    """Encoding a random fifth gives the vectors of the whole, to the last bit."""
    whole = by_user(encode(world.sequences, world.until, Attention(window)))
    for seed in range(5):
        random = torch.Generator().manual_seed(seed)
        rows = torch.randperm(len(world.sequences), generator=random)[: len(world.sequences) // 5]

        part = by_user(encode(world.sequences.select(rows), world.until, Attention(window)))

        assert part
        assert {user: whole[user] for user in part} == part


def test_another_order_of_users_is_bit_equal(world: World) -> None:
    """Encoding everybody in another order gives the same vectors, in that order."""
    whole = encode(world.sequences, world.until)
    rows = torch.randperm(len(world.sequences), generator=torch.Generator().manual_seed(1))

    turned = encode(world.sequences.select(rows), world.until)

    users = world.sequences.users.take(pa.array(rows.numpy())).to_pylist()
    kept = set(whole["users"])
    assert turned["users"] == [user for user in users if user in kept]
    assert by_user(turned) == by_user(whole)


@pytest.mark.parametrize("block_users", [1, 7, 64, 10_000])
def test_blocks_change_nothing(world: World, block_users: int) -> None:
    """However many users are held at once, vectors are bit-equal and in user order."""
    whole = encode(world.sequences, world.until)

    found = encode(world.sequences, world.until, block_users=block_users)

    assert found["users"] == whole["users"]
    assert (found["vectors"].view(np.int32) == whole["vectors"].view(np.int32)).all()
    assert (found["last_event"] == whole["last_event"]).all()


@pytest.mark.parametrize("cells", [64, 100, 4096])
def test_cells_change_rounding_only(world: World, cells: int) -> None:
    """Another batch size gives the same vectors up to their last bits."""
    whole = encode(world.sequences, world.until)

    found = encode(world.sequences, world.until, cells=cells)

    assert found["users"] == whole["users"]
    np.testing.assert_allclose(found["vectors"], whole["vectors"], rtol=1e-4, atol=1e-5)


def test_encoding_repeats(world: World) -> None:
    """eval() and inference_mode: no dropout, the same bits twice."""
    encoder = Attention()
    first = encode(world.sequences, world.until, encoder)

    assert by_user(first) == by_user(encode(world.sequences, world.until, encoder))
    assert not encoder.training


def test_the_probe_tells_whether_company_matters(world: World) -> None:
    """An encoder whose rows see each other is found out; one whose rows do not passes."""

    class Nosy(Attention):
        def forward(self, batch: SequenceBatch, *, steps: bool = False) -> Encoded:
            users = super().forward(batch).users
            return Encoded(users + users.mean(0) * 1e-6)

    def probe(encoder: nn.Module) -> bool:
        inference = Inference(encoder, EncodeConfig(cells=128, device="cpu"))
        return inference.probe(world.sequences, world.until)

    assert probe(Attention())
    assert not probe(Nosy())


def test_progress_reaches_the_end(world: World) -> None:
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


class Mean(Attention):
    """Cheap enough for one history of 200,000 events."""

    def forward(self, batch: SequenceBatch, *, steps: bool = False) -> Encoded:
        self.seen.append(batch)
        mean = self.items(batch.pad(batch.codes) % 64).sum(1) / batch.lengths.clamp(min=1)[:, None]
        return Encoded(self.out(mean).reshape(len(batch), self.num_vectors, self.dim))


def test_a_history_of_200_000_events(world: World) -> None:
    """A giant among users with one event: clipped, it costs a row; whole, a batch of its own."""
    sequences = tiny([1, 200_000, 1])

    clipped = encode(sequences, sequences.until, Mean(Window(max_events=50)))
    encoder = Mean(Window())
    whole = encode(sequences, sequences.until, encoder)

    assert clipped["history_length"].tolist() == [1, 200_000, 1]
    assert np.isfinite(whole["vectors"]).all()
    assert [(len(b), b.width) for b in encoder.seen] == [(16, 8), (1, 262_144)]


def test_one_user_with_one_event() -> None:
    """The smallest log encodes; a microsecond earlier there is nobody."""
    sequences = tiny([1])

    found = encode(sequences, 1)

    assert found["users"] == [0]
    assert (found["history_length"].tolist(), found["last_event"].tolist()) == ([1], [0])
    assert encode(sequences, 0)["users"] == []


def test_events_at_t_are_not_seen() -> None:
    """Strictly before T: an event exactly at T is the future."""
    sequences = tiny([5])

    assert encode(sequences, 3)["history_length"].tolist() == [3]
    assert encode(sequences, 3)["last_event"].tolist() == [2]


def test_users_without_an_event_in_the_window_are_left_out() -> None:
    """A window of days that has closed leaves no vector, not a vector of nothing."""
    sequences = tiny([1, 30], step=DAY)
    encoder = Attention(Window(max_days=3))

    assert encode(sequences, 30 * DAY, encoder)["users"] == [1]
    assert encode(sequences, 3 * DAY, encoder)["users"] == [0, 1]
    assert encode(sequences, 100 * DAY, encoder)["users"] == []


def test_days_count_back_from_t_however_long_the_log_is_silent() -> None:
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
    world: World, spoil: Callable[[Encoded], Any], error: type[Exception], message: str
) -> None:
    """Wrong shapes, types or numbers, and exceptions, name the encoder and what was wrong."""

    class Faulty(Attention):
        def forward(self, batch: SequenceBatch, *, steps: bool = False) -> Any:
            return spoil(super().forward(batch))

    with pytest.raises(error) as caught:
        encode(world.sequences, world.until, Faulty(), cells=96)

    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


# -- the promise -----------------------------------------------------------------------------------


def sequences_of(world: World, events: pa.Table) -> Sequences:
    """Histories of another log, coded with the world's own vocabulary, as at inference."""
    return Sequences.from_packed(pack_table(events), world.vocabulary, world.items)


@pytest.mark.parametrize("how", FUTURES)
@pytest.mark.parametrize("window", [Window(max_events=10), Window(max_days=25), Window()])
def test_another_future_gives_the_same_bits(world: World, how: Any, window: Window) -> None:
    """Events at or after T changed, added or removed: vectors as of T are bit-equal."""
    wanted = encode(world.sequences, world.until, Attention(window))
    other = world.with_other_future(how)

    found = encode(sequences_of(world, other.events), world.until, Attention(window))

    assert found["users"] == wanted["users"]
    assert by_user(found) == by_user(wanted)
    assert (found["history_length"] == wanted["history_length"]).all()
    assert (found["last_event"] == wanted["last_event"]).all()


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_the_future_never_matters(world: World, data: st.DataObject) -> None:
    """For any T, any subset of the events from T on may go, move or come: not one bit differs."""
    times = world.events["event_timestamp"].cast(pa.int64()).to_numpy()
    as_of = data.draw(
        st.one_of(
            st.sampled_from(sorted(set(times.tolist()))),
            st.integers(int(times.min()), int(times.max()) + 30 * DAY),
        ),
        label="T",
    )
    seed = data.draw(st.integers(0, 10_000), label="seed")
    window = data.draw(
        st.sampled_from([Window(max_events=6), Window(max_days=15), Window(9, 30), Window()])
    )
    random = np.random.default_rng(seed)
    later = times >= as_of
    keep = ~later | (random.random(len(times)) < 0.5)
    # What stays of the future moves later by up to a month, and strangers and regulars join it.
    shifted = times + np.where(later, random.integers(0, 30 * DAY, len(times)), 0)
    moved = world.events.set_column(2, "event_timestamp", pa.array(shifted, TIME_TYPE))
    more = make_events(20, 30, seed, start=as_of, days=5, first_user=90)
    events = pa.concat_tables([more, moved.filter(pa.array(keep))])

    wanted = encode(world.sequences, as_of, Attention(window))
    found = encode(sequences_of(world, events), as_of, Attention(window))

    assert found["users"] == wanted["users"]
    assert by_user(found) == by_user(wanted)
    assert (found["history_length"] == wanted["history_length"]).all()


@pytest.mark.gpu
def test_a_gpu_gives_the_vectors_of_the_cpu(world: World) -> None:
    """On CUDA subsets are bit-equal too, and vectors are the CPU's to 1e-4."""
    whole = encode(world.sequences, world.until, device="cuda")
    rows = torch.arange(0, len(world.sequences), 5)
    part = encode(world.sequences.select(rows), world.until, device="cuda")
    cpu = encode(world.sequences, world.until)

    assert by_user(part).items() <= by_user(whole).items()
    np.testing.assert_allclose(whole["vectors"], cpu["vectors"], rtol=1e-3, atol=1e-4)
