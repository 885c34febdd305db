"""A feature repo with a promoted run and snapshots of made-up vectors, for `online_write.py`."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from measuring import ROOT

REDIS = urlsplit(os.environ.get("UNIREP_TEST_REDIS", "redis://127.0.0.1:6379")).netloc
ENGINE = "unirep_feast.feature_store.engine.UnirepComputeEngine"
TIMES = tuple(datetime(2024, 5, day, tzinfo=UTC) for day in (1, 2))
VIEW = "users"

# The encoder of the tests: what it makes has the wanted shape, and it is never asked to encode.
sys.path.insert(0, str(ROOT / "tests" / "lab"))


def make_run(folder: Path, users: int, width: int) -> None:
    """Make and promote a run of random weights, and two snapshots of it, a day apart.

    The vectors are made up, the files and the catalog are as `unirep encode` leaves them.
    """
    import yaml

    from unirep_feast.pipeline import read_spec, train
    from unirep_feast.pipeline.loading import open_catalog
    from unirep_feast.snapshot import point_promoted, snapshot_path, write_snapshot
    from unirep_feast.testing.world import make_world

    folder.mkdir(parents=True)
    import pyarrow.parquet as pq

    pq.write_table(make_world(users=60, items=30).events, folder / "events.parquet")
    spec_of_run = {
        "name": VIEW,
        "events": {"path": "events.parquet"},
        "encoder": {"name": "lab", "settings": {"dim": width}},
        "training": {"until": "2020-03-01", "device": "cpu"},
        "encode": {"device": "cpu"},
        "storage": "data",
    }
    (folder / "users.yaml").write_text(yaml.safe_dump(spec_of_run))
    spec = read_spec(folder / "users.yaml")
    run = train(spec).run
    catalog = open_catalog(spec)
    for seed, when in enumerate(TIMES):
        moment = int(when.timestamp()) * 1_000_000
        path = snapshot_path(spec.home, run, moment)
        blocks = make_blocks(seed, moment, users, width, spec.encode.block_users)
        written = write_snapshot(path, blocks, "user_id", moment, moment, 1, width, {})
        catalog.add_snapshot(
            run,
            as_of=moment,
            path=str(path.resolve()),
            checksum=written.checksum,
            rows=written.rows,
            num_vectors=1,
            dim=width,
        )
    catalog.promote(run, lambda: point_promoted(spec.home, run))


def make_blocks(seed: int, moment: int, users: int, width: int, block: int) -> Iterator[Any]:
    """Blocks of as many users as `unirep encode` holds at once."""
    import numpy as np
    import pyarrow as pa

    from unirep_feast.snapshot import VectorBlock

    random = np.random.default_rng(seed)
    for start in range(0, users, block):
        ids = np.arange(start, min(users, start + block))
        yield VectorBlock(
            users=pa.array(ids),
            vectors=random.standard_normal((len(ids), width), np.float32),
            history_length=ids % 500,
            last_event=moment - ids * 10**6,
        )


def snapshots(folder: Path) -> list[Path]:
    """The two snapshots, earlier first."""
    return sorted((folder / "data" / VIEW / "snapshots" / "promoted").glob("*.parquet"))


def make_store(folder: Path, made: Path, side: str, online: dict[str, Any], project: str) -> Any:
    """A feature store over the run in `made`: with our engine, or as stock Feast has it."""
    from feast import FeatureStore

    from unirep_feast.feature_store.views import representation

    settings = {
        "project": project,
        "provider": "local",
        "registry": str(folder / "registry.db"),
        "online_store": online,
        "offline_store": {"type": "dask" if side == "dask" else "duckdb"},
        "entity_key_serialization_version": 3,
    }
    if side == "ours":
        settings["batch_engine"] = {"type": ENGINE}
    (folder / "feature_store.yaml").write_text(json.dumps(settings))
    store = FeatureStore(str(folder))
    store.apply(list(representation(made / "users.yaml")))
    return store


def interval(when: datetime) -> tuple[datetime, datetime]:
    """The interval that is materialized; it holds one snapshot, which lies at its end."""
    return when - timedelta(hours=12), when


def checksum_of(backend: str, folder: Path, project: str) -> tuple[str, int]:
    """SHA-256 over all that is stored, and how many rows or keys there are; empties Redis."""
    digest, rows = hashlib.sha256(), 0
    if backend == "sqlite":
        with sqlite3.connect(folder / "online.db") as connection:
            for row in connection.execute(f"SELECT * FROM {project}_{VIEW} ORDER BY 1, 2"):
                digest.update(repr(row).encode())
                rows += 1
        return digest.hexdigest(), rows
    import redis

    client = redis.Redis.from_url(f"redis://{REDIS}")
    keys = sorted(client.scan_iter(b"*" + project.encode(), count=10_000))
    for start in range(0, len(keys), 1000):
        part = keys[start : start + 1000]
        pipe = client.pipeline(transaction=False)
        for key in part:
            pipe.hgetall(key)
        for key, fields in zip(part, pipe.execute(), strict=True):
            name = key.removesuffix(project.encode())  # a project's name is the run's own
            digest.update(repr((name, sorted(fields.items()))).encode())
        client.delete(*part)
    return digest.hexdigest(), len(keys)
