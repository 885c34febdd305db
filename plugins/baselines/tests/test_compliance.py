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

CONTRAST: dict[str, Any] = {"objective": "baselines.contrast", "sampler": "baselines.sumn"}
SUMN: dict[str, Any] = {"dim": 16, "max_events": 24}
SHORT: dict[str, Any] = {"max_events": 12, "word_dim": 8, "dim": 8, "text": {"max_words": 4}}
MEMBERS: list[dict[str, Any]] = [
    {"name": "rhythm", "encoder": {"name": "baselines.aggregates"}},
    {"name": "bag", "encoder": {"name": "baselines.tfidf", "settings": {"dim": 6}}},
    {
        "name": "learnt",
        "plugin": "baselines.sumn",
        "encoder": {"settings": {"dim": 8, "max_events": 6}},
        "training": {"max_steps": 3},
        "normalise": "number",
    },
]


def _encoder(name: str, **settings: Any) -> Recipe:
    return registered(f"baselines.{name}", settings={"encoder": settings})


class TestPlugin(PluginTests):
    @pytest.fixture
    def entry_point(self) -> EntryPoint:
        return installed("baselines")


class TestRandom(EncoderTests):
    @pytest.fixture
    def recipe(self) -> Recipe:
        return _encoder("random", dim=7)


class TestAggregates(EncoderTests):
    @pytest.fixture(
        params=[
            {},
            {"standardise": False, "hours": False, "windows": (3.0,)},
            {"event_types": 0, "categories": 0, "items": 0, "value_bins": 0, "half_lives": ()},
        ],
        ids=["defaults", "as they are", "few"],
    )
    def recipe(self, request: pytest.FixtureRequest) -> Recipe:
        return _encoder("aggregates", **request.param)


class TestTfidf(EncoderTests):
    @pytest.fixture(
        params=[{}, {"terms": "words"}, {"sublinear": False, "normalise": False}],
        ids=["items", "words", "plain counts"],
    )
    def recipe(self, request: pytest.FixtureRequest) -> Recipe:
        return _encoder("tfidf", dim=8, **request.param)


class TestWord2Vec(EncoderTests):
    @pytest.fixture
    def recipe(self) -> Recipe:
        return _encoder("word2vec", dim=8, epochs=2)


class TestDoc2Vec(EncoderTests):
    @pytest.fixture
    def recipe(self) -> Recipe:
        return _encoder("doc2vec", dim=8, epochs=2)


class TestAls(EncoderTests):
    @pytest.fixture
    def recipe(self) -> Recipe:
        return _encoder("als", dim=8, iterations=3)


class TestSumn(EncoderTests):
    @pytest.fixture(params=[{}, {"behavior": "text", "hops": 1}], ids=["id", "text, one hop"])
    def recipe(self, request: pytest.FixtureRequest) -> Recipe:
        return _encoder("sumn", **SUMN, **request.param)


class TestTextCnn(EncoderTests):
    @pytest.fixture(params=[{}, {"heights": (1, 9), "dropout": 0.0}], ids=["defaults", "tall"])
    def recipe(self, request: pytest.FixtureRequest) -> Recipe:
        settings = {**SHORT, "filters": 4, **request.param}
        return registered("baselines.textcnn", **CONTRAST, settings={"encoder": settings})


class TestHan(EncoderTests):
    @pytest.fixture
    def recipe(self) -> Recipe:
        settings = {**SHORT, "hidden": 4}
        return registered("baselines.han", **CONTRAST, settings={"encoder": settings})


class TestConcat(EncoderTests):
    @pytest.fixture(params=[{}, {"members": MEMBERS}], ids=["defaults", "a trained member"])
    def recipe(self, request: pytest.FixtureRequest) -> Recipe:
        return _encoder("concat", **request.param)


class TestConsistency(ObjectiveTests):
    @pytest.fixture(params=[True, False], ids=["dampened", "counts"])
    def recipe(self, request: pytest.FixtureRequest) -> Recipe:
        settings = {"encoder": SUMN, "objective": {"dampened": request.param}}
        return registered("baselines.sumn", settings=settings)


class TestContrast(ObjectiveTests):
    @pytest.fixture(params=[0, 8], ids=["linear head", "hidden layer"])
    def recipe(self, request: pytest.FixtureRequest) -> Recipe:
        settings = {"encoder": SUMN, "objective": {"head": request.param}}
        return registered("baselines.sumn", objective="baselines.contrast", settings=settings)


class TestCut(SamplerTests):
    @pytest.fixture
    def recipe(self) -> Recipe:
        return registered("baselines.sumn", settings={"encoder": SUMN})
