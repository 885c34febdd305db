from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unirep_feast.batch import SequenceBatch
from unirep_feast.instants import MICROSECONDS_PER_DAY
from unirep_feast.sampler import Draw, Units
from unirep_feast.sequences import Sequences, Window
from unirep_feast.testing.world import make_sequences
from unirep_feast_lurm.config import PairSettings, SamplerSettings
from unirep_feast_lurm.pairs import PairSampler
from unirep_feast_lurm.sampler import LurmSampler


def drawn(
    sampler: LurmSampler, sequences: Sequences, step: int = 0
) -> tuple[torch.Tensor, SequenceBatch, SequenceBatch]:
    users = sampler.units(sequences)
    views = sampler.sample(sequences, Units(torch.arange(len(users)), users), Draw(0, step))
    first, second = views["first"], views["second"]
    assert isinstance(first, SequenceBatch) and isinstance(second, SequenceBatch)
    return users, first, second


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 6), st.floats(0, 1))
def test_pieces_are_whole_moments_in_a_row(seed: int, least: int, share: float) -> None:
    """Contiguous, no basket cut, no shorter than asked; as of just behind the last event."""
    sequences = make_sequences(users=15, seed=seed, longest=14)
    sampler = LurmSampler(SamplerSettings(min_events=least, min_share=share))
    users, *views = drawn(sampler, sequences, step=seed)

    lengths = sequences.lengths
    assert users.tolist() == torch.nonzero(lengths > least).flatten().tolist()
    for view in views:
        for row, user in enumerate(users.tolist()):
            start, end = int(sequences.starts[user]), int(sequences.ends[user])
            times, codes = sequences.times[start:end], sequences.codes[start:end]
            piece = view.take(torch.tensor([row]))
            inside = (times >= piece.times[0]) & (times < piece.as_of[0])
            assert torch.equal(times[inside], piece.times)
            assert torch.equal(codes[inside].long(), piece.codes)
            assert len(piece.codes) >= min(max(least, share * len(times)), len(times))
            assert int(piece.as_of[0]) == int(piece.times[-1]) + 1


def test_pieces_are_drawn_apart_and_everywhere() -> None:
    """The two views differ, and over many steps every event is seen first and last."""
    sequences = make_sequences(users=3, longest=12, seed=4)
    sampler = LurmSampler(SamplerSettings(min_events=1, min_share=0))
    firsts, differ = set(), 0
    for step in range(400):
        _, first, second = drawn(sampler, sequences, step)
        differ += not torch.equal(first.lengths, second.lengths)
        firsts |= set(zip(first.users.tolist(), first.times[first.first].tolist(), strict=True))

    assert differ > 200
    user = int(sequences.lengths.argmax())
    times = sequences.times[int(sequences.starts[user]) : int(sequences.ends[user])]
    assert {when for who, when in firsts if who == user} == set(times.tolist())


def test_the_window_clips_pieces_at_their_own_end() -> None:
    """A window of days ends where the piece does, not at the cut-off; of events, likewise."""
    sequences = make_sequences(users=20, longest=20, seed=2)
    days = sequences.limit(Window(max_days=10))
    for step in range(5):
        _, first, _ = drawn(LurmSampler(SamplerSettings()), days, step)
        age = first.as_of[first.rows] - first.times
        assert int(age.max()) <= 10 * MICROSECONDS_PER_DAY
        assert bool((first.lengths > 0).all())
    _, first, _ = drawn(LurmSampler(SamplerSettings()), sequences.limit(Window(max_events=3)))
    assert int(first.lengths.max()) == 3


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.01, 0.25, 1.0, 5.0, 40.0]))
def test_pairs_are_of_one_user_and_less_than_beta_apart(seed: int, beta: float) -> None:
    """Both codes are behaviors of the user, at two places with a gap below beta; all who can."""
    sequences = make_sequences(users=10, seed=seed, longest=8)
    sampler = PairSampler(PairSettings(beta_days=beta))
    users = sampler.units(sequences)
    gap = beta * MICROSECONDS_PER_DAY

    eligible = []
    for user in range(len(sequences)):
        times = sequences.times[int(sequences.starts[user]) : int(sequences.ends[user])]
        if bool((times.diff() < gap).any()):
            eligible.append(user)
    assert users.tolist() == eligible
    if not eligible:
        return
    views = sampler.sample(sequences, Units(torch.arange(len(users)), users), Draw(seed, 0))
    item, positive = views["item"], views["positive"]
    assert isinstance(item, torch.Tensor) and isinstance(positive, torch.Tensor)
    for user, a, b in zip(users.tolist(), item.tolist(), positive.tolist(), strict=True):
        span = slice(int(sequences.starts[user]), int(sequences.ends[user]))
        codes, times = sequences.codes[span].tolist(), sequences.times[span].tolist()
        assert any(
            i != j and (codes[i], codes[j]) == (a, b) and abs(times[i] - times[j]) < gap
            for i in range(len(codes))
            for j in range(len(codes))
        )


def test_two_behaviors_exactly_beta_apart_are_no_pair() -> None:
    """Less than beta, as the paper says; one microsecond less is a pair."""
    sequences = make_sequences(users=4, longest=6)
    user = int(sequences.lengths.argmax())
    start = int(sequences.starts[user])
    gap = 5 * MICROSECONDS_PER_DAY
    for shift, wanted in ((0, []), (-1, [user])):
        times = sequences.times.clone()
        n = int(sequences.lengths[user])
        times[start : start + n] = torch.arange(n) * gap
        times[start + 1] += shift
        times[start + 2 : start + n] += shift  # only the first gap is shorter
        changed = replace(sequences, times=times).select(torch.tensor([user]))
        units = PairSampler(PairSettings(beta_days=5)).units(changed)
        assert units.tolist() == [0] * len(wanted)


@pytest.mark.parametrize("seed", range(3))
def test_all_pairs_come_up(seed: int) -> None:
    """Over many steps, every ordered pair of neighbours in time is drawn."""
    sequences = make_sequences(users=3, longest=6, seed=seed)
    sampler = PairSampler(PairSettings(beta_days=20))
    users = sampler.units(sequences)
    found: set[tuple[int, int, int]] = set()
    for step in range(600):
        views = sampler.sample(sequences, Units(torch.arange(len(users)), users), Draw(0, step))
        item, positive = views["item"], views["positive"]
        assert isinstance(item, torch.Tensor) and isinstance(positive, torch.Tensor)
        found |= set(zip(users.tolist(), item.tolist(), positive.tolist(), strict=True))
    wanted = set()
    for user in users.tolist():
        span = slice(int(sequences.starts[user]), int(sequences.ends[user]))
        codes, times = sequences.codes[span].tolist(), sequences.times[span].tolist()
        for i in range(len(codes)):
            for j in range(len(codes)):
                if i != j and abs(times[i] - times[j]) < 20 * MICROSECONDS_PER_DAY:
                    wanted.add((user, codes[i], codes[j]))
    assert found == wanted
