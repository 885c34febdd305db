"""Plugins with several vectors a user, through every command: log, run, Feast, search."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import Result

from unirep_feast.testing.world import make_items, make_world

BIN = Path(sys.executable).parent

#: Encoder settings of each plugin, small and with the sizes C x d (or K x D) that come out.
PLUGINS: dict[str, dict[str, Any]] = {
    "icl": {"dim": 8, "vectors": 2, "interests": 6},
    "guim": {
        "dim": 8,
        "vectors": 3,
        "layers": 1,
        "item_dim": 8,
        "category_dim": 8,
        "word_dim": 8,
    },
}

#: Until when real logs are trained on, and as of when they are encoded.
REAL = {"online-retail": "2011-11-09", "ml-1m": "2001-01-01"}


@dataclass(frozen=True)
class Repo:
    """A Feast repo with one representation.

    Attributes:
        folder: where feature_store.yaml is.
        as_of: when the snapshot is of.
        vectors, dim: C and d of a user.
        cli: calls `unirep` in this process.
    """

    folder: Path
    as_of: str
    vectors: int
    dim: int
    cli: Callable[..., Result]

    def unirep(self, command: str, *arguments: str) -> Any:
        """Call `unirep COMMAND sets.yaml … --json`; it must succeed. Returns what it told."""
        done = self.cli(command, self.folder / "sets.yaml", *arguments, "--json")
        assert done.exit_code == 0, done.stderr
        return json.loads(done.stdout)

    def feast(self, *arguments: str) -> None:
        """Type a command of Feast in the repo; it must succeed."""
        done = subprocess.run(
            [BIN / "feast", *arguments],
            cwd=self.folder,
            env={**os.environ, "FEAST_USAGE": "False"},
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )
        assert done.returncode == 0, done.stderr


@pytest.fixture(params=list(PLUGINS))
def plugin(request: pytest.FixtureRequest) -> str:
    """The plugin in question."""
    return str(request.param)


MakeRepo = Callable[..., Repo]


@pytest.fixture
def make_repo(tmp_path: Path, plugin: str, cli: Callable[..., Result]) -> MakeRepo:
    """Make a repo over the events and items in a folder."""

    def make(data: Path, as_of: str, **training: Any) -> Repo:
        sizes = write_repo(tmp_path / "repo", plugin, data.resolve(), as_of, training)
        return Repo(tmp_path / "repo", as_of, *sizes, cli)

    return make


def write_repo(
    folder: Path, plugin: str, data: Path, as_of: str, training: dict[str, Any]
) -> tuple[int, int]:
    """Write the repo's three files; returns vectors per user and numbers per vector."""
    folder.mkdir()
    encoder = {**PLUGINS[plugin], "max_events": 20}
    spec = {
        "name": "sets",
        "plugin": plugin,
        "events": {"path": str(data / "events.parquet")},
        "items": {"path": str(data / "items.parquet")},
        "encoder": {"settings": encoder},
        "training": {
            "until": as_of,
            "max_steps": 4,
            "validate_every": 2,
            "device": "cpu",
            "threads": 1,
            **training,
        },
        "encode": {"device": "cpu", "threads": 1},
        "view": {"items": True},
        "storage": "data/unirep",
    }
    (folder / "sets.yaml").write_text(yaml.safe_dump(spec))
    config = {
        "project": "sets",
        "provider": "local",
        "registry": "data/registry.db",
        "offline_store": {"type": "duckdb"},
        "online_store": {"type": "sqlite", "path": "data/online.db"},
        "entity_key_serialization_version": 3,
    }
    (folder / "feature_store.yaml").write_text(yaml.safe_dump(config))
    (folder / "representations.py").write_text(
        "from pathlib import Path\n"
        "from unirep_feast.feature_store.views import representation\n\n"
        'made = representation(Path(__file__).with_name("sets.yaml"))\n'
        "user, source, view, service = made.users\n"
        "item, item_source, item_view, item_service = made.items\n"
    )
    return encoder["vectors"], encoder["dim"]


def test_users_and_items_come_back_from_feast_and_find_each_other(
    tmp_path: Path, make_repo: MakeRepo
) -> None:
    """A small made log: all that `feast` and `unirep` give back is what the encoder made."""
    data = tmp_path / "data"
    data.mkdir()
    pq.write_table(make_world(users=60, items=30).events, data / "events.parquet")
    pq.write_table(make_items(33), data / "items.parquet")

    check(make_repo(data, "2020-03-10", batch_size=16, validation=0.2))


@pytest.mark.slow
@pytest.mark.parametrize("name", list(REAL))
def test_real_logs_go_the_same_way(
    make_repo: MakeRepo, data_dir: Callable[[str], Path], name: str
) -> None:
    """Online Retail and ML-1M, a few steps only: all users and items of the snapshots."""
    check(make_repo(data_dir(name), REAL[name]))


def check(repo: Repo) -> None:
    """Train, encode, promote, apply, materialize, fetch offline and online, search."""
    from feast import FeatureStore

    trained = repo.unirep("train")
    repo.unirep("encode", "--as-of", repo.as_of)
    catalog = f"sqlite:///{repo.folder}/data/unirep/catalog.db"
    promoted = repo.cli("runs", "promote", trained["run"], "--catalog", catalog)
    assert promoted.exit_code == 0, promoted.stderr
    repo.feast("apply")
    repo.feast("materialize", "1990-01-01T00:00:00", f"{repo.as_of}T00:00:00")

    store = FeatureStore(str(repo.folder))
    snapshots = repo.folder / "data/unirep/sets/snapshots/promoted"
    ids = {}
    for view, key, below, width in (
        ("sets", "user_id", "", repo.vectors * repo.dim),
        ("sets_items", "item_id", "items", repo.dim),
    ):
        (path,) = (snapshots / below).glob("*.parquet")
        keys, wanted = read(path, key)
        assert wanted.shape[1] == width and np.isfinite(wanted).all() and wanted.any(1).all()
        assert np.array_equal(offline(store, view, key, keys, repo.as_of), wanted)
        assert np.array_equal(online(store, view, key, keys[:500]), wanted[:500])
        ids[key] = keys

    user = str(ids["user_id"][len(ids["user_id"]) // 2])
    items = repo.unirep("similar", user, "--items")["items"]
    assert {one["id"] for one in items} <= set(ids["item_id"])
    assert any(one["title"] for one in items)
    users = repo.unirep("similar", user)["users"]
    scores = [one["score"] for one in users]
    assert len(scores) == 10 and scores == sorted(scores, reverse=True)
    assert user not in {str(one["id"]) for one in users}


def read(path: Path, key: str) -> tuple[list[Any], np.ndarray]:
    """Ids and vectors of a snapshot, as any parquet reader sees them."""
    table = pq.read_table(path, columns=[key, "vector"], partitioning=None)
    return table[key].to_pylist(), np.array(table["vector"].to_pylist(), np.float32)


def offline(store: Any, view: str, key: str, ids: list[Any], as_of: str) -> np.ndarray:
    """Point-in-time rows of Feast, a day after the snapshot; before it there is nothing."""
    when = pd.Timestamp(as_of, tz="UTC")
    rows = pd.DataFrame({key: ids, "event_timestamp": when + pd.Timedelta(days=1)})
    early = pd.DataFrame({key: ids[:3], "event_timestamp": when - pd.Timedelta(days=1)})
    found = store.get_historical_features(pd.concat([rows, early]), [f"{view}:vector"]).to_df()
    before = found["event_timestamp"] < when
    assert before.sum() == 3 and found.loc[before, "vector"].isna().all()
    by_id = found[~before].set_index(key)["vector"]
    return np.stack([np.asarray(by_id[one], np.float32) for one in ids])


def online(store: Any, view: str, key: str, ids: list[Any]) -> np.ndarray:
    """What Feast serves."""
    answer = store.get_online_features([f"{view}:vector"], {key: ids}).to_dict()
    return np.array(answer["vector"], np.float32)
