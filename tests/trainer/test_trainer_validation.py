"""Validation in the fit loop: it changes nothing, keeps the best weights, and stops early."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from unirep_feast.checkpoint import open_checkpoint
from unirep_feast.testing.world import World
from unirep_feast.trainer import Trainer

pytestmark = pytest.mark.usefixtures("lab")

AWKWARD = {"dropout": 0.3, "batch_norm": True}


@pytest.mark.parametrize("dropout", [False, True])
def test_validation_changes_nothing(
    world: World, dropout: bool, make_trio: Any, config: Any, weights: Any, assert_equal: Any
) -> None:
    """Scoring leaves weights, buffers, mode and random numbers alone, and repeats itself."""
    trio = make_trio(world, encoder=AWKWARD, objective={"dropout_in_validation": dropout})
    trainer = Trainer(trio, world.past, config())
    before, random = weights(trainer), torch.get_rng_state()

    first = trainer.score(trainer.plan.valid, "validation")
    second = trainer.score(trainer.plan.valid, "validation")

    assert first == second
    assert first != trainer.score(trainer.plan.valid, "another")
    assert_equal(weights(trainer), before)
    assert torch.equal(torch.get_rng_state(), random)
    assert trainer.module.training


@pytest.mark.parametrize("dropout", [False, True])
def test_how_often_one_validates_does_not_matter(
    world: World, tmp_path: Path, dropout: bool, Disk: Any, assert_equal: Any, fit: Any
) -> None:
    """The weights after the last step are those of a run that never validates in between."""
    objective = {"dropout_in_validation": dropout}
    runs = []
    for number, every in enumerate((1, 3, 1000)):
        disk = Disk(tmp_path / str(number), world)
        training = {"validate_every": every, "checkpoint_every": 8}
        fit(world, disk, encoder=AWKWARD, objective=objective, training=training)
        opened = open_checkpoint(disk.steps[-1])
        runs.append({**opened.tensors("encoder"), **opened.tensors("objective")})

    assert_equal(runs[1], runs[0])
    assert_equal(runs[2], runs[0])


def test_validation_is_in_eval_unless_dropout_makes_the_views(
    world: World, make_trio: Any, config: Any
) -> None:
    """Dropout is off in validation, and on where the objective asks for it."""
    plain = Trainer(make_trio(world, encoder={"dropout": 0.9}), world.past, config())
    noisy = Trainer(
        make_trio(world, encoder={"dropout": 0.9}, objective={"dropout_in_validation": True}),
        world.past,
        config(),
    )
    modes: list[bool] = []
    for trainer in (plain, noisy):
        hook = trainer.module.register_forward_pre_hook(lambda m, _: modes.append(m.training))
        trainer.score(trainer.plan.valid, "validation")
        hook.remove()

    assert set(modes[: len(modes) // 2]) == {False}
    assert set(modes[len(modes) // 2 :]) == {True}


def test_the_best_weights_are_kept(
    world: World, tmp_path: Path, Disk: Any, weights: Any, assert_equal: Any, fit: Any
) -> None:
    """With a learning rate that only does harm, the end has the weights of the first validation."""
    disk = Disk(tmp_path, world)
    training = {"learning_rate": 1.0, "checkpoint_every": 2, "max_steps": 12}
    trainer, records = fit(world, disk, training=training)

    losses = {r.step: r.values["loss"] for r in records if r.kind == "validation"}
    best = min(losses, key=losses.get)
    assert best < 12
    assert records[-1].values["best_step"] == best
    assert records[-1].values["best_loss"] == losses[best]
    then = next(open_checkpoint(p) for p in disk.steps if open_checkpoint(p).manifest.step == best)
    assert_equal(
        weights(trainer),
        {
            f"{part}.{name}": value
            for part in ("encoder", "objective")
            for name, value in then.tensors(part).items()
        },
    )


def test_patience_ends_the_training(world: World, fit: Any) -> None:
    """Two validations without a new best are enough."""
    training = {"learning_rate": 1.0, "patience": 2, "max_steps": 1000}
    _, records = fit(world, training=training)

    losses = [record.values["loss"] for record in records if record.kind == "validation"]
    best = losses.index(min(losses))
    assert len(losses) == best + 3
    assert records[-1].kind == "end"
    assert records[-1].step == 2 * len(losses) < 1000


def test_without_validation_the_last_weights_remain(world: World, fit: Any) -> None:
    """No validation share: nothing is judged, the end has the last step's weights."""
    _, records = fit(world, training={"validation": 0, "patience": 1})

    assert [r for r in records if r.kind == "validation"] == []
    assert records[-1].values == {"best_step": 8.0, "steps": 8.0}


def test_test_users_are_scored_once_with_the_best_weights(world: World, fit: Any) -> None:
    """The end tells loss and metrics on the test share, of the weights that remain."""
    trainer, records = fit(world, training={"test": 0.2})
    assert not trainer.module.training

    again = trainer.score(trainer.plan.test, "test")
    assert records[-1].values["test_loss"] == again["loss"]


def test_minutes_end_the_training(world: World, fit: Any) -> None:
    """A limit that has passed ends the training at the next record."""
    _, records = fit(world, training={"max_minutes": 1e-9, "max_steps": None, "log_every": 4})

    assert records[-1].kind == "end"
    assert records[-1].step == 4
