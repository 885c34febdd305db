"""What is special about decayed sums: half-lives, and a stream that gives the same vectors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from acme_decay.config import EncoderSettings
from acme_decay.encoder import DecayEncoder
from acme_decay.streaming import DecayState
from hypothesis import given
from hypothesis import strategies as st

from unirep_feast.batch import FIRST_ITEM, SequenceBatch

DAY = 86_400_000_000
SETTINGS = EncoderSettings(dim=4, half_lives_days=(0.5, 7.0), max_events=30)


def encoder() -> DecayEncoder:
    torch.manual_seed(0)
    return DecayEncoder(20, SETTINGS).eval()


def one_user(items: list[int], times: list[int]) -> SequenceBatch:
    return SequenceBatch(
        codes=torch.tensor(items) + FIRST_ITEM,
        times=torch.tensor(times),
        lengths=torch.tensor([len(items)]),
        users=torch.tensor([0]),
        as_of=torch.tensor([times[-1] + 1]),
        width=32,
    )


@torch.no_grad()
def test_an_event_one_half_life_old_counts_half() -> None:
    """By hand: (e2 + e1 / 2) / (1 + 1.5) with a week between, at a half-life of a week."""
    model = encoder()
    e1, e2 = model.embed_items(torch.tensor([1, 2]) + FIRST_ITEM)

    vectors = model(one_user([1, 2], [0, 7 * DAY])).users[0]

    torch.testing.assert_close(vectors[1], (e2 + 0.5 * e1) / 2.5)


@given(
    st.lists(st.tuples(st.integers(0, 10), st.integers(0, 3 * DAY)), min_size=1, max_size=30),
)
def test_a_stream_gives_the_encoders_vectors(events: list[tuple[int, int]]) -> None:
    """Event by event, in float64, or all at once in a batch: the same to 1e-5."""
    model = encoder()
    items = [item for item, _ in events]
    times = np.cumsum([gap for _, gap in events]).tolist()
    state = DecayState.empty(np.array(SETTINGS.half_lives_days), SETTINGS.dim)

    with torch.no_grad():
        embedded = model.embed_items(torch.tensor(items) + FIRST_ITEM).numpy()
        whole = model(one_user(items, times)).users[0].numpy()
    for embedding, time in zip(embedded, times, strict=True):
        state.add(embedding, time)

    assert state.vectors(SETTINGS.shrinkage) == pytest.approx(whole, abs=1e-5)
