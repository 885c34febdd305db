"""The contrastive loss against plain loops over the paper's equations, in float64."""

from __future__ import annotations

import math
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unirep_feast.batch import SequenceBatch
from unirep_feast.encoder import Encoded
from unirep_feast.errors import ContractError
from unirep_feast_icl.config import ObjectiveSettings
from unirep_feast_icl.objective import IclObjective
from unirep_feast_icl.similarity import concatenated_similarity, interest_similarity

Batches = Callable[..., SequenceBatch]


class Fixed(nn.Module):
    """Stands in for an encoder: returns the given user vectors, one set per call."""

    def __init__(self, *users: Tensor, slots: Tensor | None = None) -> None:
        super().__init__()
        self.answers = list(users)
        self.extras = {} if slots is None else {"slots": slots}

    def forward(self, batch: SequenceBatch, *, steps: bool = False) -> Encoded:
        return Encoded(self.answers.pop(0), None, self.extras)


def _objective(K: int = 3, dim: int = 4, **settings: Any) -> IclObjective:
    small = {"hidden": 6, "projection": 5, **settings}
    return IclObjective(K, dim, ObjectiveSettings.model_validate(small)).double()


def _cosine(a: list[float], b: list[float]) -> float:
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a)) / math.sqrt(sum(x * x for x in b))


def _similarity(p: list[list[float]], q: list[list[float]]) -> float:
    """Eq 14."""
    return sum(max(_cosine(one, other) for other in q) for one in p)


def _end_to_end(p: list[list[float]], q: list[list[float]]) -> float:
    return _cosine([x for v in p for x in v], [x for v in q for x in v])


def _head(objective: IclObjective, users: Tensor) -> list[list[list[float]]]:
    """Eq 12 as loops over users, vectors and numbers."""
    first, _, second = objective.head

    def linear(x: list[float], layer: nn.Linear) -> list[float]:
        rows = zip(layer.weight.tolist(), layer.bias.tolist(), strict=True)
        return [sum(w * v for w, v in zip(row, x, strict=True)) + b for row, b in rows]

    return [
        [linear([max(h, 0) for h in linear(v, first)], second) for v in user]
        for user in users.tolist()
    ]


def _loss(sets: list[list[list[float]]], tau: float, similarity: Callable[..., float]) -> float:
    """Eq 13, 15, 17, 18 over 2B sets, histories first."""
    total, n = 0.0, len(sets)
    for p in range(n):
        q = (p + n // 2) % n
        scores = {k: math.exp(similarity(sets[p], sets[k]) / tau) for k in range(n) if k != p}
        total -= math.log(scores[q] / sum(scores.values()))
    return total


@pytest.mark.parametrize("similarity", ["interests", "concatenated"])
def test_equals_plain_loops(similarity: str, batch_of: Batches) -> None:
    """2B sets, self excluded, the counterpart positive, summed, weighted."""
    objective = _objective(similarity=similarity, temperature=0.3, weight=2.5)
    x1, x2 = torch.randn(2, 5, 3, 4, dtype=torch.float64)
    batch = batch_of([[3]] * 5)
    losses = objective(Fixed(x1, x2), {"first": batch, "second": batch})

    sets = _head(objective, torch.cat((x1, x2)))
    score = _similarity if similarity == "interests" else _end_to_end
    assert list(losses.terms) == ["contrast"]
    assert losses.total().item() == pytest.approx(2.5 * _loss(sets, 0.3, score), rel=1e-10)


def test_similarity_is_the_sum_of_best_matches_and_not_symmetric() -> None:
    """By hand: two vectors that both match one of the other's best."""
    a = torch.tensor([[[1.0, 0.0], [0.8, 0.6]]])
    b = torch.tensor([[[2.0, 0.0], [0.0, -5.0]]])

    assert interest_similarity(a, b).item() == pytest.approx(1 + 0.8)
    assert interest_similarity(b, a).item() == pytest.approx(1 + 0)


def test_permuting_a_users_vectors_leaves_the_similarity_unchanged() -> None:
    """Slots are ranks, not places: on either side any order will do."""
    a, b = torch.randn(2, 6, 4, 5, dtype=torch.float64)
    before = interest_similarity(a, b)
    order = torch.stack([torch.randperm(4) for _ in range(6)])[..., None].expand(-1, -1, 5)

    torch.testing.assert_close(interest_similarity(a.gather(1, order), b), before)
    torch.testing.assert_close(interest_similarity(a, b.gather(1, order)), before)
    assert not torch.allclose(concatenated_similarity(a.gather(1, order), b), before)


def test_scale_does_not_matter() -> None:
    """Cosines: longer vectors are no better matches."""
    a, b = torch.randn(2, 6, 4, 5, dtype=torch.float64)
    stretch = torch.rand(2, 6, 4, 1, dtype=torch.float64) * 9 + 0.1

    torch.testing.assert_close(
        interest_similarity(a * stretch[0], b * stretch[1]), interest_similarity(a, b)
    )


@pytest.mark.parametrize("at_once", [1, 100, 1 << 22])
def test_chunks_change_nothing(at_once: int) -> None:
    """However few cosines are held at once: the same scores, the same gradients."""
    a = torch.randn(7, 3, 5, dtype=torch.float64, requires_grad=True)
    b = torch.randn(9, 2, 5, dtype=torch.float64, requires_grad=True)
    found = interest_similarity(a, b, at_once)
    wanted = torch.nn.functional.cosine_similarity(a[:, None, :, None], b[None, :, None], dim=-1)
    wanted = wanted.max(-1).values.sum(-1)

    torch.testing.assert_close(found, wanted)
    weight = torch.randn(7, 9, dtype=torch.float64)
    for one, other in zip(
        torch.autograd.grad((found * weight).sum(), (a, b)),
        torch.autograd.grad((wanted * weight).sum(), (a, b)),
        strict=True,
    ):
        torch.testing.assert_close(one, other)
    assert torch.autograd.gradcheck(lambda x, y: interest_similarity(x, y, at_once), (a, b))


def test_memory_grows_with_pairs_of_sets_and_not_with_pairs_of_vectors() -> None:
    """What is kept for the backward pass: nothing of B · K · B · K numbers or more."""
    kept: list[int] = []
    a = torch.randn(64, 8, 16, requires_grad=True)

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        interest_similarity(a, a, at_once=64 * 8 * 8)
    assert max(kept) <= 64 * 8 * 64 < (64 * 8) ** 2


def test_the_gradient_reaches_the_best_match_alone() -> None:
    """Of the other set's vectors only those that are somebody's best."""
    a = torch.tensor([[[1.0, 0.1], [0.9, 0.0]]])
    b = torch.tensor([[[1.0, 0.3], [0.0, 1.0]]], requires_grad=True)
    interest_similarity(a, b).sum().backward()

    assert b.grad[0, 0].any() and not b.grad[0, 1].any()


def test_gradients_of_the_loss_are_right(batch_of: Batches) -> None:
    """gradcheck through head, similarity and softmax, over several vectors per user."""
    objective = _objective(K=2, dim=3)
    batch = batch_of([[3]] * 3)

    def run(x1: Tensor, x2: Tensor) -> Tensor:
        return objective(Fixed(x1, x2), {"first": batch, "second": batch}).total()

    x1, x2 = (torch.randn(3, 2, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(run, (x1, x2))


def test_users_without_a_view_are_left_out_and_counted(batch_of: Batches) -> None:
    """The loss is that of the others; nobody at all gives 0 and a gradient."""
    objective = _objective()
    x1, x2 = torch.randn(2, 4, 3, 4, dtype=torch.float64)
    x1.requires_grad_()
    first, second = batch_of([[3], [], [3], [3]]), batch_of([[3], [3], [3], []])
    losses = objective(Fixed(x1, x2), {"first": first, "second": second})
    two = batch_of([[3], [3]])
    some = torch.tensor([0, 2])
    wanted = objective(Fixed(x1[some], x2[some]), {"first": two, "second": two})

    torch.testing.assert_close(losses.total(), wanted.total())
    assert losses.metrics["left_out"].item() == 2
    nobody = batch_of([[]] * 4)
    none = objective(Fixed(x1, x2), {"first": nobody, "second": second})
    none.total().backward()
    assert none.total().item() == 0 and none.metrics["left_out"].item() == 4


def test_logs_accuracy_and_how_many_interests_are_used(batch_of: Batches) -> None:
    """1 for sets that find each other; the exponential of the entropy of the chosen interests."""
    objective = _objective(dim=5)
    x = torch.randn(6, 3, 5, dtype=torch.float64)
    batch = batch_of([[3]] * 6)
    slots = torch.arange(18).reshape(6, 3) % 9
    views = {"first": batch, "second": batch}
    metrics = objective(Fixed(x, x.clone(), slots=slots), views).metrics

    assert metrics["accuracy"].item() == 1 and metrics["left_out"].item() == 0
    assert metrics["interests_used"].item() == pytest.approx(9, rel=1e-5)
    same = objective(Fixed(x, x.clone(), slots=torch.zeros_like(slots)), views).metrics
    assert same["interests_used"].item() == pytest.approx(1)
    assert "interests_used" not in objective(Fixed(x, x.clone()), views).metrics


def test_refuses_views_that_do_not_fit(batch_of: Batches) -> None:
    """Tensors, or unequal numbers of users, are told in one line."""
    with pytest.raises(ContractError, match="first and second must be batches"):
        _objective()(Fixed(), {"first": torch.zeros(2), "second": torch.zeros(2)})
    with pytest.raises(ContractError, match="have 2 and 1 rows"):
        _objective()(Fixed(), {"first": batch_of([[3], [3]]), "second": batch_of([[3]])})


def test_two_processes_contrast_the_users_of_both(tmp_path: Path) -> None:
    """Under DDP the gradients, regulariser included, are those of one process with all users."""
    code = """
        import torch
        import torch.distributed as dist
        from torch.nn.parallel import DistributedDataParallel
        from unirep_feast.batch import SequenceBatch
        from unirep_feast.chunking import TrioModule
        from unirep_feast_icl.config import EncoderSettings, ObjectiveSettings
        from unirep_feast_icl.encoder import IclEncoder
        from unirep_feast_icl.objective import IclObjective

        dist.init_process_group("gloo")
        rank = dist.get_rank()
        torch.manual_seed(0)
        settings = EncoderSettings(behavior="id", dim=8, vectors=2, interests=6)
        objective = IclObjective(2, 8, ObjectiveSettings(projection=5))
        module = TrioModule(IclEncoder(30, settings, {}), objective).double()

        def batch():
            lengths = torch.randint(1, 6, (7,))
            codes = torch.randint(3, 30, (int(lengths.sum()),))
            return SequenceBatch(codes, codes, lengths, torch.arange(7), lengths, 5)

        views = {"first": batch(), "second": batch()}
        mine = torch.arange(7)[rank::2]
        shared = DistributedDataParallel(module)
        losses = shared({name: view.take(mine) for name, view in views.items()})
        losses.total().backward()
        found = {name: p.grad.clone() for name, p in module.named_parameters()}
        contrast = losses.terms["contrast"].detach().clone()
        dist.all_reduce(contrast)
        dist.barrier()
        dist.destroy_process_group()

        module.zero_grad()
        alone = module(views)
        alone.total().backward()
        torch.testing.assert_close(contrast / 2, alone.terms["contrast"].detach())
        one, other = (found_losses.terms["regulariser"] for found_losses in (losses, alone))
        torch.testing.assert_close(one, other)
        for name, p in module.named_parameters():
            torch.testing.assert_close(found[name], p.grad)
        if rank == 0:
            print("equal")
    """
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(code))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*torchrun, str(script)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip() == "equal"
