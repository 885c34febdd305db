"""A shop whose feature repo uses the engine, on SQLite, Redis or PostgreSQL."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import pytest
import yaml

from unirep_feast.catalog import Catalog
from unirep_feast.instants import format_instant, parse_instant
from unirep_feast.snapshot import point_promoted, read_vectors, snapshot_path

ENGINE = "unirep_feast.feature_store.engine.UnirepComputeEngine"
FEAST = Path(sys.executable).with_name("feast")


@dataclass
class Repo:
    """A feature repo in the shop's folder."""

    shop: Any
    online: dict[str, Any]
    engine: dict[str, Any] | None = field(default_factory=dict)
    project: str = "shop"
    more: str = ""

    @property
    def folder(self) -> Path:
        folder: Path = self.shop.folder
        return folder

    def write(self) -> None:
        """Write feature_store.yaml and representations.py."""
        config: dict[str, Any] = {
            "project": self.project,
            "provider": "local",
            "registry": {"path": "data/registry.db", "cache_ttl_seconds": 0},
            "offline_store": {"type": "duckdb"},
            "online_store": self.online,
            "entity_key_serialization_version": 3,
        }
        if self.engine is not None:
            config["batch_engine"] = {"type": ENGINE, **self.engine}
        (self.folder / "data").mkdir(exist_ok=True)
        (self.folder / "feature_store.yaml").write_text(yaml.safe_dump(config))
        (self.folder / "representations.py").write_text(
            "from pathlib import Path\n"
            "from unirep_feast.feature_store.views import representation\n\n"
            'made = representation(Path(__file__).with_name("shop.yaml"))\n'
            "user, source, view, service = made.users\n"
            "if made.items is not None:\n"
            "    item, item_source, item_view, item_service = made.items\n"
            "if made.interests is not None:\n"
            "    interest, interest_source, interest_view, interest_service = made.interests\n"
            + self.more
        )

    def store(self, apply: bool = True) -> Any:
        """The feature store; its registry holds what representations.py declares."""
        from feast import FeatureStore

        from unirep_feast.feature_store.views import representation

        self.write()
        store = FeatureStore(repo_path=str(self.folder))
        if apply:
            store.apply(list(representation(self.shop.path)))
        return store

    def train(self, **changes: Any) -> str:
        """Make a run of random weights, promote it; returns its id."""
        from unirep_feast.pipeline import train

        self.shop.write(**changes)
        run = train(self.shop.parsed()).run
        self.promote(run)
        return run

    def promote(self, run: str) -> None:
        """Let a run serve, as `unirep runs promote` does."""
        self.catalog().promote(run, lambda: point_promoted(self.shop.home, run))

    def catalog(self) -> Catalog:
        return Catalog(self.shop.catalog, create=False)

    def materialize(self, store: Any, *times: str) -> None:
        """Materialize from the first of times, or from 2020 on, to the last."""
        start, end = times if len(times) == 2 else ("2020-01-01", times[0])
        store.materialize(moment(start), moment(end))

    def snapshot(self, run: str, time: str) -> tuple[list[Any], np.ndarray]:
        """Ids and vectors of a snapshot."""
        path = snapshot_path(self.shop.home, run, parse_instant(time))
        ids, vectors = read_vectors(path)
        return ids.to_pylist(), vectors

    def expect(self, store: Any, run: str, time: str) -> None:
        """Every user of a snapshot is served with the vector it has there, to the last bit."""
        from unirep_feast.feature_store.torch_data import online_user_vectors

        ids, vectors = self.snapshot(run, time)
        found = online_user_vectors(store, "shop", ids)
        assert found.mask.all()
        assert found.vectors.numpy().tobytes() == vectors.tobytes()

    def lying_online(self, store: Any, ids: list[Any]) -> tuple[np.ndarray, np.ndarray]:
        """Vectors and mask straight from the online store.

        While a view is being materialized, or was killed in it, Feast itself serves nothing.
        """
        from feast.protos.feast.types.EntityKey_pb2 import EntityKey
        from feast.protos.feast.types.Value_pb2 import Value

        from unirep_feast.feature_store.columns import from_values

        keys = [
            EntityKey(join_keys=["user_id"], entity_values=[Value(int64_val=user)]) for user in ids
        ]
        view = store.get_feature_view("shop")
        rows = store._get_provider().online_read(store.config, view, keys, ["vector"])
        return from_values([(values or {}).get("vector", Value()) for _, values in rows], "vector")

    def intervals(self, store: Any) -> list[tuple[str, str]]:
        """What Feast has recorded, as ISO times."""
        view = store.registry.get_feature_view("shop", self.project, allow_cache=False)
        return [
            tuple(format_instant(microseconds(at)) for at in interval)
            for interval in view.materialization_intervals
        ]

    def recorded(self) -> list[tuple[str, str, str, int]]:
        """What the catalog knows to be online: as-of time, store, view and rows."""
        catalog = self.catalog()
        found = []
        for run in catalog.list_runs():
            lineage = catalog.lineage(run.id)
            times = {one.id: one.as_of for one in lineage.snapshots}
            for one in lineage.materializations:
                if one.status != "finished":
                    continue
                time = format_instant(times[one.snapshot_id])
                found.append((one.id, (time, one.store, one.feature_view, one.rows)))
                assert one.finished_at is not None
                assert one.started_at <= one.finished_at
        return [row for _, row in sorted(found)]

    def stored(self) -> list[Any]:
        """All that lies in the online store, byte by byte."""
        if self.online["type"] == "sqlite":
            with sqlite3.connect(self.folder / self.online["path"]) as connection:
                query = "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name"
                return [
                    connection.execute(f"SELECT * FROM {table} ORDER BY 1, 2").fetchall()
                    for (table,) in connection.execute(query).fetchall()
                ]
        client = redis_client(self.online)
        keys = sorted(client.scan_iter(b"*" + self.project.encode(), count=10_000))
        return [(key, sorted(client.hgetall(key).items())) for key in keys]

    def left_overs(self) -> list[Path]:
        """Files under temporary names."""
        signs = (".tmp", ".lock")
        found = self.shop.home.rglob(".*")
        return [path for path in found if path.suffix in signs and path.name != "train.lock"]

    def feast(self, *arguments: str, env: dict[str, str] | None = None) -> Any:
        """Call the command `feast` in the repo."""
        return subprocess.run(
            [FEAST, *arguments],
            cwd=self.folder,
            env={**os.environ, "FEAST_USAGE": "False", **(env or {})},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )


def redis_client(online: dict[str, Any]) -> Any:
    import redis

    host, port = online["connection_string"].split(",")[0].split(":")
    return redis.Redis(host, int(port))


def moment(time: str) -> Any:
    from datetime import UTC, datetime

    parsed = datetime.fromisoformat(time)
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)


def microseconds(time: Any) -> int:
    from datetime import UTC

    time = time if time.tzinfo else time.replace(tzinfo=UTC)
    return round(time.timestamp() * 1_000_000)


MakeRepo = Callable[..., Repo]


@pytest.fixture
def engine_repo(shop: Any, request: pytest.FixtureRequest) -> Iterator[MakeRepo]:
    """Factory: a repo of the shop with an untrained encoder, on SQLite unless told otherwise."""
    made: list[Repo] = []

    def make(kind: str = "sqlite", **options: Any) -> Repo:
        shop.write(plugin=None, encoder=shop.spec["encoder"] | {"name": "lab"})
        shop.write(objective=None, sampler=None)
        project = "shop"
        online: dict[str, Any] = {"type": "sqlite", "path": "data/online.db"}
        if kind == "redis":
            online = redis_store(request.getfixturevalue("redis_url"))
            project = f"unirep_{uuid.uuid4().hex[:12]}"
        elif kind == "postgres":
            pytest.importorskip("psycopg_pool")
            online = postgres_store(request.getfixturevalue("postgres_url"))
        repo = Repo(shop, online, project=project)
        for name, value in options.items():
            setattr(repo, name, value)
        repo.write()
        made.append(repo)
        return repo

    yield make
    for repo in made:
        if repo.online["type"] == "redis":
            client = redis_client(repo.online)
            keys = list(client.scan_iter(b"*" + repo.project.encode(), count=10_000))
            if keys:
                client.delete(*keys)


def redis_store(url: str) -> dict[str, Any]:
    parts = urlsplit(url)
    connection = f"{parts.hostname}:{parts.port or 6379}"
    if parts.password:
        connection += f",password={parts.password}"
    return {"type": "redis", "connection_string": connection}


def postgres_store(url: str) -> dict[str, Any]:
    parts = urlsplit(url)
    return {
        "type": "postgres",
        "host": parts.hostname,
        "port": parts.port or 5432,
        "database": parts.path.lstrip("/"),
        "db_schema": "public",
        "user": parts.username or "postgres",
        "password": parts.password or "",
        "sslmode": "prefer",
    }


@pytest.fixture(params=["sqlite", "redis"])
def repo(request: pytest.FixtureRequest, engine_repo: MakeRepo) -> Repo:
    """A repo on each of the stores that are written fast."""
    return engine_repo(request.param)


@pytest.fixture(params=["sqlite", "redis", "postgres"])
def any_repo(request: pytest.FixtureRequest, engine_repo: MakeRepo) -> Repo:
    """A repo on each of those and on one that goes through Feast's own writer."""
    return engine_repo(request.param)


def with_events(shop: Any, events: pa.Table) -> None:
    """Add events to the log of the shop."""
    import pyarrow.parquet as pq

    log = pq.read_table(shop.folder / "events.parquet")
    shop.log(pa.concat_tables([log, events.cast(log.schema)]))
