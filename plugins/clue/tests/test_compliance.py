"""The host's compliance kit over every part this distribution offers."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from unirep_feast.sequences import Sequences
from unirep_feast.testing import (
    EncoderTests,
    ObjectiveTests,
    PluginTests,
    Recipe,
    SamplerTests,
    installed,
    registered,
)

SMALL: dict[str, Any] = {"dim": 16, "heads": 2, "max_events": 24, "dropout": 0.1}
HEADS = {"projector": 32, "bottleneck": 8}
BACKBONES = ["sasrec", "gru", "nextitnet", "caser"]


def _recipe(
    name: str = "clue",
    encoder: dict[str, Any] | None = None,
    objective: dict[str, Any] | None = None,
    sampler: dict[str, Any] | None = None,
) -> Recipe:
    """The trio of one of the plugin's objectives with small sizes."""
    samplers = {"clue.classify": "clue.labels"}
    if name == "clue":
        objective = {**HEADS, **(objective or {})}
    return registered(
        "clue",
        objective=name,
        sampler=samplers.get(name, name),
        settings={
            "encoder": {**SMALL, **(encoder or {})},
            "objective": objective or {},
            "sampler": sampler or {},
        },
    )


@pytest.fixture
def labels(past: Sequences, tmp_path: Path) -> str:
    """A label for every user of the kit's world: whether the history is long."""
    path = tmp_path / "labels.parquet"
    label = (past.lengths > past.lengths.float().median()).tolist()
    pq.write_table(pa.table({"user_id": past.users, "label": label}), path)
    return str(path)


class TestPlugin(PluginTests):
    @pytest.fixture
    def entry_point(self) -> EntryPoint:
        return installed("clue")


class TestEncoder(EncoderTests):
    @pytest.fixture(params=BACKBONES)
    def recipe(self, request: pytest.FixtureRequest) -> Recipe:
        starts = {"gru": "cooccurrence"}
        start = starts.get(request.param, "random")
        return _recipe(encoder={"backbone": request.param, "start": start})


class TestObjective(ObjectiveTests):
    @pytest.fixture(params=[{}, {"stop_gradient": False}, {"predictor": False}])
    def recipe(self, request: pytest.FixtureRequest) -> Recipe:
        return _recipe(objective=request.param)


class TestClassify(ObjectiveTests):
    @pytest.fixture(params=[False, True], ids=["fine-tuned", "frozen"])
    def recipe(self, request: pytest.FixtureRequest, labels: str) -> Recipe:
        return _recipe(
            "clue.classify", objective={"frozen": request.param}, sampler={"path": labels}
        )


class TestNextItem(ObjectiveTests):
    @pytest.fixture
    def recipe(self) -> Recipe:
        return _recipe("clue.next_item")


class TestDropoutSampler(SamplerTests):
    random = False

    @pytest.fixture
    def recipe(self) -> Recipe:
        return _recipe()


class TestExplicitSampler(SamplerTests):
    @pytest.fixture(params=["mask", "crop", "permute", "random", ["crop", "mask"]], ids=str)
    def recipe(self, request: pytest.FixtureRequest) -> Recipe:
        return _recipe(sampler={"augmentation": request.param})


class TestLabelsSampler(SamplerTests):
    random = False

    @pytest.fixture
    def recipe(self, labels: str) -> Recipe:
        return _recipe("clue.classify", sampler={"path": labels})


class TestNextItemSampler(SamplerTests):
    @pytest.fixture
    def recipe(self) -> Recipe:
        return _recipe("clue.next_item")


class TestHeldOutSampler(SamplerTests):
    random = False

    @pytest.fixture(params=["valid", "test"])
    def recipe(self, request: pytest.FixtureRequest) -> Recipe:
        return _recipe("clue.next_item", sampler={"target": request.param})
