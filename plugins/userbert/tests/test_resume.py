"""A run that is killed inside a period of the sequence pool goes on to the same weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from unirep_feast.config import TrainingConfig
from unirep_feast.sequences import Sequences
from unirep_feast.testing import Recipe
from unirep_feast.testing.recipe import draw_views, module_of, state_of
from unirep_feast.trainer import Trainer


class _Manifest:
    def __init__(self, step: int, trainer: dict[str, Any]) -> None:
        self.step, self.trainer = step, trainer


class _Memory:
    """A checkpoint that was never written to disk: the groups of tensors the trainer saves."""

    def __init__(self, step: int, state: dict[str, Any], groups: Mapping[str, Any]) -> None:
        self.manifest = _Manifest(step, state)
        self.groups = {k: {n: t.clone() for n, t in g.items()} for k, g in groups.items()}

    def tensors(self, name: str) -> dict[str, Tensor]:
        return self.groups.get(name, {})

    def load_into(self, module: torch.nn.Module, name: str) -> None:
        module.load_state_dict(self.tensors(name), strict=True)


def test_a_run_killed_inside_a_period_resumes_bit_equal(
    recipe: Callable[..., Recipe], past: Sequences
) -> None:
    """Period 5, killed after step 7 of 12: the stale vectors of step 5 are in the checkpoint."""
    config = TrainingConfig(
        max_steps=12,
        batch_size=8,
        learning_rate=0.01,
        validation=0,
        checkpoint_every=7,
        log_every=1,
        device="cpu",
    )
    kept: list[_Memory] = []

    def save(step: int, state: dict[str, Any], groups: Any, final: bool) -> Any:
        if not final:
            kept.append(_Memory(step, state, groups))

    whole = recipe().build(past, seed=1)
    list(Trainer(whole, past, config, save).run())
    checkpoint = kept[0]
    again = recipe().build(past, seed=2)
    list(Trainer(again, past, config).run(resume=checkpoint))  # type: ignore[arg-type]

    assert checkpoint.manifest.step == 7
    for one, other in ((whole.encoder, again.encoder), (whole.objective, again.objective)):
        for name, value in state_of(one).items():
            assert torch.equal(value, state_of(other)[name]), name


def test_without_the_stale_vectors_it_would_not(
    recipe: Callable[..., Recipe], past: Sequences
) -> None:
    """The test above can fail: a pool encoded anew in the middle of a period is another pool."""
    trio = recipe(objective={"mbp": False}).build(past, seed=1)
    config = TrainingConfig(
        max_steps=7, batch_size=8, learning_rate=0.05, validation=0, device="cpu"
    )
    list(Trainer(trio, past, config).run())
    objective = module_of(trio.objective)
    stale = objective.pool_vectors.clone()
    objective.pool_period.fill_(-1)
    objective(trio.encoder, draw_views(trio, past, step=6))

    assert not torch.allclose(stale, objective.pool_vectors)
