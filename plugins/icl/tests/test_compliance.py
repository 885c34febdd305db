"""The host's compliance kit over every part this distribution offers."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from typing import Any

import pytest

from unirep_feast.testing import (
    EncoderTests,
    ObjectiveTests,
    PluginTests,
    Recipe,
    SamplerTests,
    installed,
    registered,
)

SMALL: dict[str, Any] = {"dim": 16, "vectors": 3, "max_events": 24}


def _recipe(
    name: str = "icl",
    encoder: dict[str, Any] | None = None,
    objective: dict[str, Any] | None = None,
    sampler: dict[str, Any] | None = None,
) -> Recipe:
    """The trio around one of the encoders, with small sizes."""
    small = {**SMALL, **({"interests": 10} if name == "icl" else {})}
    return registered(
        "icl",
        encoder=name,
        settings={
            "encoder": {**small, **(encoder or {})},
            "objective": {"projection": 8, **(objective or {})},
            "sampler": sampler or {},
        },
    )


class TestPlugin(PluginTests):
    @pytest.fixture
    def entry_point(self) -> EntryPoint:
        return installed("icl")


class TestEncoder(EncoderTests):
    @pytest.fixture(
        params=[
            {"behavior": "text"},
            {"behavior": "id", "start": "cooccurrence"},
            {"behavior": "text", "text": {"max_size": 5, "categories": True}},
            {"vectors": 1, "interests": 1},
            {"vectors": 1, "aggregation": "mean"},
            {"regulariser": 0},
        ],
        ids=["text", "id", "few words", "ours-1", "no dictionary", "no regulariser"],
    )
    def recipe(self, request: pytest.FixtureRequest) -> Recipe:
        return _recipe(encoder=request.param)


class TestCapsule(EncoderTests):
    @pytest.fixture(params=["text", "id"])
    def recipe(self, request: pytest.FixtureRequest) -> Recipe:
        return _recipe("icl.capsule", encoder={"behavior": request.param})


class TestObjective(ObjectiveTests):
    @pytest.fixture(params=["interests", "concatenated"])
    def recipe(self, request: pytest.FixtureRequest) -> Recipe:
        return _recipe(objective={"similarity": request.param})


class TestObjectiveOfCapsules(ObjectiveTests):
    @pytest.fixture
    def recipe(self) -> Recipe:
        return _recipe("icl.capsule")


class TestSampler(SamplerTests):
    random = False

    @pytest.fixture(
        params=[
            {"horizon": "long"},
            {"horizon": "short"},
            {
                "history": ["2020-01-01", "2020-02-01"],
                "short": ["2020-02-01", "2020-02-15"],
                "long": ["2020-02-15", "2020-04-01"],
            },
        ],
        ids=["long", "short", "dates"],
    )
    def recipe(self, request: pytest.FixtureRequest) -> Recipe:
        return _recipe(sampler=request.param)


class TestJitteredSampler(SamplerTests):
    @pytest.fixture
    def recipe(self) -> Recipe:
        return _recipe(sampler={"jitter": 0.5})
