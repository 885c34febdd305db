"""Views that are not ours go to the wrapped engine untouched, and it is asked for everything."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pytest
from feast import BatchFeatureView, Entity, FeatureView, Field, FileSource
from feast.infra.compute_engines.local.compute import LocalComputeEngine, LocalComputeEngineConfig
from feast.infra.passthrough_provider import PassthroughProvider
from feast.types import Int64

from unirep_feast.feature_store.engine import ENGINE, EngineError
from unirep_feast.feature_store.views import representation

T1 = "2020-03-10T12:00:00Z"


class SpyComputeEngineConfig(LocalComputeEngineConfig):
    type: Any = "spy.SpyComputeEngine"
    colour: str = ""


class SpyComputeEngine(LocalComputeEngine):
    """The local engine, writing down what it is asked."""

    made: list[SpyComputeEngine]

    def __init__(self, **keys: Any) -> None:
        self.keys = {name: keys[name] for name in ("type", "colour", "backend")}
        self.calls: list[tuple[Any, ...]] = []
        super().__init__(**keys)
        SpyComputeEngine.made.append(self)

    def update(self, *arguments: Any) -> None:
        self.calls.append(("update", [view.name for view in arguments[2]]))

    def teardown_infra(self, *arguments: Any) -> None:
        self.calls.append(("teardown", [view.name for view in arguments[1]]))

    def materialize(self, registry: Any, tasks: Any, **options: Any) -> Any:
        self.calls.append(("materialize", tasks.feature_view.name, tasks.end_time, options))
        return super().materialize(registry, tasks, **options)

    def get_historical_features(self, registry: Any, task: Any) -> Any:
        self.calls.append(("history", task))
        return "answer"


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """Keys of an inner engine by dotted path, with a key of its own."""
    module = ModuleType("spy")
    module.SpyComputeEngine = SpyComputeEngine  # type: ignore[attr-defined]
    module.SpyComputeEngineConfig = SpyComputeEngineConfig  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "spy", module)
    SpyComputeEngine.made = []
    yield {"type": "spy.SpyComputeEngine", "colour": "red", "backend": "pandas"}


def visits(folder: Path, user: Entity) -> FeatureView:
    path = folder / "visits.parquet"
    stamp = pd.Timestamp("2020-02-01", tz="UTC")
    pd.DataFrame({"user_id": [1, 2], "visits": [3, 5], "at": stamp}).to_parquet(path)
    return FeatureView(
        name="visits",
        entities=[user],
        schema=[Field(name="user_id", dtype=Int64), Field(name="visits", dtype=Int64)],
        source=FileSource(name="visits_log", path=str(path), timestamp_field="at"),
    )


def test_the_wrapped_engine_is_asked_with_its_own_config(
    engine_repo: Any, spy: dict[str, Any]
) -> None:
    """apply, materialize of its views only, and teardown; its config stands where it looks."""
    repo = engine_repo(engine={"inner": spy, "incremental": False})
    run = repo.train()
    store = repo.store()
    ours = representation(repo.shop.path)
    store.apply([*ours, visits(repo.folder, ours.entity)])

    repo.materialize(store, T1)

    (inner,) = SpyComputeEngine.made
    assert inner.keys == spy
    assert inner.repo_config.batch_engine_config == spy
    assert inner.repo_config.batch_engine.colour == "red"
    assert store.config.batch_engine_config["type"] == ENGINE
    assert store.config.batch_engine.inner == spy
    assert inner.repo_config.project == store.config.project
    provider = store._get_provider()
    assert isinstance(provider, PassthroughProvider)
    assert inner.online_store is provider.online_store
    repo.expect(store, run, T1)
    found = store.get_online_features(["visits:visits"], [{"user_id": 1}, {"user_id": 2}])
    assert found.to_dict()["visits"] == [3, 5]
    kinds = [call[:2] for call in inner.calls]
    assert kinds == [
        ("update", ["shop"]),
        ("update", ["shop", "visits"]),
        ("materialize", "visits"),
    ]
    names = {row[2] for row in repo.recorded()}
    assert names == {"shop/shop"}

    assert provider.batch_engine.get_historical_features(store.registry, "task") == "answer"
    store.teardown()

    assert inner.calls[-2:] == [("history", "task"), ("teardown", ["shop", "visits"])]


def test_a_failing_view_of_theirs_is_their_error(engine_repo: Any) -> None:
    """What stock Feast would raise is raised, as it is."""
    repo = engine_repo()
    store = repo.store()
    ours = representation(repo.shop.path)
    view = visits(repo.folder, ours.entity)
    store.apply([ours.entity, view])
    (repo.folder / "visits.parquet").unlink()

    with pytest.raises(Exception, match=r"visits\.parquet") as caught:
        store.materialize(pd.Timestamp("2020-01-01"), pd.Timestamp(T1), feature_views=["visits"])

    assert not isinstance(caught.value, EngineError)


def test_the_engine_may_be_named_without_keys(engine_repo: Any) -> None:
    """`batch_engine: <dotted path>` has the defaults: the local engine inside."""
    repo = engine_repo()
    run = repo.train()
    repo.write()
    path = repo.folder / "feature_store.yaml"
    text = path.read_text().replace(f"batch_engine:\n  type: {ENGINE}", f"batch_engine: {ENGINE}")
    assert f"batch_engine: {ENGINE}" in text
    path.write_text(text)
    from feast import FeatureStore

    store = FeatureStore(repo_path=str(repo.folder))
    store.apply(list(representation(repo.shop.path)))

    repo.materialize(store, T1)

    repo.expect(store, run, T1)
    engine = store._get_provider().batch_engine
    assert type(engine.inner) is LocalComputeEngine
    assert store.config.batch_engine.inner == {"type": "local"}


def test_batch_views_without_our_tags_are_theirs(engine_repo: Any) -> None:
    """Even one over our snapshots: what has no tag is an ordinary view."""
    repo = engine_repo()
    run = repo.train()
    store = repo.store()
    repo.materialize(store, T1)
    ours = representation(repo.shop.path)
    plain = BatchFeatureView(
        name="lengths",
        mode="python",
        entities=[ours.entity],
        schema=[Field(name="user_id", dtype=Int64), Field(name="history_length", dtype=Int64)],
        source=ours.source,
        online=True,
    )
    store.apply([*ours, plain])

    store.materialize(pd.Timestamp("2020-01-01"), pd.Timestamp(T1), feature_views=["lengths"])

    ids, _ = repo.snapshot(run, T1)
    found = store.get_online_features(["lengths:history_length"], [{"user_id": ids[0]}])
    assert found.to_dict()["history_length"][0] > 0
    assert len(repo.recorded()) == 1
