"""Search in the online store, by `retrieve_online_documents_v2` over our views, for real.

PostgreSQL with pgvector comes from the package `pgserver`, Milvus from `milvus-lite`: where one is
not installed its tests are skipped and say so.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from feast import FeatureStore

from unirep_feast.errors import StoreError
from unirep_feast.feature_store.nearest import Nearest, nearest
from unirep_feast.feature_store.views import representation
from unirep_feast.index import Found, exact_search
from unirep_feast.instants import parse_instant
from unirep_feast.snapshot import (
    RUN,
    ItemBlock,
    VectorBlock,
    point_promoted,
    snapshot_path,
    write_interests,
    write_items,
    write_snapshot,
)
from unirep_feast.spec_file import load_spec

T, D = "2024-06-01", 8
USERS, ITEMS = 60, 40

#: How Milvus calls a metric; it is fixed when a collection is made.
MILVUS = {"cosine": "COSINE", "l2": "L2", "inner_product": "IP"}


@pytest.fixture(scope="module")
def pgvector() -> Iterator[dict[str, Any]]:
    """The store config of a PostgreSQL that has pgvector, started for this file."""
    pgserver = pytest.importorskip("pgserver", reason="needs a PostgreSQL with pgvector: pgserver")
    import psycopg

    # Not pytest's folder: it is closed to the user that the server runs as where we are root, and
    # too long a path for a socket.
    server = pgserver.get_server(tempfile.mkdtemp(prefix="unirep-pg-"), cleanup_mode="delete")
    url = server.get_uri()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
    parts = urlsplit(url)
    yield {
        "type": "postgres",
        "host": parse_qs(parts.query)["host"][0],
        "port": 5432,
        "database": parts.path.strip("/"),
        "user": parts.username,
        "password": "",
        "vector_enabled": True,
    }
    server.cleanup()


@pytest.fixture(params=["postgres", "milvus"])
def online(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """An online store that searches vectors."""
    if request.param == "postgres":
        return dict(request.getfixturevalue("pgvector"))
    return milvus(tmp_path)


def milvus(folder: Path) -> dict[str, Any]:
    """The store config of a Milvus in a file."""
    pytest.importorskip("pymilvus", reason="needs pymilvus and milvus-lite")
    pytest.importorskip("milvus_lite", reason="needs milvus-lite")
    return {
        "type": "milvus",
        "path": str(folder / "milvus.db"),
        "embedding_dim": D,
        "vector_enabled": True,
        "index_type": "FLAT",
    }


class Repo:
    """A Feast repo with snapshots of drawn vectors, applied and materialized with stock Feast."""

    def __init__(self, folder: Path, online: dict[str, Any], k: int, metric: str) -> None:
        self.folder, self.online, self.k, self.metric = folder, online, k, metric
        if online["type"] == "milvus":
            online["metric_type"] = MILVUS[metric]
        rng = np.random.default_rng(k)
        self.users = rng.standard_normal((USERS, k, D)).astype(np.float32)
        self.items = rng.standard_normal((ITEMS, 1, D)).astype(np.float32)
        self.query = rng.standard_normal(D).astype(np.float32)
        folder.mkdir()
        self._write_spec()
        self._write_snapshots()
        self._write_config()
        self.store = FeatureStore(str(folder))
        self.store.apply(list(representation(folder / "shop.yaml")))
        start, end = datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 6, 2, tzinfo=UTC)
        self.store.materialize(start, end, feature_views=self.written)

    @property
    def written(self) -> list[str]:
        """The views that are materialized.

        Feast's Milvus store cannot hold the users' own view: it has no column for the time in
        `last_event`, and one width for all vectors.
        """
        views = ["shop_items", "shop_interests"]
        return views if self.online["type"] == "milvus" else [*views, "shop"]

    def search(self, view: str, top: int) -> Nearest:
        """Ask the store for the vectors nearest to the query."""
        return nearest(self.store, view, self.query, top)

    def exact(self, vectors: np.ndarray, top: int) -> Found:
        """The same by exact search."""
        metric: Any = self.metric
        return exact_search(vectors, self.query[None, None], top, metric)[0]

    def _write_spec(self) -> None:
        row = {"user_id": pa.array([0]), "item_id": pa.array([0])}
        row["event_timestamp"] = pa.array([0], pa.timestamp("us", tz="UTC"))
        pq.write_table(pa.table(row), self.folder / "events.parquet")
        view = {"items": True, "metric": self.metric, "dim": D, "per_interest": True}
        spec = {
            "name": "shop",
            "events": {"path": "events.parquet"},
            "plugin": "clue",
            "view": view,
        }
        (self.folder / "shop.yaml").write_text(yaml.safe_dump(spec))

    def _write_snapshots(self) -> None:
        spec = load_spec(self.folder / "shop.yaml")
        as_of, footer = parse_instant(T), {RUN: b"r1"}
        ones = np.ones(USERS, np.int64)
        flat = self.users.reshape(USERS, -1)
        users = snapshot_path(spec.home, "r1", as_of)
        block = VectorBlock(pa.array(np.arange(USERS)), flat, ones, ones)
        write_snapshot(users, [block], "user_id", as_of, as_of, self.k, D, footer)
        items = ItemBlock(pa.array(np.arange(ITEMS) + 500), self.items[:, 0])
        path = snapshot_path(spec.home, "r1", as_of, "item")
        write_items(path, [items], "item_id", as_of, as_of, D, footer)
        path = snapshot_path(spec.home, "r1", as_of, "interest")
        write_interests(path, users, "user_id", "interest", num_vectors=self.k, dim=D)
        point_promoted(spec.home, "r1")

    def _write_config(self) -> None:
        config = {
            "project": "search",
            "provider": "local",
            "registry": "registry.db",
            "offline_store": {"type": "duckdb"},
            "online_store": self.online,
            "entity_key_serialization_version": 3,
        }
        (self.folder / "feature_store.yaml").write_text(yaml.safe_dump(config))


@pytest.mark.parametrize("metric", ["cosine", "l2", "inner_product"])
def test_a_store_finds_items_and_users_as_exact_search_does(
    tmp_path: Path, online: dict[str, Any], metric: str
) -> None:
    """Ids in order, and scores, equal those of exact search; one vector per row."""
    repo = Repo(tmp_path / "r", online, k=1, metric=metric)

    for view, key, vectors, first in (
        ("shop_items", "item_id", repo.items, 500),
        ("shop_interests", "user_id", repo.users, 0),
        ("shop", "user_id", repo.users, 0),
    ):
        if view in repo.written:
            found, wanted = repo.search(view, 12), repo.exact(vectors, 12)
            assert found.keys[key] == (wanted.rows + first).tolist()
            np.testing.assert_allclose(found.scores, wanted.scores, rtol=1e-4, atol=1e-5)


def test_a_store_finds_single_interests_of_users(tmp_path: Path, online: dict[str, Any]) -> None:
    """Several vectors per user: the view keyed (user, interest) is searched, and merged by max."""
    repo = Repo(tmp_path / "r", online, k=3, metric="cosine")

    found = repo.search("shop_interests", 15)

    wanted = repo.exact(repo.users.reshape(-1, 1, D), 15)
    pairs = zip(found.keys["user_id"], found.keys["interest"], strict=True)
    assert list(pairs) == [divmod(row, 3) for row in wanted.rows.tolist()]
    np.testing.assert_allclose(found.scores, wanted.scores, rtol=1e-4, atol=1e-5)
    best = list(dict.fromkeys(found.keys["user_id"]))
    assert best == repo.exact(repo.users, len(best)).rows.tolist()
    if "shop" in repo.written:
        with pytest.raises(StoreError, match=r"its rows have several.*view.per_interest: true"):
            repo.search("shop", 5)


def test_what_feast_itself_returns(tmp_path: Path, online: dict[str, Any]) -> None:
    """The traps that `nearest` is there for: once Feast mends them, it and the notes can go."""
    repo = Repo(tmp_path / "r", online, k=1, metric="cosine")
    wanted = repo.exact(repo.items, 12)

    found = repo.store.retrieve_online_documents_v2(
        features=["shop_items:vector"], query=repo.query.tolist(), top_k=12
    ).to_dict()

    ids = found["item_id"]
    assert ids == (wanted.rows + 500).tolist()
    # The i-th nearest's distance stands at the place of the i-th smallest id.
    distances = np.array(found["distance"])[np.argsort(ids)]
    if online["type"] == "milvus":
        np.testing.assert_allclose(distances, wanted.scores, 1e-4)
        # The query, not what was stored.
        np.testing.assert_allclose(found["vector"], np.tile(repo.query, (12, 1)), 1e-6)
    else:
        np.testing.assert_allclose(1 - distances, wanted.scores, 1e-4, 1e-5)


def test_a_question_that_no_store_can_answer_is_one_line(tmp_path: Path) -> None:
    """A query of another width, and a store that does not search."""
    repo = Repo(tmp_path / "r", milvus(tmp_path), k=1, metric="cosine")
    with pytest.raises(StoreError, match=r"the query is \(3,\).*holds vectors of \(8,\)"):
        nearest(repo.store, "shop_items", np.ones(3, np.float32))
    other = {"type": "sqlite", "path": str(tmp_path / "online.db")}
    repo = Repo(tmp_path / "s", other, k=1, metric="cosine")

    with pytest.raises(StoreError, match="'sqlite' does not search our vectors, postgres and"):
        repo.search("shop_items", 5)
