"""A repo that keeps everything in PostgreSQL: registry, offline store, online store and catalog."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pandas as pd
import pytest
import yaml
from feast import FeatureStore, FeatureView, Field
from feast.types import Array, Float32, Int64, String, UnixTimestamp

from unirep_feast.catalog import Catalog
from unirep_feast.feature_store.engine import EngineError
from unirep_feast.feature_store.torch_data import online_user_vectors, user_vectors
from unirep_feast.feature_store.views import representation
from unirep_feast.instants import parse_instant
from unirep_feast.snapshot import snapshot_path
from unirep_feast.testing.world import make_world

T0, T1 = "2020-03-01T00:00:00Z", "2020-03-10T12:00:00Z"


class Everything:
    """The shop with a feature store that has no file but its YAML and the snapshots."""

    def __init__(self, repo: Any, url: str) -> None:
        self.repo, self.url = repo, url
        self.table = "vectors"
        repo.shop.write(catalog=url)

    def write(self, **registry: Any) -> None:
        parts = urlsplit(self.url)
        self.repo.write()
        path = self.repo.folder / "feature_store.yaml"
        config = yaml.safe_load(path.read_text())
        server = {
            "type": "postgres",
            "host": parts.hostname,
            "port": parts.port or 5432,
            "database": parts.path.lstrip("/"),
            "user": parts.username or "postgres",
            "password": parts.password or "",
            "sslmode": "prefer",
        }
        config |= {
            "registry": {
                "registry_type": "sql",
                "path": self.url.replace("postgresql://", "postgresql+psycopg://"),
                "cache_ttl_seconds": 0,
                **registry,
            },
            "offline_store": server,
            "online_store": server,
            "batch_engine": {**config["batch_engine"], "catalog": self.url},
        }
        path.write_text(yaml.safe_dump(config))

    def view(self, **source: Any) -> FeatureView:
        from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import (
            PostgreSQLSource,
        )

        ours = representation(self.repo.shop.path)
        strings = any(field.dtype == String for field in ours.view.entity_columns)
        return FeatureView(
            name="shop",
            entities=[ours.entity],
            schema=[
                Field(name="user_id", dtype=String if strings else Int64),
                Field(name="vector", dtype=Array(Float32)),
                Field(name="history_length", dtype=Int64),
                Field(name="last_event", dtype=UnixTimestamp),
            ],
            source=PostgreSQLSource(
                name="vectors",
                timestamp_field="event_timestamp",
                created_timestamp_column="created",
                **(source or {"table": self.table}),
            ),
            tags=ours.view.tags,
        )

    def store(self, **source: Any) -> FeatureStore:
        self.write()
        store = FeatureStore(repo_path=str(self.repo.folder))
        store.apply([representation(self.repo.shop.path).entity, self.view(**source)])
        return store

    def train(self, **changes: Any) -> str:
        from unirep_feast.pipeline import train
        from unirep_feast.snapshot import point_promoted

        self.repo.shop.write(**changes)
        run = train(self.repo.shop.parsed()).run
        catalog = Catalog(self.url, create=False)
        catalog.promote(run, lambda: point_promoted(self.repo.shop.home, run))
        return run

    def sql(self, query: str) -> list[Any]:
        import psycopg

        with psycopg.connect(self.url) as connection:
            cursor = connection.execute(query)
            return cursor.fetchall() if cursor.description else []


@pytest.fixture
def everything(engine_repo: Any, postgres_url: str) -> Everything:
    pytest.importorskip("psycopg_pool")
    return Everything(engine_repo(), postgres_url)


def at(time: str) -> datetime:
    return datetime.fromtimestamp(parse_instant(time) / 1e6, UTC)


@pytest.mark.parametrize("strings", [False, True], ids=["int64", "string"])
def test_everything_in_postgres(everything: Everything, strings: bool) -> None:
    """Materialize alone makes the table; point-in-time and online vectors are the snapshot's."""
    repo = everything.repo
    repo.shop.log(make_world(users=60, items=30, string_ids=strings).events)
    run = everything.train()
    store = everything.store()

    store.materialize(at("2020-01-01"), at(T0))
    store.materialize(at("2020-01-01"), at(T1))
    store.materialize(at("2020-01-01"), at(T1))

    for time in (T0, T1):
        ids, vectors = repo.snapshot(run, time)
        rows = pd.DataFrame({"user_id": ids, "event_timestamp": pd.Timestamp(time)})
        offline = user_vectors(store, "shop", rows)
        assert offline.mask.all()
        assert offline.vectors.numpy().tobytes() == vectors.tobytes()
    online = online_user_vectors(store, "shop", ids)
    assert online.mask.all()
    assert online.vectors.numpy().tobytes() == vectors.tobytes()
    count = everything.sql("SELECT event_timestamp, count(*) FROM vectors GROUP BY 1 ORDER BY 1")
    assert count == [(at(T0), len(repo.snapshot(run, T0)[0])), (at(T1), len(ids))]
    told = store.get_online_features(
        ["shop:history_length", "shop:last_event"], [{"user_id": user} for user in ids]
    ).to_df()
    kept = everything.sql(
        f"SELECT user_id, history_length, last_event FROM vectors "
        f"WHERE event_timestamp = '{T1}' ORDER BY user_id"
    )
    by_user = told.set_index("user_id").loc[[row[0] for row in kept]]
    assert by_user["history_length"].tolist() == [row[1] for row in kept]
    seconds = pd.to_datetime(by_user["last_event"], utc=True).astype("int64") // 10**9
    assert seconds.tolist() == [int(row[2].timestamp()) for row in kept]
    lineage = Catalog(everything.url, create=False).lineage(run)
    assert [one.status for one in lineage.materializations] == ["finished"] * 3
    view = store.registry.get_feature_view("shop", "shop", allow_cache=False)
    assert len(view.materialization_intervals) == 3
    # Two runs share no time: materializing another one as of the same time replaces its rows.
    second = everything.train()
    store = everything.store()
    store.materialize(at("2020-01-01"), at(T1))
    ids, vectors = repo.snapshot(second, T1)
    rows = pd.DataFrame({"user_id": ids, "event_timestamp": pd.Timestamp(T1)})
    assert user_vectors(store, "shop", rows).vectors.numpy().tobytes() == vectors.tobytes()
    assert online_user_vectors(store, "shop", ids).vectors.numpy().tobytes() == vectors.tobytes()


def test_stock_feast_goes_on_from_the_table(everything: Everything) -> None:
    """Without the batch_engine lines Feast materializes from PostgreSQL what was written there."""
    run = everything.train()
    store = everything.store()
    store.materialize(at("2020-01-01"), at(T1))
    ids, vectors = everything.repo.snapshot(run, T1)
    everything.sql("DELETE FROM shop_shop")
    path = everything.repo.folder / "feature_store.yaml"
    config = yaml.safe_load(path.read_text())
    del config["batch_engine"]
    path.write_text(yaml.safe_dump(config))
    stock = FeatureStore(repo_path=str(everything.repo.folder))
    asked = stock.get_online_features(["shop:vector"], [{"user_id": user} for user in ids])
    assert set(asked.to_dict()["vector"]) == {None}

    stock.materialize(at("2020-01-01"), at(T1))

    found = online_user_vectors(stock, "shop", ids)
    assert found.mask.all()
    assert found.vectors.numpy().tobytes() == vectors.tobytes()


def test_tables_of_others_are_respected(everything: Everything) -> None:
    """Columns in another order, times without a zone and foreign rows are taken as they are; a
    column of another type, and a source that is a query, are named."""
    run = everything.train()  # the catalog comes first: it wants an empty database
    everything.sql(
        'CREATE TABLE vectors ("created" timestamp, vector real[], user_id bigint, '
        "event_timestamp timestamp, history_length bigint, last_event timestamptz)"
    )
    everything.sql(
        f"INSERT INTO vectors VALUES ('{T0}', ARRAY[1.5], 7, '{T0}', 3, '{T0}'), "
        f"('{T1}', ARRAY[1.5], 7, '{T1}', 3, '{T1}')"
    )
    store = everything.store()

    store.materialize(at("2020-01-01"), at(T1))

    ids, vectors = everything.repo.snapshot(run, T1)
    kept = everything.sql(
        f"SELECT user_id, vector FROM vectors WHERE event_timestamp = '{T1}' ORDER BY user_id"
    )
    assert [row[0] for row in kept] == ids
    assert np.array_equal(np.float32([row[1] for row in kept]), vectors)
    assert everything.sql(f"SELECT vector FROM vectors WHERE event_timestamp = '{T0}'") == [
        ([1.5],)
    ]

    everything.sql("ALTER TABLE vectors ALTER history_length TYPE integer")
    with pytest.raises(EngineError, match=r"'history_length' of its table is int4, wanted bigint"):
        store.materialize(at("2020-01-01"), at(T1))
    store = everything.store(query="SELECT * FROM vectors")
    with pytest.raises(EngineError, match="source 'vectors' is a query, which cannot be written"):
        store.materialize(at("2020-01-01"), at(T1))
    assert len(everything.sql(f"SELECT 1 FROM vectors WHERE event_timestamp = '{T1}'")) == len(ids)


def test_a_failure_in_mid_copy_leaves_the_table_as_it_was(
    everything: Everything, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The session ends after the first rows: one line, the old rows, nothing recorded."""
    from unirep_feast.feature_store import postgres_offline

    run = everything.train()
    store = everything.store()
    store.materialize(at("2020-01-01"), at(T1))
    before = everything.sql("SELECT * FROM vectors ORDER BY user_id")
    rows, calls = postgres_offline._rows, 0

    def ending(columns: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            everything.sql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND query LIKE 'COPY%'"
            )
        return rows(columns)

    with monkeypatch.context() as patch:
        patch.setattr(postgres_offline, "_rows", ending)
        patch.setattr(postgres_offline, "_BATCH_ROWS", 5)
        with pytest.raises(EngineError, match=r"source 'vectors' cannot be written: .*material"):
            store.materialize(at("2020-01-01"), at(T1))

    assert calls >= 3
    assert everything.sql("SELECT * FROM vectors ORDER BY user_id") == before
    assert len(Catalog(everything.url).lineage(run).materializations) == 1
    store = FeatureStore(repo_path=str(everything.repo.folder))
    store.materialize(at("2020-01-01"), at(T1))
    path = snapshot_path(everything.repo.shop.home, run, parse_instant(T1))
    assert path.exists()
    assert everything.sql("SELECT * FROM vectors ORDER BY user_id") == before
