"""The host's compliance kit over every part this distribution offers."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from unirep_feast.events import TIME_TYPE
from unirep_feast.sequences import Sequences
from unirep_feast.testing import (
    EncoderTests,
    ObjectiveTests,
    PluginTests,
    Recipe,
    SamplerTests,
    World,
    installed,
    registered,
)

SMALL: dict[str, Any] = {"dim": 16, "query": 8, "heads": 2, "max_events": 24}


def _recipe(
    encoder: dict[str, Any] | None = None,
    objective: dict[str, Any] | None = None,
    sampler: dict[str, Any] | None = None,
) -> Recipe:
    """The trio of pre-training with small sizes."""
    settings = {
        "encoder": {**SMALL, **(encoder or {})},
        "objective": objective or {},
        "sampler": {"behavior_pool": 20, "sequence_pool": 12, "interval": 3, **(sampler or {})},
    }
    return registered("userbert", settings=settings)


class TestPlugin(PluginTests):
    @pytest.fixture
    def entry_point(self) -> EntryPoint:
        return installed("userbert")


class TestEncoder(EncoderTests):
    @pytest.fixture(
        params=[
            {"preset": "naml"},
            {"preset": "lstur"},
            {"preset": "nrms"},
            {"preset": "gru4rec", "start": "cooccurrence"},
            {"preset": "nativectr"},
            {"preset": "bert4rec"},
            {"behavior": "words", "aggregator": "max"},
            {"context": "cnn", "layers": 2, "aggregator": "mean"},
        ],
        ids=str,
    )
    def recipe(self, request: pytest.FixtureRequest) -> Recipe:
        return _recipe(encoder=request.param)


class TestObjective(ObjectiveTests):
    @pytest.fixture(
        params=[
            {},
            {"negatives": "random"},
            {"bsm": False},
            {"mbp": False},
            {"bsm": False, "nbp": True},
            {"mbp": False, "bsm": False, "nbp": True},
        ],
        ids=str,
    )
    def recipe(self, request: pytest.FixtureRequest) -> Recipe:
        return _recipe(objective=request.param, encoder={"preset": "gru4rec", "dropout": 0.0})


class TestSampler(SamplerTests):
    @pytest.fixture(params=[{}, {"behavior_pool": None, "sequence_pool": None}], ids=str)
    def recipe(self, request: pytest.FixtureRequest) -> Recipe:
        return _recipe(sampler=request.param)


@pytest.fixture
def impressions(world: World, tmp_path: Path) -> str:
    """A click of everything a user did, and as many skips of other items, at the same times."""
    past: Sequences = world.past
    rows = np.repeat(np.arange(len(past)), past.lengths.numpy())
    users = past.users.take(pa.array(rows))
    when = pa.array(past.times.numpy()[_events(past)], pa.int64()).cast(TIME_TYPE)
    codes = past.codes.numpy()[_events(past)].astype(np.int64) - 3
    ids = past.items.item_ids.take(pa.array(np.maximum(codes, 0)))
    clicked = np.random.default_rng(0).random(len(rows)) < 0.5
    path = tmp_path / "impressions.parquet"
    pq.write_table(
        pa.table({"user_id": users, "item_id": ids, "event_timestamp": when, "clicked": clicked}),
        path,
    )
    return str(path)


def _events(past: Sequences) -> np.ndarray:
    spans = zip(past.starts.tolist(), past.ends.tolist(), strict=True)
    return np.concatenate([np.arange(start, end) for start, end in spans])


def _click_recipe(path: str, **objective: Any) -> Recipe:
    return registered(
        "userbert",
        objective="userbert.ctr",
        sampler="userbert.ctr",
        settings={
            "encoder": {**SMALL, "dropout": 0.0},
            "objective": objective,
            "sampler": {"path": path},
        },
    )


class TestClicks(ObjectiveTests):
    @pytest.fixture(params=[False, True], ids=["fine-tuned", "frozen"])
    def recipe(self, request: pytest.FixtureRequest, impressions: str) -> Recipe:
        return _click_recipe(impressions, frozen=request.param)


class TestImpressions(SamplerTests):
    random = False

    @pytest.fixture
    def recipe(self, impressions: str) -> Recipe:
        return _click_recipe(impressions)


def _list_recipe(path: str, **objective: Any) -> Recipe:
    return registered(
        "userbert",
        objective="userbert.news",
        sampler="userbert.news",
        settings={
            "encoder": {**SMALL, "dropout": 0.0},
            "objective": objective,
            "sampler": {"path": path},
        },
    )


@pytest.fixture
def lists(world: World, tmp_path: Path) -> str:
    """Every event a click, beside two items that were not clicked."""
    past: Sequences = world.past
    event = np.repeat(_events(past), 3)
    users = past.users.take(pa.array(np.repeat(np.arange(len(past)), 3 * past.lengths.numpy())))
    when = pa.array(past.times.numpy()[event], pa.int64()).cast(TIME_TYPE)
    clicked = np.arange(len(event)) % 3 == 0
    drawn = np.random.default_rng(0).integers(0, past.items.known - 3, len(event))
    items = np.where(clicked, past.codes.numpy()[event].astype(np.int64) - 3, drawn)
    ids = past.items.item_ids.take(pa.array(np.maximum(items, 0)))
    path = tmp_path / "lists.parquet"
    pq.write_table(
        pa.table({"user_id": users, "item_id": ids, "event_timestamp": when, "clicked": clicked}),
        path,
    )
    return str(path)


class TestNews(ObjectiveTests):
    @pytest.fixture(params=[False, True], ids=["fine-tuned", "frozen"])
    def recipe(self, request: pytest.FixtureRequest, lists: str) -> Recipe:
        return _list_recipe(lists, frozen=request.param)


class TestLists(SamplerTests):
    random = False

    @pytest.fixture
    def recipe(self, lists: str) -> Recipe:
        return _list_recipe(lists)
