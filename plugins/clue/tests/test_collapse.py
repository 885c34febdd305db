from __future__ import annotations

import pytest
import torch

from unirep_feast.batch import SequenceBatch
from unirep_feast_clue.config import EncoderSettings, ObjectiveSettings
from unirep_feast_clue.encoder import ClueEncoder
from unirep_feast_clue.objective import ClueObjective

USERS, EVENTS, CODES = 256, 8, 43


def _train(steps: int = 300, **switch: bool) -> tuple[float, float]:
    """Train on 256 users with random histories; returns loss and spread, means of 20 steps."""
    torch.manual_seed(0)
    codes = torch.randint(3, CODES, (USERS * EVENTS,))
    lengths = torch.full((USERS,), EVENTS)
    batch = SequenceBatch(codes, codes, lengths, torch.arange(USERS), lengths, EVENTS)
    encoder = ClueEncoder(
        CODES, EncoderSettings(dim=16, heads=2, blocks=1, max_events=EVENTS, dropout=0.5)
    )
    objective = ClueObjective(16, ObjectiveSettings(projector=32, bottleneck=8, **switch))
    optimizer = torch.optim.Adam([*encoder.parameters(), *objective.parameters()], lr=1e-2)
    tail = []
    for _ in range(steps):
        losses = objective(encoder, {"first": batch, "second": batch})
        optimizer.zero_grad()
        losses.total().backward()
        optimizer.step()
        tail.append((losses.total().item(), losses.metrics["projector_std"].item()))
    loss, spread = torch.tensor(tail[-20:]).mean(0).tolist()
    return loss, spread


@pytest.fixture(scope="module")
def full() -> tuple[float, float]:
    return _train()


def test_the_full_model_keeps_users_apart(full: tuple[float, float]) -> None:
    """With both safeguards the loss falls and the projector's outputs stay spread out."""
    loss, spread = full

    assert loss < -0.2
    assert spread > 0.6


@pytest.mark.parametrize("switch", ["stop_gradient", "predictor"])
def test_either_ablation_collapses(switch: str, full: tuple[float, float]) -> None:
    """Without one of them the loss looks better, and all users end on one point."""
    loss, spread = _train(**{switch: False})

    assert loss < min(full[0], -0.99)  # how far the full model falls differs between processors
    assert spread < 0.05
