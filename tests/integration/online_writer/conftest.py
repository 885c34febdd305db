"""A view, its rows, and Feast's own writer beside ours, on SQLite files and in Redis."""

from __future__ import annotations

import hashlib
import sqlite3
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import pytest
from feast import Entity, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.infra.online_stores.helpers import get_online_store_from_config
from feast.types import Array, Float32, Int64, String, UnixTimestamp
from feast.utils import _convert_arrow_to_proto

from unirep_feast.feature_store.online_writer import write_online

KEYS: dict[str, dict[str, Any]] = {
    "int64": {"user_id": Int64},
    "string": {"user_id": String},
    "interest": {"user": Int64, "interest": Int64},
    "mixed": {"zone": String, "user": Int64},
}


class Lab:
    """What every test needs; without state."""

    early = datetime(2024, 5, 1, 12, 30, 15, 250_000, tzinfo=UTC)
    late = early + timedelta(days=1)

    def view(
        self,
        keys: str = "int64",
        created: bool = True,
        name: str = "users",
        more: tuple[str, ...] = (),
    ) -> FeatureView:
        """A view with a vector, an integer, a time and a text; ``more`` integers beside them."""
        kinds = {Int64: ValueType.INT64, String: ValueType.STRING}
        return FeatureView(
            name=name,
            entities=[
                Entity(name=key, join_keys=[key], value_type=kinds[kind])
                for key, kind in KEYS[keys].items()
            ],
            ttl=timedelta(0),
            schema=[
                *(Field(name=key, dtype=kind) for key, kind in KEYS[keys].items()),
                Field(name="vector", dtype=Array(Float32)),
                Field(name="history_length", dtype=Int64),
                Field(name="last_event", dtype=UnixTimestamp),
                Field(name="segment", dtype=String),
                *(Field(name=extra, dtype=Int64) for extra in more),
            ],
            source=FileSource(
                path="none.parquet",
                timestamp_field="event_timestamp",
                created_timestamp_column="created" if created else "",
            ),
        )

    def rows(
        self,
        view: FeatureView,
        rows: int = 40,
        width: int = 16,
        when: datetime = early,
        nulls: bool = False,
        seed: int = 0,
        first: int = -3,
    ) -> pa.Table:
        """Rows of a view: ids from ``first`` on, some of them huge; every fourth value null."""
        random = np.random.default_rng(seed)
        holes = np.arange(rows) % 4 == 1 if nulls else None
        ids = np.arange(first, first + rows)
        columns: dict[str, pa.Array] = {}
        for field in view.entity_columns:
            if field.dtype == Int64:
                columns[field.name] = pa.array(np.where(ids % 7 == 6, ids * 10**17, ids))
            else:
                columns[field.name] = pa.array([f"ü{'x' * (i % 3)}{i}" for i in ids.tolist()])
        vectors = random.standard_normal((rows, width), np.float32)
        offsets = pa.array(np.arange(rows + 1) * width, pa.int32())
        mask = None if holes is None else pa.array(holes)
        columns["vector"] = pa.ListArray.from_arrays(offsets, vectors.reshape(-1), mask=mask)
        columns["history_length"] = pa.array(random.integers(0, 10**6, rows), mask=holes)
        moments = random.integers(-(10**9), 2 * 10**9, rows) * 1_000_000 + 7
        columns["last_event"] = pa.array(moments, pa.timestamp("us", "UTC"), mask=holes)
        columns["segment"] = pa.array(["", "a", "ß" * 90, "d"] * (rows // 4 + 1))[:rows]
        columns["event_timestamp"] = pa.array([when] * rows, pa.timestamp("us", "UTC"))
        created = [when + timedelta(hours=1)] * rows
        columns["created"] = pa.array(created, pa.timestamp("us", "UTC"))
        columns["slots"] = pa.array([[1]] * rows)  # not a feature of the view
        return pa.table(columns)

    def config(self, store: dict[str, Any], project: str = "shop", **registry: Any) -> RepoConfig:
        """A repo with an online store."""
        return RepoConfig(
            project=project,
            provider="local",
            registry={"path": "registry.db", "cache_ttl_seconds": 0, **registry},
            offline_store={"type": "duckdb"},
            online_store=store,
            entity_key_serialization_version=3,
        )

    def ready(self, config: RepoConfig, view: FeatureView) -> RepoConfig:
        """Make the store ready for a view, as ``feast apply`` does."""
        store = get_online_store_from_config(config.online_store)
        store.update(config, [], [view], [], [], partial=False)
        return config

    def write_stock(self, config: RepoConfig, view: FeatureView, table: pa.Table) -> None:
        """Feast's local engine, reduced to its write."""
        join_keys = {field.name: field.dtype.to_value_type() for field in view.entity_columns}
        data = _convert_arrow_to_proto(table.combine_chunks(), view, join_keys)
        store = get_online_store_from_config(config.online_store)
        store.online_write_batch(config, view, data, None)


class Sqlite:
    """SQLite files of one project, one per writer."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def config(self, writer: str, **options: Any) -> RepoConfig:
        path = str(self.folder / f"{writer}.db")
        return Lab().config({"type": "sqlite", "path": path, **options})

    def dump(self, writer: str) -> tuple[str, int]:
        """SHA-256 over all tables ordered by their keys, and how many rows there are."""
        digest, rows = hashlib.sha256(), 0
        with sqlite3.connect(self.folder / f"{writer}.db") as connection:
            query = "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name"
            for (table,) in connection.execute(query).fetchall():
                found = connection.execute(f"SELECT * FROM {table} ORDER BY 1, 2").fetchall()
                digest.update(repr((table, found)).encode())
                rows += len(found)
        return digest.hexdigest(), rows


class Redis:
    """The keys of one project of its own; only the last writer's are there."""

    def __init__(self, url: str) -> None:
        import redis

        self.client = redis.Redis.from_url(url)
        self.server = urlsplit(url).netloc
        self.project = f"unirep_{uuid.uuid4().hex[:12]}"
        self.writer: str | None = None
        self.dumps: dict[str, tuple[str, int]] = {}

    def config(self, writer: str, **options: Any) -> RepoConfig:
        """The next writer starts with nothing stored."""
        if self.writer is not None and writer != self.writer:
            self.dumps[self.writer] = self.dump(self.writer)
            self.clear()
        self.writer = writer
        store = {"type": "redis", "connection_string": self.server, **options}
        return Lab().config(store, project=self.project)

    def dump(self, writer: str) -> tuple[str, int]:
        """SHA-256 over all hashes and whether they expire, and how many hashes there are."""
        if writer != self.writer:
            return self.dumps[writer]
        keys = self.keys()
        found = [
            (key, sorted(self.client.hgetall(key).items()), self.client.ttl(key) > 0)
            for key in keys
        ]
        return hashlib.sha256(repr(found).encode()).hexdigest(), len(keys)

    def keys(self) -> list[bytes]:
        return sorted(self.client.scan_iter(b"*" + self.project.encode(), count=10_000))

    def clear(self) -> None:
        keys = self.keys()
        if keys:
            self.client.delete(*keys)


@pytest.fixture
def lab() -> Lab:
    return Lab()


@pytest.fixture
def sqlite(tmp_path: Path) -> Sqlite:
    return Sqlite(tmp_path)


@pytest.fixture
def redis(redis_url: str) -> Iterator[Redis]:
    server = Redis(redis_url)
    yield server
    server.clear()


@pytest.fixture(params=["sqlite", "redis"])
def backend(request: pytest.FixtureRequest) -> Sqlite | Redis:
    found: Sqlite | Redis = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def same(backend: Sqlite | Redis, lab: Lab) -> Callable[..., Any]:
    """Write tables one after the other with both writers, and compare all that is stored."""

    def compare(view: FeatureView, *tables: pa.Table, ours: Any = None, **options: Any) -> Any:
        reports = []
        for writer in ("stock", "ours"):
            config = lab.ready(backend.config(writer, **options), view)
            for table in tables:
                if writer == "stock":
                    lab.write_stock(config, view, table)
                else:
                    batches = ours(table) if ours else [table]
                    reports.append(write_online(config, view, batches))
        stock, mine = backend.dump("stock"), backend.dump("ours")
        assert stock[1] > 0
        assert mine == stock
        assert all(report.path == "fast" and report.reason is None for report in reports)
        assert [report.rows for report in reports] == [table.num_rows for table in tables]
        return reports

    return compare
