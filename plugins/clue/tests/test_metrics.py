from __future__ import annotations

import math

import pytest
import torch

from unirep_feast_clue.metrics import alignment, ranking, ranks, spread, uniformity


def test_spread_of_one_point_is_zero() -> None:
    """All users on one ray: collapsed, whatever their norms."""
    z = torch.tensor([[1.0, 2.0], [2.0, 4.0], [0.5, 1.0]])

    assert spread(z).item() == pytest.approx(0, abs=1e-6)


def test_spread_of_an_even_sphere_is_one() -> None:
    """The four half-axes of the plane: each dimension is 1, -1, 0, 0, so sqrt(1/2) * sqrt(2)."""
    z = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])

    assert spread(z).item() == pytest.approx(1)


def test_spread_of_two_lopsided_points_by_hand() -> None:
    """(1, 0) three times and (-1, 0) once: std sqrt(3)/2 and 0, mean sqrt(3)/4, times sqrt(2)."""
    z = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])

    assert spread(z).item() == pytest.approx(math.sqrt(3) / 4 * math.sqrt(2))


def test_alignment_by_hand() -> None:
    """Right angles are 2 apart, equal directions 0: mean 1."""
    x = torch.tensor([[3.0, 0.0], [0.0, 1.0]])
    y = torch.tensor([[0.0, 5.0], [0.0, 2.0]])

    assert alignment(x, y).item() == pytest.approx(1)


def test_uniformity_equals_a_loop_over_pairs() -> None:
    """Log of the mean over pairs of exp(-2 d^2)."""
    x = torch.randn(7, 5, dtype=torch.float64)
    unit = x / x.norm(dim=1, keepdim=True)
    pairs = [
        math.exp(-2 * (unit[i] - unit[j]).pow(2).sum().item()) for i in range(7) for j in range(i)
    ]

    assert uniformity(x).item() == pytest.approx(math.log(sum(pairs) / len(pairs)))


def test_uniformity_of_one_point_is_zero() -> None:
    """Collapsed users are as close as can be."""
    assert uniformity(torch.ones(4, 3)).item() == pytest.approx(0, abs=1e-5)


def test_ranks_count_ties_against_the_target() -> None:
    """Best is 1; equal scores all rank worst, so a constant model earns nothing."""
    scores = torch.tensor([[3.0, 1.0, 2.0], [3.0, 1.0, 2.0], [5.0, 5.0, 5.0]])

    assert ranks(scores, torch.tensor([0, 1, 2])).tolist() == [1, 3, 3]


def test_nan_never_ranks_first() -> None:
    """A diverged model must not look perfect."""
    scores = torch.full((1, 5), torch.nan)

    assert ranks(scores, torch.tensor([2])).tolist() == [5]


def test_ranking_by_hand() -> None:
    """Ranks 1, 4 and 12 of 12: MRR@10 (1 + 1/4) / 3, recall@10 2/3, accuracy 1/3."""
    scores = -torch.arange(12.0).expand(3, 12)
    found = ranking(scores, torch.tensor([0, 3, 11]))

    assert {name: value.item() for name, value in found.items()} == {
        "mrr_at_10": pytest.approx(1.25 / 3),
        "recall_at_10": pytest.approx(2 / 3),
        "accuracy": pytest.approx(1 / 3),
        "n": 3.0,
    }
