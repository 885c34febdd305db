"""Measures of a space on spaces whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from unirep_feast.evaluation.intrinsic import (
    alignment,
    dead_dimensions,
    effective_rank,
    frechet_drift,
    mean_shift,
    moments,
    neighbor_overlap,
    uniformity,
)


def points(n: int = 300, d: int = 6, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


def test_uniformity_of_a_point_is_zero_and_of_a_sphere_low() -> None:
    """Beside the loop over pairs; length of vectors does not matter."""
    some = points(20)
    flat = some / np.linalg.norm(some, axis=1, keepdims=True)
    pairs = [
        math.exp(-2 * float(((flat[i] - flat[j]) ** 2).sum()))
        for i in range(20)
        for j in range(20)
        if i != j
    ]

    assert uniformity(np.ones((9, 4), np.float32)) == pytest.approx(0, abs=1e-6)
    assert uniformity(some * 7) == pytest.approx(math.log(np.mean(pairs)), abs=1e-5)
    assert uniformity(points(500, 64)) < -3.5


def test_alignment_is_the_squared_distance_of_unit_vectors() -> None:
    """0 for the same direction, 4 for the opposite one."""
    some = points()

    assert alignment(some, some * 3) == pytest.approx(0, abs=1e-6)
    assert alignment(some, -some) == pytest.approx(4, abs=1e-5)


def test_effective_rank_counts_directions() -> None:
    """Equal spread in three of six directions is three; a point has one."""
    base = np.zeros((300, 6), np.float32)
    base[:, :3] = np.linalg.qr(points(300, 3) - points(300, 3).mean(0))[0]

    assert effective_rank(base) == pytest.approx(3, abs=0.05)
    assert effective_rank(np.ones((5, 4), np.float32)) == 1


def test_dead_dimensions_do_not_vary() -> None:
    """Constant numbers, whatever their value; none where all vary."""
    some = points()
    some[:, [1, 4]] = 5

    assert dead_dimensions(some) == 2
    assert dead_dimensions(points()) == 0


def test_neighbors_do_not_turn_with_the_space() -> None:
    """A rotation keeps all of them, other vectors only what chance gives."""
    some = points(200)
    turn = np.linalg.qr(points(6, 6, seed=1))[0].astype(np.float32)

    assert neighbor_overlap(some, some @ turn) == pytest.approx(1, abs=0.01)
    assert neighbor_overlap(some, points(200, seed=2)) < 0.15
    assert math.isnan(neighbor_overlap(some[:1], some[:1]))


def test_drift_of_a_population() -> None:
    """Nothing for the same one; a shift by its own spread is 1 for both measures."""
    some = points(4000)
    spread = np.sqrt(some.var(0).sum())
    moved = some + np.array([spread, 0, 0, 0, 0, 0], np.float32)

    before, after, twice = moments(some), moments(moved), moments(2 * some)
    assert mean_shift(before, before) == 0
    assert frechet_drift(before, before) == pytest.approx(0, abs=1e-6)
    assert mean_shift(before, after) == pytest.approx(1, rel=1e-4)
    assert frechet_drift(before, after) == pytest.approx(1, rel=1e-3)
    assert frechet_drift(before, twice) == pytest.approx(1, rel=1e-2)  # (2 - 1)² of the spread
