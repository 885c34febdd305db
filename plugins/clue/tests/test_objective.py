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
from unirep_feast_clue.config import ObjectiveSettings
from unirep_feast_clue.encoder import ClueEncoder
from unirep_feast_clue.objective import ClueObjective, negative_cosine

Batches = Callable[..., SequenceBatch]
Rows = Callable[..., list[list[int]]]
Encoders = Callable[..., ClueEncoder]


class Fixed(nn.Module):
    """Stands in for an encoder: returns the given user vectors, one set per call."""

    def __init__(self, *users: Tensor) -> None:
        super().__init__()
        self.answers = list(users)

    def forward(self, batch: SequenceBatch, *, steps: bool = False) -> Encoded:
        return Encoded(self.answers.pop(0))


def _objective(dim: int = 4, **settings: object) -> ClueObjective:
    small = {"projector": 6, "bottleneck": 3, **settings}
    return ClueObjective(dim, ObjectiveSettings.model_validate(small)).double()


def _loss(objective: ClueObjective, x1: Tensor, x2: Tensor, batch: SequenceBatch) -> Tensor:
    encoder = Fixed(x1[:, None], x2[:, None])
    losses = objective(encoder, {"first": batch, "second": batch})  # type: ignore[arg-type]
    assert list(losses.terms) == ["contrast"]
    return losses.total()


# -- the equations as loops over users and numbers, in float64 ----------------------------------


def _linear(rows: list[list[float]], layer: nn.Linear) -> list[list[float]]:
    weight, bias = layer.weight.tolist(), None if layer.bias is None else layer.bias.tolist()
    return [
        [
            sum(w * x for w, x in zip(weight[o], row, strict=True)) + (bias[o] if bias else 0.0)
            for o in range(len(weight))
        ]
        for row in rows
    ]


def _batch_norm(rows: list[list[float]], layer: nn.BatchNorm1d) -> list[list[float]]:
    out = [row[:] for row in rows]
    for d in range(len(rows[0])):
        column = [row[d] for row in rows]
        mean = sum(column) / len(column)
        variance = sum((x - mean) ** 2 for x in column) / len(column)
        for b, x in enumerate(column):
            scaled = (x - mean) / math.sqrt(variance + layer.eps)
            if layer.affine:
                scaled = scaled * layer.weight[d].item() + layer.bias[d].item()
            out[b][d] = scaled
    return out


def _through(rows: list[list[float]], layers: nn.Sequential) -> list[list[float]]:
    for layer in layers:
        if isinstance(layer, nn.Linear):
            rows = _linear(rows, layer)
        elif isinstance(layer, nn.BatchNorm1d):
            rows = _batch_norm(rows, layer)
        else:
            rows = [[max(x, 0.0) for x in row] for row in rows]
    return rows


def _distance(p: list[list[float]], z: list[list[float]]) -> float:
    """Eq 4, averaged over users."""
    total = 0.0
    for a, b in zip(p, z, strict=True):
        dot = sum(x * y for x, y in zip(a, b, strict=True))
        total -= dot / math.sqrt(sum(x * x for x in a)) / math.sqrt(sum(y * y for y in b))
    return total / len(p)


@pytest.mark.parametrize("predictor", [True, False])
@pytest.mark.parametrize("stop_gradient", [True, False])
def test_equals_plain_loops(predictor: bool, stop_gradient: bool, batch_of: Batches) -> None:
    """The loss is Eq 5 of both views, batch norm taking its statistics from each view alone."""
    objective = _objective(predictor=predictor, stop_gradient=stop_gradient)
    x1, x2 = torch.randn(2, 5, 4, dtype=torch.float64)
    x2 = 3 * x2 + 7  # another distribution: statistics over both views would show
    z1, z2 = (_through(x.tolist(), objective.projector) for x in (x1, x2))
    p1, p2 = z1, z2
    if isinstance(objective.predictor, nn.Sequential):
        p1, p2 = (_through(z, objective.predictor) for z in (z1, z2))
    expected = _distance(p1, z2) / 2 + _distance(p2, z1) / 2

    found = _loss(objective, x1, x2, batch_of([[3]] * 5))
    assert found.item() == pytest.approx(expected, rel=1e-12)


def test_gradients_are_right(batch_of: Batches) -> None:
    """Analytic and numerical gradients agree where no gradient is stopped."""
    objective = _objective(stop_gradient=False)
    batch = batch_of([[3]] * 5)
    x1, x2 = torch.randn(2, 5, 4, dtype=torch.float64, requires_grad=True).unbind()

    assert torch.autograd.gradcheck(lambda a, b: _loss(objective, a, b, batch), (x1, x2))


def test_negative_cosine_gradients_are_right() -> None:
    """Eq 4 by itself, in both arguments."""
    p, z = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True).unbind()

    assert torch.autograd.gradcheck(negative_cosine, (p, z))


def test_targets_get_no_gradient(batch_of: Batches) -> None:
    """Eq 7: the gradient is that of the loss with both z held as constants."""
    objective = _objective()
    batch = batch_of([[3]] * 5)
    x1, x2 = torch.randn(2, 5, 4, dtype=torch.float64, requires_grad=True).unbind()
    found = torch.autograd.grad(_loss(objective, x1, x2, batch), (x1, x2))

    with torch.no_grad():
        t1, t2 = objective.projector(x1), objective.projector(x2)
    p1 = objective.predictor(objective.projector(x1))
    p2 = objective.predictor(objective.projector(x2))
    constant = negative_cosine(p1, t2) / 2 + negative_cosine(p2, t1) / 2
    torch.testing.assert_close(found, torch.autograd.grad(constant, (x1, x2)))

    objective.stop_gradient = False
    open_gates = torch.autograd.grad(_loss(objective, x1, x2, batch), (x1, x2))
    assert not torch.isclose(found[0], open_gates[0]).any(1).all()


def test_without_predictor_stopping_halves_the_gradient(batch_of: Batches) -> None:
    """By symmetry p = z makes the two terms the same, so one ablation contains the other."""
    x1, x2 = torch.randn(2, 5, 4, dtype=torch.float64, requires_grad=True).unbind()
    batch = batch_of([[3]] * 5)
    grads = []
    for stop_gradient in (True, False):
        torch.manual_seed(0)
        objective = _objective(predictor=False, stop_gradient=stop_gradient)
        grads.append(torch.autograd.grad(_loss(objective, x1, x2, batch), (x1, x2)))

    for stopped, flowing in zip(*grads, strict=True):
        torch.testing.assert_close(2 * stopped, flowing)


def test_views_are_interchangeable(batch_of: Batches) -> None:
    """The loss is symmetric, and the norm of a prediction does not matter."""
    objective = _objective()
    batch = batch_of([[3]] * 5)
    x1, x2 = torch.randn(2, 5, 4, dtype=torch.float64)

    torch.testing.assert_close(_loss(objective, x1, x2, batch), _loss(objective, x2, x1, batch))
    p, z = torch.randn(2, 4, 3)
    torch.testing.assert_close(negative_cosine(7 * p, z), negative_cosine(p, 9 * z))


def test_heads_are_as_wide_as_simsiams() -> None:
    """Three layers with batch norm each, which all learn scale and shift; a bottleneck of two."""
    objective = ClueObjective(64, ObjectiveSettings())
    shapes = [m.weight.shape for m in objective.projector if isinstance(m, nn.Linear)]
    norms = [m for m in objective.projector if isinstance(m, nn.BatchNorm1d)]

    assert shapes == [(256, 64), (256, 256), (256, 256)]
    assert [norm.affine for norm in norms] == [True, True, True]
    assert isinstance(objective.projector[-1], nn.BatchNorm1d)
    assert [m.weight.shape for m in objective.predictor if isinstance(m, nn.Linear)] == [
        (64, 256),
        (256, 64),
    ]
    assert isinstance(objective, Objective)


def test_encodes_a_view_at_a_time_and_reaches_every_parameter(
    encoder: Encoders, batch_of: Batches, random_rows: Rows
) -> None:
    """Gradient flows to backbone, projector and predictor."""
    model = encoder().train()
    objective = ClueObjective(8, ObjectiveSettings(projector=16, bottleneck=4))
    batch = batch_of(random_rows(16))
    objective(model, {"first": batch, "second": batch}).total().backward()

    parts = [*model.named_parameters(), *objective.named_parameters()]
    assert [name for name, p in parts if p.grad is None or not p.grad.any()] == []


def test_logs_what_tells_a_collapse(
    encoder: Encoders, batch_of: Batches, random_rows: Rows
) -> None:
    """Metrics carry no gradient and lie in their ranges; identical users show as 0."""
    objective = ClueObjective(8, ObjectiveSettings(projector=16, bottleneck=4))
    batch = batch_of(random_rows(16))
    views = {"first": batch, "second": batch}
    metrics = objective(encoder().train(), views).metrics

    assert set(metrics) == {"projector_std", "alignment", "uniformity"}
    assert not any(metric.requires_grad for metric in metrics.values())
    assert 0.5 < metrics["projector_std"].item() <= 1
    assert metrics["uniformity"].item() < 0 < metrics["alignment"].item()

    same = Fixed(torch.ones(16, 1, 8), torch.ones(16, 1, 8))
    collapsed = objective(same, views).metrics  # type: ignore[arg-type]
    assert collapsed["projector_std"].item() == pytest.approx(0, abs=1e-3)
    assert collapsed["uniformity"].item() == pytest.approx(0, abs=1e-3)


def test_takes_encoders_with_several_vectors(batch_of: Batches) -> None:
    """K vectors of D numbers enter the projector as K x D numbers."""
    objective = _objective(dim=6)
    encoder = Fixed(*torch.randn(2, 4, 3, 2, dtype=torch.float64).unbind())
    batch = batch_of([[3]] * 4)
    losses = objective(encoder, {"first": batch, "second": batch})  # type: ignore[arg-type]

    assert losses.total().shape == ()


def test_a_batch_of_one_contributes_nothing(batch_of: Batches) -> None:
    """Batch norm cannot train on one user: no loss, no gradient, no crash; eval still scores."""
    objective = _objective()
    x = torch.randn(1, 4, dtype=torch.float64, requires_grad=True)
    loss = _loss(objective, x, x, batch_of([[3]]))
    loss.backward()

    assert loss.item() == 0
    assert torch.equal(x.grad, torch.zeros(1, 4, dtype=torch.float64))
    assert _loss(objective.eval(), x, x, batch_of([[3]])).item() != 0


def test_refuses_views_that_are_no_histories(encoder: Encoders) -> None:
    """A sampler that hands over tensors is told so in one line."""
    with pytest.raises(ContractError, match="first and second"):
        _objective()(encoder(), {"first": torch.zeros(2), "second": torch.zeros(2)})
