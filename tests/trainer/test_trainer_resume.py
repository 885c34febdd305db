"""Resuming the fit loop: wherever it was stopped, it ends in the same bits."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from unirep_feast.checkpoint import Checkpoint, open_checkpoint
from unirep_feast.errors import TrainingError
from unirep_feast.testing.world import World
from unirep_feast.trainer import Record, Trainer

pytestmark = pytest.mark.usefixtures("lab")

AWKWARD = {"dropout": 0.3, "batch_norm": True}

#: By name: settings of the parts, and of the training.
RUNS: dict[str, dict[str, Any]] = {
    "plain": {},
    "dropout and batch norm": {"encoder": AWKWARD, "objective": {"dropout_in_validation": True}},
    "best in the middle": {"training": {"learning_rate": 1.0, "max_steps": 12}},
    "early stop": {"training": {"learning_rate": 1.0, "patience": 2, "max_steps": 1000}},
    "several epochs": {"training": {"batch_size": 30, "max_steps": 10}},
    "penalty and weight decay": {
        "encoder": {"penalty": True, "dropout": 0.2},
        "training": {"weight_decay": 0.1, "clip_norm": None},
    },
    "frozen": {"encoder": AWKWARD, "objective": {"trains_encoder": False}},
    "unused parameter": {"encoder": {"unused": True}, "training": {"validation": 0}},
}


@pytest.fixture
def resume_from(make_trio: Any, config: Any) -> Callable[..., tuple[Trainer, list[Record]]]:
    """Resume with parts of other initial weights: everything must come from the checkpoint."""

    def resume(
        world: World, path: Path, save: Any = None, **settings: Any
    ) -> tuple[Trainer, list[Record]]:
        training = settings.pop("training", {})
        trio = make_trio(world, seed=99, **settings)
        trainer = Trainer(trio, world.past, config(**training), save)
        torch.manual_seed(12345)
        return trainer, list(trainer.run(open_checkpoint(path)))

    return resume


@pytest.mark.parametrize("name", RUNS)
def test_a_run_resumes_from_every_checkpoint(
    world: World,
    tmp_path: Path,
    name: str,
    Disk: Any,
    weights: Any,
    assert_equal: Any,
    fit: Any,
    resume_from: Any,
) -> None:
    """From each checkpoint the rest of the run ends in the same weights and the same numbers."""
    settings = RUNS[name]
    training = {"checkpoint_every": 1, **settings.get("training", {})}
    settings = {**settings, "training": training}
    disk = Disk(tmp_path, world)
    unbroken, records = fit(world, disk, **settings)
    wanted = weights(unbroken)
    assert len(disk.steps) == records[-1].step

    for path in disk.steps:
        resumed, rest = resume_from(world, path, **settings)

        assert_equal(weights(resumed), wanted)
        assert rest[-1].step == records[-1].step
        assert rest[-1].values == records[-1].values
        done = open_checkpoint(path).manifest.step
        losses = {r.step: r.values["loss"] for r in records if r.kind == "step" and r.step > done}
        assert {r.step: r.values["loss"] for r in rest if r.kind == "step"} == losses


@pytest.mark.parametrize("killed_at", range(1, 17))
def test_a_run_killed_anywhere_resumes(
    world: World,
    tmp_path: Path,
    killed_at: int,
    make_trio: Any,
    config: Any,
    Disk: Any,
    weights: Any,
    assert_equal: Any,
    fit: Any,
    resume_from: Any,
) -> None:
    """Stopped after any record, resumed from its last checkpoint or begun anew: same weights."""
    settings = RUNS["dropout and batch norm"]
    wanted = weights(fit(world, **settings)[0])
    disk = Disk(tmp_path, world)
    trainer = Trainer(make_trio(world, **settings), world.past, config(), disk)
    list(itertools.islice(trainer.run(), killed_at))

    if disk.steps:
        resumed, _ = resume_from(world, disk.steps[-1], **settings)
    else:
        resumed, _ = fit(world, **settings)

    assert_equal(weights(resumed), wanted)


def test_a_run_may_be_killed_again_and_again(
    world: World,
    tmp_path: Path,
    make_trio: Any,
    config: Any,
    Disk: Any,
    weights: Any,
    assert_equal: Any,
    fit: Any,
) -> None:
    """A run that survives one checkpoint per session ends like one that was never stopped."""
    settings = RUNS["dropout and batch norm"]
    wanted = weights(fit(world, training={"checkpoint_every": 2}, **settings)[0])
    disk = Disk(tmp_path, world)
    last: Checkpoint | None = None
    for _ in range(20):
        trio = make_trio(world, seed=7 if last else 0, **settings)
        trainer = Trainer(trio, world.past, config(checkpoint_every=2), disk)
        ended = False
        for record in trainer.run(last):
            ended = record.kind == "end"
            if record.kind == "checkpoint":
                last = open_checkpoint(disk.steps[-1])
                break
        if ended:
            break

    assert ended
    assert len(disk.steps) == 4
    assert_equal(weights(trainer), wanted)


def test_seconds_go_on_from_where_they_were(
    world: World, tmp_path: Path, Disk: Any, fit: Any, resume_from: Any
) -> None:
    """A resumed run's clock includes the sessions before."""
    disk = Disk(tmp_path, world)
    fit(world, disk)
    manifest = open_checkpoint(disk.steps[0]).manifest
    spent = manifest.trainer["seconds"]
    assert spent > 0

    _, records = resume_from(world, disk.steps[0])

    assert records[0].seconds >= spent
    assert records[0].step == 3


def test_another_log_cannot_be_resumed_on(
    world: World, tmp_path: Path, make_trio: Any, config: Any, Disk: Any, fit: Any
) -> None:
    """Events that changed since the run began are noticed; both counts are told."""
    disk = Disk(tmp_path, world)
    fit(world, disk)
    less = world.past.before(world.until - 5 * 86_400_000_000)

    with pytest.raises(TrainingError) as caught:
        list(Trainer(make_trio(world), less, config()).run(open_checkpoint(disk.steps[0])))

    assert "cannot resume: the run began on 90 users, " in str(caught.value)
    assert "restore the log, or train anew without --resume" in str(caught.value)


@pytest.mark.gpu
@pytest.mark.parametrize("bf16", [False, True])
def test_training_on_a_gpu_learns_and_resumes(
    world: World, tmp_path: Path, bf16: bool, Disk: Any, weights: Any, fit: Any, resume_from: Any
) -> None:
    """On CUDA the loop trains, checkpoints, and resumes to weights close to the unbroken run's."""
    training = {"device": "cuda", "bf16": bf16, "max_steps": 40, "checkpoint_every": 20}
    disk = Disk(tmp_path, world)
    trainer, records = fit(world, disk, encoder=AWKWARD, training=training)
    resumed, _ = resume_from(world, disk.steps[0], encoder=AWKWARD, training=training)

    assert next(trainer.module.parameters()).device.type == "cuda"
    steps = [record for record in records if record.kind == "step"]
    assert steps[-1].values["loss"] < steps[0].values["loss"]
    tolerance = 5e-2 if bf16 else 1e-3
    for name, value in weights(trainer).items():
        torch.testing.assert_close(weights(resumed)[name], value, rtol=tolerance, atol=tolerance)
