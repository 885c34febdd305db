"""Eq 2 and Eq 3 as plain loops, their gradients and what they must not depend on."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from unirep_feast_guim.scores import attended_vectors, closest_vector, cosines, cosines_at

SCALE = 7.0


def _cosine(a: Tensor, b: Tensor) -> float:
    x, y = a.tolist(), b.tolist()
    dot = sum(p * q for p, q in zip(x, y, strict=True))
    return dot / math.sqrt(sum(p * p for p in x)) / math.sqrt(sum(q * q for q in y))


@pytest.fixture
def users() -> Tensor:
    return torch.randn(3, 4, 5, dtype=torch.float64)


@pytest.fixture
def items() -> Tensor:
    return torch.randn(6, 5, dtype=torch.float64)


def test_cosines_with_a_few_items_are_those_with_all_of_them(users: Tensor, items: Tensor) -> None:
    """And so are their gradients."""
    x, places = users[:, 0], torch.tensor([[5, 0, 5], [1, 2, 3], [4, 4, 4]])
    gradients = []
    for way in (cosines_at, lambda u, v, at: cosines(u, v).gather(1, at)):
        u, v = x.clone().requires_grad_(), items.clone().requires_grad_()
        found = way(u, v, places)
        for i in range(3):
            for j in range(3):
                assert found[i, j].item() == pytest.approx(_cosine(x[i], items[places[i, j]]))
        (found * torch.arange(9.0).view(3, 3)).sum().backward()
        gradients.append((u.grad, v.grad))

    torch.testing.assert_close(gradients[0], gradients[1])


def test_closest_vector_is_eq_3(users: Tensor, items: Tensor) -> None:
    found = closest_vector(cosines(users, items))

    for i in range(3):
        for j in range(6):
            expected = max(_cosine(users[i, c], items[j]) for c in range(4))
            assert found[i, j].item() == pytest.approx(expected)


def test_attended_vectors_is_eq_2(users: Tensor, items: Tensor) -> None:
    """The weights sum to one and depend on user and item."""
    found = attended_vectors(cosines(users, items), SCALE)

    for i in range(3):
        for j in range(6):
            cosine = [_cosine(users[i, c], items[j]) for c in range(4)]
            total = sum(math.exp(SCALE * x) for x in cosine)
            weights = [math.exp(SCALE * x) / total for x in cosine]
            expected = sum(w * x for w, x in zip(weights, cosine, strict=True))
            assert found[i, j].item() == pytest.approx(expected)


def test_attention_becomes_the_maximum_as_its_scale_grows(users: Tensor, items: Tensor) -> None:
    """Eq 3 \"can be regarded as a special case of Eq 2\"."""
    cosine = cosines(users, items)

    torch.testing.assert_close(
        attended_vectors(cosine, 1e6), closest_vector(cosine), rtol=0, atol=1e-4
    )


@pytest.mark.parametrize("score", ["max", "attention"])
def test_gradients_are_those_of_finite_differences(
    score: str, users: Tensor, items: Tensor
) -> None:
    def scored(u: Tensor, v: Tensor) -> Tensor:
        cosine = cosines(u, v)
        if score == "max":
            return closest_vector(cosine)
        return attended_vectors(cosine, SCALE)

    assert torch.autograd.gradcheck(scored, (users.requires_grad_(), items.requires_grad_()))


def test_only_the_winning_vector_gets_a_gradient(users: Tensor, items: Tensor) -> None:
    users.requires_grad_()
    cosine = cosines(users, items[:1])
    closest_vector(cosine).sum().backward()
    assert users.grad is not None
    moved = users.grad.abs().sum(-1) > 0  # (B, C)

    assert torch.equal(moved.long().argmax(1), cosine[..., 0].argmax(1))
    assert moved.sum(1).tolist() == [1, 1, 1]


@pytest.mark.parametrize("score", ["max", "attention"])
def test_order_and_scale_of_a_users_vectors_change_nothing(
    score: str, users: Tensor, items: Tensor
) -> None:
    def scored(u: Tensor, v: Tensor) -> Tensor:
        cosine = cosines(u, v)
        if score == "max":
            return closest_vector(cosine)
        return attended_vectors(cosine, SCALE)

    expected = scored(users, items)
    scale = torch.rand(3, 4, 1, dtype=torch.float64) * 9 + 0.1

    torch.testing.assert_close(scored(users[:, [2, 0, 3, 1]], items), expected)
    torch.testing.assert_close(scored(users * scale, items * 5), expected)
