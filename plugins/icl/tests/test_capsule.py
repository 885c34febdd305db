"""Dynamic routing against plain loops over MIND's Algorithm 1, in float64."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from unirep_feast.batch import SequenceBatch
from unirep_feast_icl.capsule import CapsuleEncoder, route, squash

Batches = Callable[..., SequenceBatch]
Capsules = Callable[..., CapsuleEncoder]


def _route(low: list[list[float]], logits: list[list[float]], iterations: int) -> list[list[float]]:
    """One user's interest capsules: softmax over interests, sum, squash, agree."""
    T, K, D = len(low), len(logits[0]), len(low[0])
    logits = [row[:] for row in logits]
    capsules = []
    for _ in range(iterations):
        shares = []
        for t in range(T):
            weights = [math.exp(b) for b in logits[t]]
            shares.append([w / sum(weights) for w in weights])
        capsules = []
        for k in range(K):
            z = [sum(shares[t][k] * low[t][d] for t in range(T)) for d in range(D)]
            square = sum(x * x for x in z)
            capsules.append([square / (1 + square) * x / math.sqrt(square) for x in z])
        for t in range(T):
            for k in range(K):
                logits[t][k] += sum(capsules[k][d] * low[t][d] for d in range(D))
    return capsules


@pytest.mark.parametrize("iterations", [1, 3])
def test_equals_plain_loops(iterations: int, capsules: Capsules, batch_of: Batches) -> None:
    """K interest capsules per user; logits are by place from the latest behavior."""
    model = capsules(iterations=iterations)
    rows = [[3, 9, 4], [], [12], [5, 6, 7, 8, 9, 9]]
    found = model(batch_of(rows, width=8)).users

    low = model.embed_items(torch.arange(30))
    for row, codes in enumerate(rows):
        if not codes:
            assert not found[row].any()
            continue
        first = [model.logits[len(codes) - 1 - t].tolist() for t in range(len(codes))]
        wanted = _route(low[torch.tensor(codes)].tolist(), first, iterations)
        np.testing.assert_allclose(found[row].tolist(), wanted, rtol=1e-7)  # 1e-12 under a root


def test_gradients_are_right_and_finite_for_empty_rows() -> None:
    """gradcheck through all iterations."""
    low = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[True, True, True, False], [True, False, False, False]])
    logits = torch.randn(2, 4, 2, dtype=torch.float64)

    assert torch.autograd.gradcheck(lambda x: route(x * mask[..., None], mask, logits, 3), (low,))
    zeros = torch.zeros(1, 3, requires_grad=True)
    squash(zeros).sum().backward()
    assert bool(torch.isfinite(zeros.grad).all())


def test_squashed_vectors_keep_their_direction_and_stay_below_one() -> None:
    """Short ones shrink to nothing, long ones to almost 1."""
    z = torch.tensor([[3.0, 4.0], [0.03, 0.04], [300.0, 400.0]], dtype=torch.float64)
    lengths = squash(z).norm(dim=1)

    torch.testing.assert_close(squash(z)[0] / lengths[0], torch.tensor([0.6, 0.8]).double())
    assert lengths.tolist() == pytest.approx([25 / 26, 0.0025 / 1.0025, 1], rel=1e-4)


def test_the_logits_are_kept(capsules: Capsules, batch_of: Batches) -> None:
    """A loaded encoder routes as the saved one did."""
    one, two = capsules(), capsules()
    batch = batch_of([[3, 4, 5, 6]])
    assert not torch.equal(one(batch).users, two(batch).users)
    two.load_state_dict(one.state_dict())

    assert torch.equal(one(batch).users, two(batch).users)
