"""Which rows are written where and when, and what is refused."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pytest
from feast import Entity, FeatureStore, ValueType

from unirep_feast.errors import StoreError
from unirep_feast.feature_store.online_writer import write_online, writing


@pytest.mark.parametrize("stored", ["keep_newer", "replace"])
def test_stored_rows(lab: Any, backend: Any, stored: Any) -> None:
    """keep_newer guards later times on every store and renews equal ones; replace renews all."""
    view = lab.view()
    newer, older = lab.rows(view, when=lab.late, seed=1), lab.rows(view, rows=50, seed=2)
    again = lab.rows(view, when=lab.late, seed=3)
    config = lab.ready(backend.config("ours"), view)
    write_online(config, view, [newer], stored=stored)
    report = write_online(config, view, [older], stored=stored)
    assert report.skipped == (40 if stored == "keep_newer" else 0)
    expected = older
    if stored == "keep_newer":
        assert write_online(config, view, [again], stored=stored).skipped == 0
        expected = pa.concat_tables([again, older.slice(40)])
    after = backend.dump("ours")
    lab.write_stock(lab.ready(backend.config("stock"), view), view, expected)
    assert after == backend.dump("stock")


def test_view_versions(lab: Any, sqlite: Any, redis: Any, tmp_path: Path) -> None:
    """With versions on, rows go where Feast reads the current version, and the old one stays."""
    (tmp_path / "none.parquet").touch()
    user = Entity(name="user_id", join_keys=["user_id"], value_type=ValueType.INT64)
    for config in (sqlite.config("ours"), redis.config("ours")):
        config.registry.path = str(tmp_path / f"{config.online_store.type}.registry")
        config.registry.enable_online_feature_view_versioning = True
        store = FeatureStore(config=config)
        found = []
        for more in ((), ("extra",)):
            store.apply([user, lab.view(more=more)])
            view = store.get_feature_view("users")
            table = lab.rows(view, seed=len(more))
            table = table.append_column("extra", pa.array(range(40), pa.int64()))
            write_online(config, view, [table])
            names = ["users:vector", *(f"users:{name}" for name in more)]
            answer = store.get_online_features(names, [{"user_id": 5}]).to_dict()
            assert answer["vector"][0] == table["vector"][8].as_py()
            found.append(answer)
        assert view.current_version_number == 1
        assert found[1]["extra"] == [8]
    with sqlite3.connect(sqlite.folder / "ours.db") as connection:
        for table_name, features in (("shop_users", 4), ("shop_users_v1", 5)):
            count = connection.execute(f"SELECT COUNT(*) FROM {table_name}").fetchone()[0]
            assert count == 40 * features
    fields = redis.client.hkeys(redis.keys()[0])
    assert {b"_ts:users", b"_ts:users_v1"} <= set(fields)


def test_progress_and_rows(lab: Any, backend: Any) -> None:
    """Progress adds up to the rows, and no rows at all are no error."""
    view = lab.view()
    config = lab.ready(backend.config("ours"), view)
    done: list[int] = []
    assert write_online(config, view, [lab.rows(view)] * 2, done.append).rows == 80
    assert sum(done) == 80
    assert write_online(config, view, []).rows == 0


@pytest.mark.parametrize(("size", "seen"), [(None, [0, 0, 0]), (20, [0, 0, 20])])
def test_sqlite_commits_with_the_configured_batches(
    lab: Any, sqlite: Any, size: int | None, seen: list[int]
) -> None:
    """Without a batch size nothing is visible before the end; with one, whole batches are."""
    view = lab.view()
    config = sqlite.config("ours")
    config.materialization_config.online_write_batch_size = size
    lab.ready(config, view)
    counts = []

    def batches() -> Iterator[pa.Table]:
        for start in (0, 10, 20):
            counts.append(sqlite.dump("ours")[1] // 4)
            yield lab.rows(view, rows=10, first=start)

    write_online(config, view, batches())
    assert counts == seen


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("vector", None, "users: no column 'vector'; found user_id"),
        ("user_id", [1, None], "users: 1 of 2 rows have no user_id"),
        ("user_id", ["a", "b"], "users: user_id is string, the view says INT64"),
        ("event_timestamp", [datetime(2024, 5, 1), None], "1 of 2 rows have no event_timestamp"),
        ("event_timestamp", [1, 2], "users: event_timestamp is int64; wanted timestamp"),
    ],
)
def test_unusable_rows_are_refused(
    lab: Any, sqlite: Any, column: str, values: list[Any] | None, message: str
) -> None:
    """Missing columns, missing ids and wrong types are one line each, and nothing is stored."""
    view = lab.view()
    config = lab.ready(sqlite.config("ours"), view)
    table = lab.rows(view, 2)
    if values is None:
        table = table.drop_columns([column])
    else:
        place = table.schema.get_field_index(column)
        table = table.set_column(place, column, pa.array(values))
    with pytest.raises(StoreError, match=message):
        write_online(config, view, [lab.rows(view, 10), table])
    assert sqlite.dump("ours")[1] == 0


def test_vectors_of_another_length_are_refused(lab: Any, sqlite: Any) -> None:
    """A searchable vector of another length than declared is refused, both numbers named."""
    view = lab.view()
    [vector] = [field for field in view.features if field.name == "vector"]
    vector.vector_index, vector.vector_length = True, 8
    config = lab.ready(sqlite.config("ours"), view)
    with pytest.raises(StoreError, match="Vector length 16 does not match expected 8 for feature"):
        write_online(config, view, [lab.rows(view, width=16)])
    assert write_online(config, view, [lab.rows(view, width=8)]).rows == 40


@pytest.mark.parametrize("nulls", [False, True])
def test_postgres_takes_the_generic_path(
    lab: Any, postgres_url: str, nulls: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """PostgreSQL is written by Feast's own store, says so, and reads back as Feast's own write."""
    view = lab.view("string")
    user = Entity(name="user_id", join_keys=["user_id"], value_type=ValueType.STRING)
    table = lab.rows(view, nulls=nulls)
    ids = [{"user_id": name} for name in table["user_id"].to_pylist()]
    answers = []
    for writer in ("stock", "ours"):
        config = lab.config(_postgres(postgres_url), writer, path=str(tmp_path / writer))
        features = FeatureStore(config=config)
        features.apply([user, view])
        if writer == "stock":
            lab.write_stock(config, view, table)
        else:
            with caplog.at_level(logging.WARNING):
                report = write_online(config, view, [table])
            assert (report.rows, report.path, report.skipped) == (40, "generic", 0)
            assert report.reason == "online store PostgreSQLOnlineStore"
            assert "users is written the slow way: online store Postgre" in caplog.text
            older = lab.rows(view, when=lab.early - timedelta(days=1))
            assert write_online(config, view, [older], stored="keep_newer").skipped == 40
        names = [f"users:{field.name}" for field in view.features]
        answers.append(features.get_online_features(names, ids).to_dict())
    assert answers[0] == answers[1]
    assert answers[0]["segment"][:3] == ["", "a", "ß" * 90]


@pytest.mark.parametrize("backend", ["redis"], indirect=True)
@pytest.mark.parametrize("stored", ["as_feast", "keep_newer", "replace"])
def test_generic_redis(
    lab: Any, backend: Any, monkeypatch: pytest.MonkeyPatch, stored: Any
) -> None:
    """Where Redis takes the generic path, what is stored already is treated as on the fast one."""
    view = lab.view()
    tables = [
        lab.rows(view, when=lab.late, seed=1),
        lab.rows(view, when=lab.late, seed=2),
        lab.rows(view, rows=50, seed=3),
    ]
    for writer, reason in (("fast", None), ("generic", "not today")):
        monkeypatch.setattr(writing, "_why_generic", lambda *_, reason=reason: reason)
        config = backend.config(writer)
        for table in tables:
            assert write_online(config, view, [table], stored=stored).path == writer
        assert config.online_store.skip_dedup is False
    assert backend.dump("generic") == backend.dump("fast")


@pytest.mark.parametrize(
    ("options", "version", "reason"),
    [
        ({"enable_openai_compatible_store": True}, "0.67.0", "SQLite online store with enable_"),
        ({}, "0.68.0", "stored bytes are verified for feast 0.67.0, not 0.68.0"),
    ],
)
def test_uncovered_options_take_the_generic_path(
    lab: Any,
    sqlite: Any,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
    version: str,
    reason: str,
) -> None:
    """An option or a Feast version without verified bytes ends in the same store, the slow way."""
    monkeypatch.setattr(writing, "get_version", lambda: version)
    view = lab.view()
    table = lab.rows(view, nulls=True)
    lab.write_stock(lab.ready(sqlite.config("stock", **options), view), view, table)
    report = write_online(lab.ready(sqlite.config("ours", **options), view), view, [table])
    assert report.path == "generic"
    assert report.reason is not None
    assert report.reason.startswith(reason)
    assert sqlite.dump("ours") == sqlite.dump("stock")


def _postgres(url: str) -> dict[str, Any]:
    parts = urlsplit(url)
    return {
        "type": "postgres",
        "host": parts.hostname,
        "port": parts.port or 5432,
        "database": parts.path[1:],
        "user": parts.username,
        "password": parts.password or "none",
        "sslmode": "prefer",
    }
