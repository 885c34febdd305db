from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from unirep_feast_lurm.contrast import nt_xent
from unirep_feast_lurm.objective import MixingHead

TAU = 0.1


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return a @ b / (a.norm() * b.norm())


def loss_by_loops(x: Tensor, y: Tensor, names: list[int] | None = None) -> Tensor:
    """Eq 2 and 3 written out; candidates are a set, so copies are in it once."""
    n = len(x)
    named = list(range(2 * n)) if names is None else names
    delta = [*x, *y]

    def one(a: int, p: int) -> Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for v in range(2 * n):
            if v == p or named[v] not in (named[a], named[p]):
                total = total + torch.exp(cosine(delta[a], delta[v]) / TAU)
        return -torch.log(torch.exp(cosine(delta[a], delta[p]) / TAU) / total)

    return sum((one(i, n + i) + one(n + i, i) for i in range(n)), torch.zeros(())) / (2 * n)


def pair(n: int = 6, d: int = 5) -> tuple[Tensor, Tensor]:
    x, y = torch.randn(2, n, d, dtype=torch.float64)
    return x, x + y


def test_loss_is_that_of_the_equations() -> None:
    """Eq 2 and 3, by loops; whatever the lengths of the vectors."""
    x, y = pair()

    assert torch.allclose(nt_xent(x, y, TAU)[0], loss_by_loops(x, y))
    assert torch.allclose(nt_xent(3 * x, y / 7, TAU)[0], loss_by_loops(x, y))


def test_copies_of_an_item_are_one_candidate() -> None:
    """Δ is a set of items: neither the anchor's copies nor the counterpart's are negatives."""
    x, y = pair()
    first, second = torch.tensor([0, 1, 2, 0, 4, 5]), torch.tensor([6, 6, 0, 9, 10, 4])

    found, _ = nt_xent(x, y, TAU, (first, second))

    assert torch.allclose(found, loss_by_loops(x, y, [*first.tolist(), *second.tolist()]))


def test_two_pairs_by_hand() -> None:
    """Orthogonal pairs, each item at its counterpart: log(1 + 2 e^-1/τ)."""
    x = torch.eye(2)
    loss, accuracy = nt_xent(x, x, 1.0)

    assert float(loss) == pytest.approx(math.log(1 + 2 / math.e))
    assert float(accuracy) == 1


def test_no_pair_is_no_loss() -> None:
    """A batch of which nothing can be contrasted gives 0, with gradients of 0."""
    x = torch.zeros(0, 4, requires_grad=True)
    loss, _ = nt_xent(x, x, TAU)
    loss.backward()

    assert float(loss.detach()) == 0


def test_gradients_are_those_of_finite_differences() -> None:
    """Of the loss, with and without copies, and of the head."""
    x, y = (side[:4].clone().requires_grad_() for side in pair())
    names = (torch.tensor([0, 1, 0, 3]), torch.tensor([4, 4, 6, 1]))
    head = MixingHead(2, 3).double()
    users = torch.randn(3, 2, 3, dtype=torch.float64, requires_grad=True)

    assert gradcheck(lambda a, b: nt_xent(a, b, TAU)[0], (x, y))
    assert gradcheck(lambda a, b: nt_xent(a, b, TAU, names)[0], (x, y))
    assert gradcheck(head, (users,))


def test_head_is_that_of_the_equations() -> None:
    """Eq 8 and 9 by loops: anchors each through W^h1, mixed by W^h3, all through W^h2."""
    M, H = 3, 4
    head = MixingHead(M, H).double()
    users = torch.randn(2, M, H, dtype=torch.float64)

    found = head(users)

    for row, r in zip(found, users, strict=True):
        v = torch.cat([torch.relu(head.own[i].T @ r[i]) for i in range(M)])
        r_1 = v.view(M, H)  # anchor-major
        mix = torch.stack([sum(head.mix[i, j] * r_1[j] for j in range(M)) for i in range(M)])
        wanted = head.out.weight @ torch.relu(v + mix.flatten())
        assert torch.allclose(row, wanted)


def test_one_anchor_is_never_silent() -> None:
    """Whatever the seed: with nobody to mix with, a user's projection keeps a gradient."""
    for seed in range(40):
        torch.manual_seed(seed)
        users = torch.randn(4, 1, 8, requires_grad=True)
        MixingHead(1, 8)(users).square().sum().backward()
        assert users.grad is not None and users.grad.abs().sum() > 0
