"""The losses equal loops written from the equations, and their gradients are right."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from unirep_feast.batch import SequenceBatch
from unirep_feast.errors import TrainingError
from unirep_feast.sequences import Sequences
from unirep_feast.testing import Recipe
from unirep_feast.testing.recipe import draw_views, module_of
from unirep_feast.trio import Trio


def dot(a: Tensor, b: Tensor) -> float:
    return sum(x * y for x, y in zip(a.tolist(), b.tolist(), strict=True))


def cosine(a: Tensor, b: Tensor) -> float:
    return dot(a, b) / math.sqrt(dot(a, a) * dot(b, b))


def cross_entropy(positive: float, negatives: list[float]) -> float:
    return -math.log(math.exp(positive) / sum(math.exp(s) for s in [positive, *negatives]))


def hardest(similar: dict[Any, float], count: int) -> list[Any]:
    return sorted(similar, key=lambda key: -similar[key])[:count]


def span(batch: SequenceBatch, row: int) -> tuple[int, int]:
    times = batch.times[batch.rows == row]
    return int(times.min()), int(times.max())


@pytest.fixture
def trio(recipe: Callable[..., Recipe], past: Sequences) -> Callable[..., Trio]:
    def build(**settings: dict[str, Any]) -> Trio:
        made = recipe(**settings).build(past)
        module_of(made.encoder).double().eval()
        module_of(made.objective).double().eval()
        return made

    return build


@pytest.mark.parametrize("preset", ["gru4rec", "nrms"])
def test_mbp_is_eq_1(trio: Callable[..., Trio], past: Sequences, preset: str) -> None:
    """Each masked behavior against the K most similar of the pool that say something else."""
    made = trio(encoder={"preset": preset}, objective={"bsm": False, "behaviors": 3})
    views = draw_views(made, past)
    loss = made.objective(made.encoder, views).terms["mbp"]

    history, pool = views["history"], views["behaviors"].tolist()
    steps = made.encoder(history, steps=True).steps
    vector = {
        code: made.encoder.embed_items(torch.tensor([code]))[0].detach()
        for code in {c for c, _ in pool} | set(views["targets"][:, 0].tolist())
    }
    total = 0.0
    for place, (code, content) in zip(
        views["masked"].tolist(), views["targets"].tolist(), strict=True
    ):
        others = {c: cosine(vector[code], vector[c]) for c, said in pool if said != content}
        scores = [dot(steps[place], vector[c]) for c in hardest(others, 3)]
        total += cross_entropy(dot(steps[place], vector[code]), scores)

    assert float(loss) == pytest.approx(total / len(history), rel=1e-9)


def test_bsm_is_eq_2(trio: Callable[..., Trio], past: Sequences) -> None:
    """Each A against B and the P most similar sequences of others that do not overlap it."""
    made = trio(objective={"mbp": False, "sequences": 3})
    views = draw_views(made, past)
    losses = made.objective(made.encoder, views)

    first, second, pool = views["first"], views["second"], views["candidates"]
    A, B, C = (made.encoder(batch).users[:, 0].detach() for batch in (first, second, pool))
    total, short = 0.0, 0
    for row in range(len(first)):
        begin, end = span(first, row)
        others = {
            u: cosine(A[row], C[u])
            for u in range(len(pool))
            if pool.users[u] != first.users[row]
            and (span(pool, u)[0] > end or span(pool, u)[1] < begin)
        }
        chosen = hardest(others, 3)
        short += 3 - len(chosen)
        total += cross_entropy(dot(A[row], B[row]), [dot(A[row], C[u]) for u in chosen])

    assert float(losses.terms["bsm"]) == pytest.approx(total / len(views["history"]), rel=1e-9)
    assert float(losses.metrics["bsm_short"]) == short


def test_nbp_tells_what_follows(trio: Callable[..., Trio], past: Sequences) -> None:
    """PTUM: the user vector scores the next behaviors against those of the pool."""
    made = trio(objective={"mbp": False, "bsm": False, "nbp": True, "behaviors": 2})
    views = draw_views(made, past)
    loss = made.objective(made.encoder, views).terms["nbp"]

    users = made.encoder(views["first"]).users[:, 0]
    embed = {c: made.encoder.embed_items(torch.tensor([c]))[0].detach() for c in range(3, 33)}
    total = 0.0
    for row, code, content in views["following"].tolist():
        others = {
            c: cosine(embed[code], embed[c])
            for c, said in views["behaviors"].tolist()
            if said != content
        }
        scores = [dot(users[row], embed[c]) for c in hardest(others, 2)]
        total += cross_entropy(dot(users[row], embed[code]), scores)

    assert float(loss) == pytest.approx(total / len(views["history"]), rel=1e-9)


def test_the_loss_is_the_sum_of_both_tasks(trio: Callable[..., Trio], past: Sequences) -> None:
    """Eq 3."""
    both, mbp, bsm = (trio(objective=o) for o in ({}, {"bsm": False}, {"mbp": False}))
    views = draw_views(both, past)
    alone = [float(t.objective(t.encoder, views).total()) for t in (mbp, bsm)]

    total = float(both.objective(both.encoder, views).total())

    assert total == pytest.approx(sum(alone), rel=1e-9)


def test_gradients_are_right(trio: Callable[..., Trio], past: Sequences) -> None:
    """gradcheck through both tasks, with respect to item vectors and places."""
    made = trio(encoder={"preset": "gru4rec", "dim": 4})
    views = draw_views(made, past, at_most=3)
    made.objective(made.encoder, views)  # the pool is stale from here on
    encoder = module_of(made.encoder)
    names = ("behaviors.items.weight", "places.weight")
    inputs = [dict(encoder.named_parameters())[name].detach().clone() for name in names]

    class Stand:
        """The encoder with other parameters."""

        def __init__(self, values: tuple[Tensor, ...]) -> None:
            self.values = dict(zip(names, values, strict=True))

        def __call__(self, batch: SequenceBatch, *, steps: bool = False) -> Any:
            return torch.func.functional_call(encoder, self.values, (batch,), {"steps": steps})

        def embed_items(self, codes: Tensor) -> Tensor:
            return self.values[names[0]][codes]

    def loss(*values: Tensor) -> Tensor:
        return made.objective(Stand(values), views).total()

    assert torch.autograd.gradcheck(loss, [x.requires_grad_() for x in inputs], fast_mode=True)


def test_choosing_takes_no_gradient(trio: Callable[..., Trio], past: Sequences) -> None:
    """An item of the pool that nobody chose, and that no history holds, gets no gradient."""
    made = trio(encoder={"preset": "gru4rec"}, objective={"bsm": False, "behaviors": 1})
    views = dict(draw_views(made, past, at_most=2))
    views["behaviors"] = torch.stack((torch.arange(3, 30), torch.arange(3, 30)), 1)
    made.objective(made.encoder, views).total().backward()

    grad = module_of(made.encoder).behaviors.items.weight.grad
    touched = torch.nonzero(grad.abs().sum(1)).flatten().tolist()
    chosen = len(views["masked"])
    seen = set(views["history"].codes.tolist()) | set(views["targets"][:, 0].tolist())
    assert len(set(touched) - seen) <= chosen


def test_the_pool_is_stale_within_a_period_and_fresh_in_the_next(
    trio: Callable[..., Trio], past: Sequences
) -> None:
    """Its vectors are those of the model that began the period, whatever was learnt since."""
    made = trio(objective={"mbp": False})
    objective, encoder = module_of(made.objective), module_of(made.encoder)
    objective(encoder, draw_views(made, past, step=0))
    begun = objective.pool_vectors.clone()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.mul_(1.5)
    objective(encoder, draw_views(made, past, step=4))
    assert torch.equal(objective.pool_vectors, begun)

    views = draw_views(made, past, step=5)
    objective(encoder, views)

    assert torch.allclose(objective.pool_vectors[:15], encoder(views["candidates"]).users[:, 0])


def test_a_pool_larger_than_what_is_kept_is_refused(
    trio: Callable[..., Trio], past: Sequences
) -> None:
    """In one line that says what to set."""
    made = trio(objective={"sequence_pool": 10})

    with pytest.raises(TrainingError, match=r"a pool of 15 .*sequence_pool to 15"):
        made.objective(made.encoder, draw_views(made, past))


def test_users_without_two_pieces_stay_in_mbp_only(
    trio: Callable[..., Trio], past: Sequences
) -> None:
    """With no pair at all the second term is zero, and counted."""
    made = trio()
    views = dict(draw_views(made, past, at_most=6))
    nobody = torch.arange(0)
    views["first"], views["second"] = (views[n].take(nobody) for n in ("first", "second"))

    losses = made.objective(made.encoder, views)

    assert float(losses.terms["bsm"]) == 0 and float(losses.terms["mbp"]) > 0
    assert float(losses.metrics["without_pieces"]) == len(views["history"])
