from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from unirep_feast.batch import SequenceBatch
from unirep_feast.encoder import Encoded
from unirep_feast.errors import ContractError
from unirep_feast.objective import Objective
from unirep_feast_clue.config import NextItemLossSettings
from unirep_feast_clue.encoder import ClueEncoder
from unirep_feast_clue.next_item import NextItemObjective

Batches = Callable[..., SequenceBatch]
Encoders = Callable[..., ClueEncoder]


class Fixed(nn.Module):
    """Stands in for an encoder with given user vectors (B, K, D) and item vectors (V, D)."""

    def __init__(self, users: Tensor, items: Tensor) -> None:
        super().__init__()
        self.users, self.items = users, items

    def forward(self, batch: SequenceBatch, *, steps: bool = False) -> Encoded:
        return Encoded(self.users)

    def embed_items(self, codes: Tensor) -> Tensor:
        return self.items[codes]


def test_equals_plain_loops(batch_of: Batches) -> None:
    """Cross-entropy over dot products with every candidate, best of K, as loops in float64."""
    users = torch.randn(3, 2, 4, dtype=torch.float64)
    items = torch.randn(9, 4, dtype=torch.float64)
    target, candidates = torch.tensor([3, 8, 5]), torch.arange(3, 9)
    total = 0.0
    for b in range(3):
        scores = {
            code: max(
                sum(users[b, k, d].item() * items[code, d].item() for d in range(4))
                for k in range(2)
            )
            for code in range(3, 9)
        }
        total -= scores[int(target[b])] - math.log(sum(math.exp(s) for s in scores.values()))

    objective = NextItemObjective(NextItemLossSettings())
    views = {"history": batch_of([[3]] * 3), "target": target, "candidates": candidates}
    losses = objective(Fixed(users, items), views)  # type: ignore[arg-type]
    assert losses.total().item() == pytest.approx(total / 3)
    assert isinstance(objective, Objective) and objective.requires == {"items"}


def test_gradients_are_right(batch_of: Batches) -> None:
    """Analytic and numerical gradients agree for user and item vectors."""
    objective = NextItemObjective(NextItemLossSettings(label_smoothing=0.1))
    views = {
        "history": batch_of([[3]] * 3),
        "target": torch.tensor([3, 6, 4]),
        "candidates": torch.arange(3, 7),
    }
    users = torch.randn(3, 1, 2, dtype=torch.float64, requires_grad=True)
    items = torch.randn(7, 2, dtype=torch.float64, requires_grad=True)

    def loss(users: Tensor, items: Tensor) -> Tensor:
        return objective(Fixed(users, items), views).total()  # type: ignore[arg-type]

    assert torch.autograd.gradcheck(loss, (users, items))


def test_metrics_rank_all_candidates(batch_of: Batches) -> None:
    """Items whose scores fall with their code: targets at ranks 1, 4 and 12."""
    items = -torch.arange(15.0)[:, None]
    views = {
        "history": batch_of([[3]] * 3),
        "target": torch.tensor([3, 6, 14]),
        "candidates": torch.arange(3, 15),
    }
    encoder = Fixed(torch.ones(3, 1, 1), items)
    metrics = NextItemObjective(NextItemLossSettings())(encoder, views).metrics  # type: ignore[arg-type]

    assert metrics["mrr_at_10"].item() == pytest.approx((1 + 1 / 4) / 3)
    assert metrics["recall_at_10"].item() == pytest.approx(2 / 3)
    assert metrics["n"].item() == 3


def test_learns_what_follows_what(encoder: Encoders, batch_of: Batches) -> None:
    """On a deterministic world the next item is learnt, encoder and item vectors together."""
    model = encoder(dropout=0.0).train()
    objective = NextItemObjective(NextItemLossSettings())
    rows = [[3 + (start + place) % 10 for place in range(4)] for start in range(10)]
    views = {
        "history": batch_of(rows),
        "target": torch.tensor([3 + (row[-1] - 3 + 1) % 10 for row in rows]),
        "candidates": torch.arange(3, 30),
    }
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        objective(model, views).total().backward()
        optimizer.step()

    assert objective(model.eval(), views).metrics["accuracy"].item() == 1


def test_empty_batches_and_wrong_views(encoder: Encoders, batch_of: Batches) -> None:
    """A step in which no target is known gives a zero loss; other views are refused."""
    objective = NextItemObjective(NextItemLossSettings())
    none = {
        "history": batch_of([]),
        "target": torch.zeros(0, dtype=torch.int64),
        "candidates": torch.arange(3, 9),
    }

    assert objective(encoder(), none).total().item() == 0
    with pytest.raises(ContractError, match=r"clue\.next_item"):
        objective(encoder(), {**none, "history": torch.zeros(1)})
