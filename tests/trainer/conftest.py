"""What the tests of the fit loop share: a world, the lab trio, a disk, and training to the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from unirep_feast.checkpoint import Manifest, save_checkpoint
from unirep_feast.config import TrainingConfig
from unirep_feast.plugins import load_plugins
from unirep_feast.spec_file import parse_spec
from unirep_feast.testing.world import World, make_world
from unirep_feast.trainer import Record, Trainer
from unirep_feast.trio import Trio, build_trio, choose


@pytest.fixture(scope="session")
def world() -> World:
    return make_world(users=90, items=25, seed=3)


@pytest.fixture(scope="session")
def make_trio() -> Callable[..., Trio]:
    """Build the lab trio; ``settings`` by role."""

    def make(world: World, seed: int = 0, **settings: Any) -> Trio:
        raw = {"name": "shop", "events": {"path": "made"}, "plugin": "lab"}
        raw.update({role: {"settings": given} for role, given in settings.items()})
        torch.manual_seed(seed)
        choice = choose(parse_spec(raw, "spec"), load_plugins())
        return build_trio(choice, world.vocabulary, world.past.items, {})

    return make


@pytest.fixture(scope="session")
def config() -> Callable[..., TrainingConfig]:
    def make(**changes: Any) -> TrainingConfig:
        usual: dict[str, Any] = {
            "batch_size": 16,
            "epochs": None,
            "max_steps": 8,
            "validation": 0.2,
            "validate_every": 2,
            "checkpoint_every": 3,
            "log_every": 1,
            "patience": None,
            "learning_rate": 0.02,
            "device": "cpu",
        }
        return TrainingConfig(**{**usual, **changes})

    return make


class Disk:
    """Saves checkpoints into a folder, and opens them again."""

    def __init__(self, folder: Path, world: World) -> None:
        self.folder, self.world = folder, world
        self.saved: list[Path] = []

    def __call__(
        self,
        step: int,
        state: dict[str, Any],
        groups: Mapping[str, Mapping[str, Tensor]],
        final: bool,
    ) -> Path:
        vocabulary = self.world.vocabulary
        manifest = Manifest("run", step, 0, {}, {}, vocabulary.hash, 1, 8, False, trainer=state)
        folder = self.folder / f"{len(self.saved)}-{step}{'-final' if final else ''}"
        self.saved.append(save_checkpoint(folder, manifest, vocabulary, groups).folder)
        return folder

    @property
    def steps(self) -> list[Path]:
        """Checkpoints that a run can resume from."""
        return [path for path in self.saved if not path.name.endswith("-final")]


@pytest.fixture(scope="session", name="Disk")
def _disk() -> type[Disk]:
    return Disk


@pytest.fixture(scope="session")
def weights() -> Callable[[Trainer], dict[str, Tensor]]:
    def clone(trainer: Trainer) -> dict[str, Tensor]:
        return {name: value.clone() for name, value in trainer.module.state_dict().items()}

    return clone


@pytest.fixture(scope="session")
def assert_equal() -> Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], None]:
    def check(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
        assert found.keys() == wanted.keys()
        different = [name for name in wanted if not torch.equal(found[name], wanted[name])]
        assert different == []

    return check


@pytest.fixture(scope="session")
def fit(make_trio: Any, config: Any) -> Callable[..., tuple[Trainer, list[Record]]]:
    """Train a fresh trio to the end."""

    def train(world: World, save: Any = None, **settings: Any) -> tuple[Trainer, list[Record]]:
        training = settings.pop("training", {})
        trainer = Trainer(make_trio(world, **settings), world.past, config(**training), save)
        return trainer, list(trainer.run())

    return train
