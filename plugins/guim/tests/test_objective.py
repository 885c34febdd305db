"""Masked items and matching as plain loops from Eq 3 and Eq 4, and what the loss touches."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn

from unirep_feast.batch import MASK, UNK, SequenceBatch
from unirep_feast.encoder import Encoded
from unirep_feast.errors import ContractError
from unirep_feast.objective import Losses
from unirep_feast_guim.config import ObjectiveSettings
from unirep_feast_guim.objective import GuimObjective
from unirep_feast_guim.pool import ItemPool

D, C = 5, 3


class Given(nn.Module):
    """Stands in for an encoder: gives the vectors it was made with."""

    def __init__(self, users: Tensor, steps: Tensor | None, items: Tensor) -> None:
        super().__init__()
        self.users, self.steps, self.items = users, steps, items

    def forward(self, batch: SequenceBatch, *, steps: bool = False) -> Encoded:
        return Encoded(self.users, self.steps)

    def embed_items(self, codes: Tensor) -> Tensor:
        return self.items[codes]


@dataclass
class World:
    """Three users: what they did before and after T, and random vectors of everything."""

    past: list[list[int]]
    later: list[list[int]]
    masked: list[int]

    def __post_init__(self) -> None:
        self.items = torch.tensor([code for row in self.past for code in row])
        self.users = torch.randn(len(self.past), C, D, dtype=torch.float64, requires_grad=True)
        self.steps = torch.randn(len(self.items), D, dtype=torch.float64, requires_grad=True)
        self.vectors = torch.randn(20, D, dtype=torch.float64, requires_grad=True)

    def views(self) -> dict[str, SequenceBatch | Tensor]:
        masked = torch.tensor(self.masked, dtype=torch.int64)
        history = _batch(self.past)
        return {
            "history": history.with_codes(history.codes.index_fill(0, masked, MASK)),
            "items": self.items,
            "masked": masked,
            "future": _batch(self.later),
        }

    def losses(self, objective: GuimObjective) -> Losses:
        encoder = Given(self.users, self.steps, self.vectors)
        return objective(encoder, self.views())  # type: ignore[arg-type]


def _batch(rows: list[list[int]]) -> SequenceBatch:
    lengths = torch.tensor([len(row) for row in rows])
    codes = torch.tensor([code for row in rows for code in row], dtype=torch.int64)
    return SequenceBatch(
        codes, torch.zeros_like(codes), lengths, torch.arange(len(rows)), lengths, 8
    )


@pytest.fixture
def world() -> World:
    """User 0 has item 7 before and after T; items 3 and 7 belong to several users."""
    return World(
        past=[[3, 4, 7], [5, 3], [8, 9, 10, 7]],
        later=[[7, 6], [11], [12, 12, 5]],
        masked=[0, 3, 4, 8],
    )


def _objective(**settings: object) -> GuimObjective:
    torch.manual_seed(0)
    return GuimObjective(D, ObjectiveSettings.model_validate(settings)).double()


def _cosine(a: Tensor, b: Tensor) -> float:
    a, b = a.detach(), b.detach()
    dot = sum(float(x) * float(y) for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(float(x) ** 2 for x in a)) / math.sqrt(sum(float(y) ** 2 for y in b))


def _score(world: World, kind: str, user: int, code: int) -> float:
    cosine = [_cosine(world.users[user, c], world.vectors[code]) for c in range(C)]
    if kind == "max":
        return 20 * max(cosine)
    total = sum(math.exp(20 * x) for x in cosine)
    return 20 * sum(math.exp(20 * x) / total * x for x in cosine)


def _nats(positive: float, negatives: list[float]) -> float:
    """Eq 4: minus the log of the positive's share."""
    return math.log(sum(math.exp(s) for s in [positive, *negatives])) - positive


def _own(world: World, user: int) -> set[int]:
    return set(world.past[user]) | set(world.later[user])


def _candidates(world: World, user: int) -> list[int]:
    """Every distinct item of the batch that is not the user's."""
    held = {code for rows in (world.past, world.later) for row in rows for code in row}
    return sorted(held - _own(world, user))


@pytest.mark.parametrize("score", ["max", "attention"])
def test_matching_equals_plain_loops(score: str, world: World) -> None:
    """Summed over users and their items after T, repeated ones too, per user of the batch."""
    found = world.losses(_objective(score=score, negatives=None)).terms["matching"]
    expected = 0.0
    for user, codes in enumerate(world.later):
        negatives = [_score(world, score, user, code) for code in _candidates(world, user)]
        expected += sum(_nats(_score(world, score, user, code), negatives) for code in codes)

    assert float(found.detach()) == pytest.approx(expected / 3)


def test_masked_items_equal_plain_loops(world: World) -> None:
    """alpha * cos(f_o(h_n), v_j), the candidates those of the masked event's user."""
    objective = _objective(negatives=None)
    found = world.losses(objective).terms["mlm"]
    linear = objective.f_o[0]
    expected = 0.0
    owner = [user for user, row in enumerate(world.past) for _ in row]
    for place in world.masked:
        hidden = (linear.weight @ world.steps[place] + linear.bias).detach()
        output = torch.tensor(
            [0.5 * float(x) * (1 + math.erf(float(x) / math.sqrt(2))) for x in hidden]
        )
        negatives = [
            20 * _cosine(output, world.vectors[code]) for code in _candidates(world, owner[place])
        ]
        positive = 20 * _cosine(output, world.vectors[world.items[place]])
        expected += _nats(positive, negatives)

    assert float(found.detach()) == pytest.approx(expected / 3)


@pytest.mark.parametrize("task", ["mlm", "matching"])
def test_drawn_negatives_are_scored_like_all(
    task: str, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the draws fixed, the loss is that of each positive among its K draws."""

    def draw(pool: ItemPool, rows: Tensor, count: int) -> Tensor:
        """The same candidate, the user's first, count times."""
        first = [_candidates(world, int(row))[0] for row in rows]
        return pool.places(torch.tensor(first))[:, None].expand(-1, count)

    monkeypatch.setattr(ItemPool, "draw", draw)
    objective = _objective(negatives=7)
    found = float(world.losses(objective).terms[task].detach())
    expected = 0.0
    if task == "matching":
        for user, codes in enumerate(world.later):
            negative = _score(world, "max", user, _candidates(world, user)[0])
            for code in codes:
                expected += _nats(_score(world, "max", user, code), [negative] * 7)
    else:
        owner = [user for user, row in enumerate(world.past) for _ in row]
        for place in world.masked:
            output = objective.f_o(world.steps[place])
            negative = 20 * _cosine(output, world.vectors[_candidates(world, owner[place])[0]])
            positive = 20 * _cosine(output, world.vectors[world.items[place]])
            expected += _nats(positive, [negative] * 7)

    assert found == pytest.approx(expected / 3)


@pytest.mark.parametrize("score", ["max", "attention"])
def test_gradients_are_those_of_finite_differences(score: str, world: World) -> None:
    """Of both terms together, with regard to users, hidden states and items."""
    objective = _objective(score=score, negatives=None)

    def total(users: Tensor, steps: Tensor, vectors: Tensor) -> Tensor:
        return objective(Given(users, steps, vectors), world.views()).total()  # type: ignore[arg-type]

    assert torch.autograd.gradcheck(total, (world.users, world.steps, world.vectors))


def test_masked_items_touch_masked_places_only(world: World) -> None:
    """No hidden state but those of masked events gets a gradient, from either task."""
    world.losses(_objective()).total().backward()
    assert world.steps.grad is not None
    touched = (world.steps.grad.abs().sum(1) > 0).nonzero().squeeze(1)

    assert touched.tolist() == world.masked


def test_order_and_scale_of_a_users_vectors_change_nothing(world: World) -> None:
    objective = _objective(negatives=None)
    before = world.losses(objective).total()
    world.users = (world.users[:, [2, 0, 1]] * torch.rand(3, C, 1, dtype=torch.float64)).detach()
    world.vectors = world.vectors.detach() * 3

    torch.testing.assert_close(world.losses(objective).total(), before)


def test_what_cannot_be_told_from_anything_is_left_out(world: World) -> None:
    """Unknown items are no targets; a user alone in the batch has no negatives."""
    world.later[1] = [UNK]
    losses = world.losses(_objective())
    assert float(losses.metrics["left_out"]) == 1

    alone = World(past=[[3, 4]], later=[[5, 6]], masked=[1])
    losses = alone.losses(_objective())
    assert float(losses.metrics["left_out"]) == 3
    assert float(losses.total().detach()) == 0


def test_metrics_count_hits_and_winning_vectors(world: World) -> None:
    """A positive above all negatives is a hit; a tie is none; one winner uses one vector."""
    with torch.no_grad():
        world.vectors.copy_(torch.eye(20, D) + 1e-3)
        world.users.zero_()
        world.users[..., 0] = 1
    losses = world.losses(_objective(negatives=None))
    assert float(losses.metrics["matching_accuracy"]) == 0
    assert float(losses.metrics["vectors_used"]) == pytest.approx(1)

    with torch.no_grad():
        world.vectors.normal_()
        for user, code in enumerate((7, 11, 12)):
            world.users[user, user] = world.vectors[code]
    world.later = [[7], [11], [12]]
    losses = world.losses(_objective(negatives=None))
    assert float(losses.metrics["matching_accuracy"]) == 1
    assert float(losses.metrics["vectors_used"]) == pytest.approx(3)


def test_tasks_are_switched_and_require_what_they_need(world: World) -> None:
    """Without masked items no hidden states are asked for, and no f_o is trained."""
    matching, mlm = _objective(mlm=False), _objective(matching=False)

    assert matching.requires == {"items"} and not list(matching.parameters())
    assert mlm.requires == {"items", "steps"}
    assert set(world.losses(matching).terms) == {"matching"}
    assert set(world.losses(mlm).terms) == {"mlm"}
    with pytest.raises(ValueError, match="both false"):
        ObjectiveSettings(mlm=False, matching=False)


def test_an_encoder_without_steps_is_named(world: World) -> None:
    world.steps = None  # type: ignore[assignment]
    with pytest.raises(ContractError, match="no hidden states per event"):
        world.losses(_objective())


def test_wrong_views_are_named(world: World) -> None:
    views = world.views()
    history = views["history"]
    assert isinstance(history, SequenceBatch)
    encoder = Given(world.users, world.steps, world.vectors)
    for name, view in (("future", history.codes), ("masked", replace(history))):
        with pytest.raises(ContractError, match="wanted batches of histories"):
            _objective()(encoder, {**views, name: view})  # type: ignore[arg-type]
