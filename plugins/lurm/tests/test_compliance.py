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

ITEMS: dict[str, Any] = {"item_dim": 8}
SMALL: dict[str, Any] = {**ITEMS, "item_steps": 3, "interests": 6}
NETWORK: dict[str, Any] = {**SMALL, "anchors": 3, "dim": 8}


def _recipe(encoder: dict[str, Any] | None = None, **sampler: Any) -> Recipe:
    return registered(
        "lurm", settings={"encoder": {**NETWORK, **(encoder or {})}, "sampler": sampler}
    )


def _items(**encoder: Any) -> Recipe:
    return registered(
        "lurm",
        encoder="lurm.items",
        objective="lurm.items",
        sampler="lurm.items",
        settings={"encoder": {**ITEMS, **encoder}},
    )


class TestPlugin(PluginTests):
    @pytest.fixture
    def entry_point(self) -> EntryPoint:
        return installed("lurm")


class TestEncoder(EncoderTests):
    @pytest.fixture(
        params=[
            {},
            {"items": "id", "clustering": "kmeans"},
            {"items": "word2vec"},
            {"items": "cooccurrence", "start": "centres", "item_dim": 8, "dim": 8},
            {"assignment": "soft", "nearest": 2, "clustering": "kmeans"},
            {"scales": ["year"], "anchors": 1},
            {"scales": ["season", "year"], "share_scales": False, "share_anchors": False},
            {"max_days": 30, "interests": 100_000},
        ],
        ids=[
            "text",
            "id",
            "word2vec",
            "cooccurrence, from centres",
            "soft",
            "yearly, 1 anchor",
            "own GRUs",
            "short window, a cluster per item",
        ],
    )
    def recipe(self, request: pytest.FixtureRequest) -> Recipe:
        return _recipe(request.param)


class TestBag(EncoderTests):
    @pytest.fixture(params=["hard", "soft"])
    def recipe(self, request: pytest.FixtureRequest) -> Recipe:
        settings = {**SMALL, "assignment": request.param}
        return registered("lurm.boi", settings={"encoder": settings})


class TestItems(EncoderTests):
    @pytest.fixture(params=["text", "id", "cooccurrence"])
    def recipe(self, request: pytest.FixtureRequest) -> Recipe:
        return _items(items=request.param)


class TestObjective(ObjectiveTests):
    @pytest.fixture
    def recipe(self) -> Recipe:
        return _recipe()


class TestItemObjective(ObjectiveTests):
    @pytest.fixture(params=["text", "id", "word2vec"])
    def recipe(self, request: pytest.FixtureRequest) -> Recipe:
        return _items(items=request.param)


class TestSampler(SamplerTests):
    @pytest.fixture(params=[{}, {"min_events": 1, "min_share": 0.5}], ids=["defaults", "halves"])
    def recipe(self, request: pytest.FixtureRequest) -> Recipe:
        return _recipe(**request.param)


class TestItemSampler(SamplerTests):
    @pytest.fixture
    def recipe(self) -> Recipe:
        return _items()
