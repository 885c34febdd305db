"""Inference to the last bit: neither company nor the future changes a vector."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from unirep_feast.batch import SequenceBatch
from unirep_feast.config import EncodeConfig
from unirep_feast.encoder import Encoded, Window
from unirep_feast.events import TIME_TYPE
from unirep_feast.inference import Inference
from unirep_feast.instants import MICROSECONDS_PER_DAY
from unirep_feast.sequences import Sequences
from unirep_feast.testing.world import FUTURES, World, make_events, pack_table

DAY = MICROSECONDS_PER_DAY


# -- fixed shapes ----------------------------------------------------------------------------------


def test_every_batch_of_a_width_has_the_same_shape(
    world: World, Attention: Any, encode: Any
) -> None:
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
def test_a_fifth_of_the_users_is_bit_equal(
    world: World, window: Window, Attention: Any, encode: Any, by_user: Any
) -> None:
    """Encoding a random fifth gives the vectors of the whole, to the last bit."""
    whole = by_user(encode(world.sequences, world.until, Attention(window)))
    for seed in range(5):
        random = torch.Generator().manual_seed(seed)
        rows = torch.randperm(len(world.sequences), generator=random)[: len(world.sequences) // 5]

        part = by_user(encode(world.sequences.select(rows), world.until, Attention(window)))

        assert part
        assert {user: whole[user] for user in part} == part


def test_another_order_of_users_is_bit_equal(world: World, encode: Any, by_user: Any) -> None:
    """Encoding everybody in another order gives the same vectors, in that order."""
    whole = encode(world.sequences, world.until)
    rows = torch.randperm(len(world.sequences), generator=torch.Generator().manual_seed(1))

    turned = encode(world.sequences.select(rows), world.until)

    users = world.sequences.users.take(pa.array(rows.numpy())).to_pylist()
    kept = set(whole["users"])
    assert turned["users"] == [user for user in users if user in kept]
    assert by_user(turned) == by_user(whole)


@pytest.mark.parametrize("block_users", [1, 7, 64, 10_000])
def test_blocks_change_nothing(world: World, block_users: int, encode: Any) -> None:
    """However many users are held at once, vectors are bit-equal and in user order."""
    whole = encode(world.sequences, world.until)

    found = encode(world.sequences, world.until, block_users=block_users)

    assert found["users"] == whole["users"]
    assert (found["vectors"].view(np.int32) == whole["vectors"].view(np.int32)).all()
    assert (found["last_event"] == whole["last_event"]).all()


@pytest.mark.parametrize("cells", [64, 100, 4096])
def test_cells_change_rounding_only(world: World, cells: int, encode: Any) -> None:
    """Another batch size gives the same vectors up to their last bits."""
    whole = encode(world.sequences, world.until)

    found = encode(world.sequences, world.until, cells=cells)

    assert found["users"] == whole["users"]
    np.testing.assert_allclose(found["vectors"], whole["vectors"], rtol=1e-4, atol=1e-5)


def test_encoding_repeats(world: World, Attention: Any, encode: Any, by_user: Any) -> None:
    """eval() and inference_mode: no dropout, the same bits twice."""
    encoder = Attention()
    first = encode(world.sequences, world.until, encoder)

    assert by_user(first) == by_user(encode(world.sequences, world.until, encoder))
    assert not encoder.training


def test_the_probe_tells_whether_company_matters(world: World, Attention: Any) -> None:
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


# -- the promise -----------------------------------------------------------------------------------


def sequences_of(world: World, events: pa.Table) -> Sequences:
    """Histories of another log, coded with the world's own vocabulary, as at inference."""
    return Sequences.from_packed(pack_table(events), world.vocabulary, world.items)


@pytest.mark.parametrize("how", FUTURES)
@pytest.mark.parametrize("window", [Window(max_events=10), Window(max_days=25), Window()])
def test_another_future_gives_the_same_bits(
    world: World, how: Any, window: Window, Attention: Any, encode: Any, by_user: Any
) -> None:
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
def test_the_future_never_matters(
    world: World, data: st.DataObject, Attention: Any, encode: Any, by_user: Any
) -> None:
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
def test_a_gpu_gives_the_vectors_of_the_cpu(world: World, encode: Any, by_user: Any) -> None:
    """On CUDA subsets are bit-equal too, and vectors are the CPU's to 1e-4."""
    whole = encode(world.sequences, world.until, device="cuda")
    rows = torch.arange(0, len(world.sequences), 5)
    part = encode(world.sequences.select(rows), world.until, device="cuda")
    cpu = encode(world.sequences, world.until)

    assert by_user(part).items() <= by_user(whole).items()
    np.testing.assert_allclose(whole["vectors"], cpu["vectors"], rtol=1e-3, atol=1e-4)
