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

SMALL: dict[str, Any] = {
    "dim": 16,
    "vectors": 3,
    "layers": 2,
    "item_dim": 8,
    "category_dim": 8,
    "word_dim": 8,
    "max_events": 24,
}


def _recipe(
    encoder: dict[str, Any] | None = None,
    objective: dict[str, Any] | None = None,
    sampler: dict[str, Any] | None = None,
) -> Recipe:
    """The plugin's trio with small sizes."""
    settings = {
        "encoder": {**SMALL, **(encoder or {})},
        "objective": objective or {},
        "sampler": sampler or {},
    }
    return registered("guim", settings=settings)


class TestPlugin(PluginTests):
    @pytest.fixture
    def entry_point(self) -> EntryPoint:
        return installed("guim")


class TestEncoder(EncoderTests):
    @pytest.fixture(params=["guim", "edi", "mh"])
    def recipe(self, request: pytest.FixtureRequest) -> Recipe:
        return _recipe(encoder={"variant": request.param})


class TestEncoderWithFewIds(EncoderTests):
    @pytest.fixture
    def recipe(self) -> Recipe:
        return _recipe(encoder={"top_items": 5, "category": "last", "start": "cooccurrence"})


class TestObjective(ObjectiveTests):
    @pytest.fixture(
        params=[{}, {"score": "attention"}, {"negatives": None}, {"mlm": False}], ids=str
    )
    def recipe(self, request: pytest.FixtureRequest) -> Recipe:
        return _recipe(objective=request.param)


class TestMaskedItemsAlone(ObjectiveTests):
    @pytest.fixture
    def recipe(self) -> Recipe:
        return _recipe(objective={"matching": False})


class TestDrawnSampler(SamplerTests):
    @pytest.fixture
    def recipe(self) -> Recipe:
        return _recipe()


class TestFixedSampler(SamplerTests):
    @pytest.fixture(params=["last", "2020-02-10"])
    def recipe(self, request: pytest.FixtureRequest) -> Recipe:
        return _recipe(sampler={"cut_off": request.param})
