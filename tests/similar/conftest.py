"""A shop whose vectors were drawn, not trained, and what `unirep similar` answers about it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import Result

from unirep_feast.catalog import Catalog
from unirep_feast.events import TIME_TYPE
from unirep_feast.instants import parse_instant
from unirep_feast.snapshot import (
    ItemBlock,
    VectorBlock,
    point_promoted,
    snapshot_path,
    write_items,
    write_snapshot,
)

EARLY, LATE = "2020-01-01", "2020-06-01"
USERS, ITEMS = 80, 40


@dataclass
class Shop:
    """A folder with a spec, a log, and runs whose vectors were drawn, not trained."""

    folder: Path
    texts: bool = False
    k: int = 2
    d: int = 6
    spec: dict[str, Any] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        return self.folder / "shop.yaml"

    @property
    def home(self) -> Path:
        return self.folder / "data/unirep/shop"

    @property
    def catalog(self) -> Catalog:
        return Catalog(f"sqlite:///{self.folder}/data/unirep/catalog.db")

    def ids(self, kind: str, count: int) -> pa.Array:
        numbers = np.arange(count) + (0 if kind == "user" else 500)
        return pa.array([f"{kind[0]}{n:03d}" for n in numbers] if self.texts else numbers)

    def name(self, kind: str, row: int) -> Any:
        return self.ids(kind, USERS)[row].as_py()

    def write(self) -> None:
        """The spec, a log in which user u had items u … u + 2, and a table of every other item."""
        self.spec = {
            "name": "shop",
            "events": {"path": "events.parquet"},
            "items": {"path": "items.parquet"},
            "plugin": "lab",
        }
        self.path.write_text(yaml.safe_dump(self.spec))
        user = np.repeat(np.arange(USERS), 4)
        item = (user + np.tile([0, 1, 2, 3], USERS)) % ITEMS
        day = np.tile([1, 2, 3, 900], USERS)  # the last one long after every snapshot
        times = parse_instant("2019-12-01") + day * 86_400_000_000
        events = {
            "user_id": self.ids("user", USERS).take(pa.array(user)),
            "item_id": self.ids("item", ITEMS).take(pa.array(item)),
            "event_timestamp": pa.array(times, TIME_TYPE),
        }
        if self.texts:
            events["user_id"] = events["user_id"].dictionary_encode()
        pq.write_table(pa.table(events), self.folder / "events.parquet")
        listed = self.ids("item", ITEMS)[::2]
        titles = [f"Thing {i} [red]" for i in range(0, ITEMS, 2)]
        table = {"item_id": listed, "title": titles, "category": ["things"] * len(titles)}
        pq.write_table(pa.table(table), self.folder / "items.parquet")

    def run(self, run: str) -> None:
        """A finished run, promoted if it is the first."""
        folder = self.home / "runs" / run
        folder.mkdir(parents=True)
        catalog = self.catalog
        catalog.start_run(
            run,
            representation="shop",
            spec="{}",
            spec_hash="0",
            plugins={},
            folder=str(folder),
        )
        catalog.finish_run(run, steps=1, metrics={})
        if catalog.promoted("shop") is None:
            catalog.promote(run, lambda: point_promoted(self.home, run))

    def vectors(self, run: str, time: str, kind: str) -> np.ndarray:
        """(n, K, D) of a kind; other for each run and time."""
        rng = np.random.default_rng([len(run), parse_instant(time) // 10**9, len(kind)])
        shape = (USERS, self.k, self.d) if kind == "user" else (ITEMS, 1, self.d)
        return rng.standard_normal(shape).astype(np.float32)

    def snapshot(self, run: str, time: str, kind: Any = "user") -> None:
        """Write and record a snapshot."""
        as_of, vectors = parse_instant(time), self.vectors(run, time, kind)
        path = snapshot_path(self.home, run, as_of, kind)
        flat, ids = vectors.reshape(len(vectors), -1), self.ids(kind, len(vectors))
        if kind == "user":
            ones = np.ones(len(ids), np.int64)
            block = VectorBlock(ids, flat, ones, ones)
            made = write_snapshot(
                path, [block], "user_id", as_of, as_of, self.k, self.d, metadata={}
            )
        else:
            made = write_items(path, [ItemBlock(ids, flat)], "item_id", as_of, as_of, self.d, {})
        self.catalog.add_snapshot(
            run,
            as_of=as_of,
            path=str(path),
            checksum=made.checksum,
            rows=made.rows,
            num_vectors=vectors.shape[1],
            dim=self.d,
            entity=kind,
        )

    def expected(self, questions: np.ndarray, owners: np.ndarray, merge: str = "max") -> np.ndarray:
        """(n,) float64 cosine scores, pair by pair."""
        q, v = questions.astype(np.float64), owners.astype(np.float64)
        q, v = (one / np.linalg.norm(one, axis=-1, keepdims=True) for one in (q, v))
        best = np.einsum("bqd,nkd->bnqk", q, v).max(axis=(2, 3))
        return best.max(0) if merge == "max" else best.mean(0)


@pytest.fixture(scope="session", name="Shop")
def _shop() -> type[Shop]:
    return Shop


@pytest.fixture(scope="session")
def make_shop() -> Callable[..., Shop]:
    def make(folder: Path, **settings: Any) -> Shop:
        shop = Shop(folder, **settings)
        shop.write()
        shop.run("r1")
        for time in (EARLY, LATE):
            shop.snapshot("r1", time)
            shop.snapshot("r1", time, "item")
        return shop

    return make


@pytest.fixture(params=["int64", "string"])
def shop(
    request: pytest.FixtureRequest, tmp_path: Path, lab: None, make_shop: Callable[..., Shop]
) -> Shop:
    return make_shop(tmp_path, texts=request.param == "string")


@pytest.fixture
def plain(tmp_path: Path, lab: None, make_shop: Callable[..., Shop]) -> Shop:
    return make_shop(tmp_path)


@pytest.fixture(scope="session")
def answer() -> Callable[[Result], Any]:
    def parse(result: Result) -> Any:
        assert result.exit_code == 0, result.stderr
        return json.loads(result.stdout)

    return parse


@pytest.fixture(scope="session")
def assert_best() -> Callable[..., None]:
    """The hits are the best of the scores, in order."""

    def check(found: Any, scores: np.ndarray, ids: pa.Array, left_out: list[int]) -> None:
        scores = scores.copy()
        scores[left_out] = -np.inf
        order = np.argsort(-scores, kind="stable")[: len(found)]
        assert [one["id"] for one in found] == ids.take(pa.array(order)).to_pylist()
        np.testing.assert_allclose([one["score"] for one in found], scores[order], atol=1e-5)

    return check
