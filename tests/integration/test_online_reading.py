"""Vectors read as bytes from SQLite and Redis are those that Feast's own read returns."""

from __future__ import annotations

import logging
import os
import sqlite3
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from feast import Entity, FeatureView, Field, FileSource, ValueType
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import DoubleList, FloatList, Null, Value
from feast.types import Array, Float32, Int64, String
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unirep_feast.errors import StoreError
from unirep_feast.feature_store import online_reading
from unirep_feast.feature_store.torch_data import online_user_vectors

WIDTH = 3
NOW = datetime(2024, 5, 1, tzinfo=UTC)


@pytest.fixture(params=["sqlite", "redis"])
def online(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Settings of an online store whose bytes are read."""
    if request.param == "sqlite":
        return {"type": "sqlite", "path": "data/online.db"}
    url = urlsplit(request.getfixturevalue("redis_url"))
    connection = f"{url.hostname}:{url.port or 6379}"
    if url.password:
        connection += f",password={url.password}"
    return {"type": "redis", "connection_string": connection}


@pytest.fixture
def make_store(make_repo: Any, online: dict[str, Any]) -> Any:
    """Factory of stores with one empty view; emptied at the end."""
    made = []

    def make(keys: str = "int64", ttl_days: float | None = None) -> Any:
        project = f"unirep_reading_{os.getpid()}_{len(made)}"
        repo = make_repo(online=online, project=project, folder=project)
        store = repo.store()
        made.append(store)
        tags = store.get_feature_view("purchases").tags
        kind, value_type = (
            (String, ValueType.STRING) if keys == "string" else (Int64, ValueType.INT64)
        )
        entities = [Entity(name="person", join_keys=["user_id"], value_type=value_type)]
        schema = [Field(name="user_id", dtype=kind), Field(name="vector", dtype=Array(Float32))]
        if keys == "pair":
            entities.append(
                Entity(name="interest", join_keys=["interest"], value_type=ValueType.INT64)
            )
            schema.append(Field(name="interest", dtype=Int64))
        view = FeatureView(
            name="read",
            entities=entities,
            schema=[*schema, Field(name="history_length", dtype=Int64)],
            ttl=timedelta(days=ttl_days or 0),
            source=FileSource(path=str(repo.folder / "no.parquet"), timestamp_field="t"),
            tags={**tags, "unirep.vectors": "1", "unirep.dim": str(WIDTH)},
        )
        store.apply([*entities, view])
        return store

    yield make
    for store in made:
        store.teardown()


def write(store: Any, rows: dict[Any, Value | None]) -> None:
    """Store values as Feast does; keys are ids, or pairs of them."""
    view = store.get_feature_view("read")
    names = [column.name for column in view.entity_columns]
    data = []
    for key, value in rows.items():
        parts = key if isinstance(key, tuple) else (key,)
        values = [
            Value(string_val=part) if isinstance(part, str) else Value(int64_val=part)
            for part in parts
        ]
        features = {"history_length": Value(int64_val=7)}
        if value is not None:
            features["vector"] = value
        data.append((EntityKey(join_keys=names, entity_values=values), features, NOW, None))
    store._get_provider().online_store.online_write_batch(store.config, view, data, None)
    store.registry.apply_materialization(view, store.project, NOW, NOW)
    store.refresh_registry()


def vector(seed: int, width: int = WIDTH) -> Value:
    numbers = np.random.default_rng(seed).standard_normal(width).astype(np.float32)
    return Value(float_list_val=FloatList(val=numbers.tolist()))


def assert_as_feast_says(store: Any, ids: dict[str, list[Any]]) -> None:
    """Equal to ``get_online_features().to_dict()``, bit for bit."""
    said = store.get_online_features(["read:vector"], ids).to_dict()["vector"]
    wanted = np.zeros((len(said), WIDTH), np.float32)
    for row, numbers in enumerate(said):
        wanted[row] = numbers or 0

    found = online_user_vectors(store, "read", ids)

    assert found.mask.tolist() == [bool(numbers) for numbers in said]
    assert found.vectors.numpy().tobytes() == wanted.tobytes()


@pytest.mark.parametrize("keys", ["int64", "string", "pair"])
def test_equals_the_stock_read(make_store: Any, keys: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Known, unknown, repeated ids, nulls, empty lists and users without that feature."""
    store = make_store(keys)

    def key(number: int) -> Any:
        if keys == "string":
            # Of several lengths, one of them empty, one not ASCII.
            return ["", "é", "user", "user-12", "x" * 300][number % 5] + str(number) * (number > 0)
        return (number // 3, number % 3 - 1) if keys == "pair" else (number - 2) * 10**15

    rows: dict[Any, Value | None] = {key(number): vector(number) for number in range(12)}
    rows[key(12)] = Value(null_val=Null.NULL)
    rows[key(13)] = Value()
    rows[key(14)] = Value(float_list_val=FloatList())
    rows[key(15)] = None
    write(store, rows)

    @settings(max_examples=15, suppress_health_check=[HealthCheck.too_slow])
    @given(numbers=st.lists(st.integers(0, 20), min_size=1, max_size=30))
    def check(numbers: list[int]) -> None:
        found = [key(number) for number in numbers]
        if keys == "pair":
            users, interests = map(list, zip(*found, strict=True))
            assert_as_feast_says(store, {"user_id": users, "interest": interests})
        else:
            assert_as_feast_says(store, {"user_id": found})

    check()
    everyone = list(rows)
    ids: Any = everyone
    if keys == "pair":
        ids = pd.DataFrame(everyone, columns=["user_id", "interest"])
    # Read without Feast's own path: it is not even there.
    monkeypatch.setattr(store, "get_online_features", None)
    assert int(online_user_vectors(store, "read", ids).mask.sum()) == 12


def test_null_ids_are_missing(make_store: Any) -> None:
    """A null id, or half a key, is no user."""
    store = make_store("pair")
    write(store, {(1, 0): vector(0), (2, 0): vector(1)})
    ids = pa.table({"interest": [0, None, 0, 0], "user_id": [2, 1, None, 1]})

    found = online_user_vectors(store, "read", ids)

    assert found.mask.tolist() == [True, False, False, True]
    assert found.vectors[0].tolist() == list(vector(1).float_list_val.val)
    with pytest.raises(StoreError, match="the join keys 'user_id', 'interest'; hand over a dict"):
        online_user_vectors(store, "read", [1])
    with pytest.raises(StoreError, match="ids: no column 'interest'; found user_id"):
        online_user_vectors(store, "read", {"user_id": [1]})
    with pytest.raises(StoreError, match="ids: columns of 1, 2 rows"):
        online_user_vectors(store, "read", {"user_id": [1], "interest": [1, 2]})


def test_more_ids_than_a_statement_takes(make_store: Any) -> None:
    """SQLite limits the parameters of a statement; 60,000 ids are read all the same."""
    store = make_store()
    write(store, {number: vector(number) for number in range(0, 60_000, 9_973)})
    if store.config.online_store.type == "sqlite":
        connection = store._get_provider().online_store._get_conn(store.config)
        connection.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, 999)

    found = online_user_vectors(store, "read", np.arange(60_000))

    assert np.flatnonzero(found.mask).tolist() == list(range(0, 60_000, 9_973))
    assert found.vectors[9_973].tolist() == list(vector(9_973).float_list_val.val)


def test_vectors_of_two_lengths_are_refused(make_store: Any) -> None:
    """Two spaces in one table are named, never padded."""
    store = make_store()
    write(
        store, {1: vector(1), 2: vector(2, width=5), 3: Value(double_list_val=DoubleList(val=[1]))}
    )

    assert online_user_vectors(store, "read", [2]).vectors.shape == (1, 5)
    with pytest.raises(StoreError, match=r"read:vector mixes vectors of 3, 5 numbers: .*two runs"):
        online_user_vectors(store, "read", [1, 2])
    with pytest.raises(StoreError, match="double_list_val in the online store; wanted float_list"):
        online_user_vectors(store, "read", [1, 3])


def test_the_ttl_of_a_view_is_treated_as_feast_treats_it(make_store: Any) -> None:
    """Feast's online read returns what is older than the ttl; so do we."""
    store = make_store(ttl_days=1.0)
    write(store, {1: vector(1)})

    assert_as_feast_says(store, {"user_id": [1, 2]})
    assert online_user_vectors(store, "read", [1]).mask.all()


@pytest.mark.parametrize("why", ["version", "provider", "keys"])
def test_what_is_not_known_is_read_through_feast(
    make_store: Any, why: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Another Feast, provider or key encoding takes Feast's own path, with the same result."""
    store = make_store()
    write(store, {1: vector(1), 2: vector(2)})
    ours = online_user_vectors(store, "read", [2, 3, 1, 2])
    if why == "version":
        monkeypatch.setattr(online_reading, "_feast", lambda: "0.99.0")
    elif why == "provider":
        monkeypatch.setattr(online_reading, "PassthroughProvider", str)
    else:
        monkeypatch.setattr(online_reading, "COVERED", ())
    monkeypatch.setattr(online_reading, "read_messages", None)

    with caplog.at_level(logging.DEBUG, online_reading.__name__):
        stock = online_user_vectors(store, "read", [2, 3, 1, 2])

    assert "read through Feast" in caplog.text
    assert torch.equal(stock.vectors, ours.vectors)
    assert stock.mask.tolist() == ours.mask.tolist() == [True, False, True, True]
