"""What stops the fit loop: numbers that are none, too few users, and parts that are wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from unirep_feast.errors import ContractError, PluginError, TrainingError, UnirepError
from unirep_feast.testing.world import World
from unirep_feast.trainer import Trainer

pytestmark = pytest.mark.usefixtures("lab")


@pytest.fixture
def failure(fit: Any) -> Callable[..., UnirepError]:
    def train(world: World, **settings: Any) -> UnirepError:
        with pytest.raises(UnirepError) as caught:
            fit(world, **settings)
        assert "\n" not in str(caught.value)
        return caught.value

    return train


def test_a_loss_that_is_no_number_is_one_line(world: World, failure: Any) -> None:
    """NaN stops the training and says what to lower."""
    error = failure(world, objective={"terms": "nan"})

    assert isinstance(error, TrainingError)
    assert str(error) == (
        "the loss is nan at step 1; lower training.learning_rate, or set training.clip_norm"
    )


def test_nan_never_reaches_a_checkpoint(world: World, tmp_path: Path, Disk: Any, fit: Any) -> None:
    """Between two logged steps a checkpoint is due: it is refused, the earlier one stays."""
    disk = Disk(tmp_path, world)
    training = {"log_every": 100, "validation": 0, "checkpoint_every": 2, "max_steps": 50}

    with pytest.raises(TrainingError, match="the loss is nan at step 4"):
        fit(world, disk, objective={"nan_after": 40}, training=training)

    assert [path.name for path in disk.saved] == ["0-2"]


def test_nobody_eligible_is_one_line(world: World, failure: Any) -> None:
    """A sampler that finds too few units is told, with what to change."""
    error = failure(world, sampler={"min_events": 1000})

    assert isinstance(error, TrainingError)
    assert str(error).startswith(
        "0 units to train on: sampler 'lab' finds 0 eligible among 90 users, of which 0 are for "
        "validation and 0 for the test; wanted at least 2; give more events, "
    )


def test_a_split_that_leaves_nobody_is_one_line(world: World, failure: Any) -> None:
    """Where validation takes them all the numbers say so."""
    error = failure(world, training={"validation": 0.99})

    assert "units to train on: sampler 'lab' finds" in str(error)
    assert "lower training.validation" in str(error)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"objective": {"terms": "raise"}},
            "objective 'lab' failed in forward at step 1: ValueError: no way",
        ),
        ({"objective": {"terms": "none"}}, "objective 'lab' returned terms none; wanted at least"),
        ({"objective": {"terms": "vector"}}, "objective 'lab' returned terms contrast: (1,);"),
        (
            {"objective": {"terms": "clash"}, "encoder": {"penalty": True}},
            "the encoder's penalties and the objective's terms share the names spread",
        ),
        (
            {"encoder": {"fails": "raise"}},
            "encoder 'lab' failed in forward at step 1: RuntimeError: the flux capacitor is empty",
        ),
        (
            {"sampler": {"fails": "raise"}},
            "sampler 'lab' failed in sample at step 1: KeyError: 'lost'",
        ),
        ({"sampler": {"fails": "view"}}, "sampler 'lab' drew no view b, which it declares"),
        ({"sampler": {"fails": "units"}}, "sampler 'lab': units() returned list; wanted (n,)"),
        ({"training": {"device": "gpu"}}, "device 'gpu': wanted auto, cpu, cuda or cuda:N"),
        ({"training": {"device": "meta"}}, "device 'meta': wanted auto, cpu, cuda or cuda:N"),
        ({"training": {"device": "cuda:99"}}, "device 'cuda:99': this torch"),
    ],
)
def test_what_plugins_get_wrong_is_one_line(
    world: World, settings: dict[str, Any], message: str, failure: Any
) -> None:
    """A failing or faulty part is named with what it did."""
    error = failure(world, **settings)

    assert isinstance(error, PluginError | TrainingError)
    assert message in str(error)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (torch.tensor([0, 90]), "units() returned rows 0 to 90; there are 90 users"),
        (torch.tensor([-1, 3]), "units() returned rows -1 to 3; there are 90 users"),
        (torch.tensor([[1]]), "units() returned (1, 1) torch.int64; wanted (n,) int64"),
        (torch.tensor([1.0]), "units() returned (1,) torch.float32; wanted (n,) int64"),
    ],
)
def test_units_must_be_user_rows(
    world: World, rows: Tensor, message: str, make_trio: Any, config: Any
) -> None:
    """What a sampler calls units is checked before anything is drawn."""
    trio = make_trio(world)
    trio.sampler.units = lambda sequences: rows

    with pytest.raises(ContractError) as caught:
        Trainer(trio, world.past, config())

    assert message in str(caught.value)


def test_nothing_to_train_is_one_line(world: World, make_trio: Any, config: Any) -> None:
    """A frozen encoder under an objective without parameters cannot be trained."""
    trio = make_trio(world, objective={"trains_encoder": False})
    for parameter in trio.objective.parameters():
        parameter.requires_grad_(False)

    with pytest.raises(TrainingError, match="have no parameter to train"):
        Trainer(trio, world.past, config())
