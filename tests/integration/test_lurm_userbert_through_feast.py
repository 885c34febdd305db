"""lurm and userbert end to end, from a log to Feast and back, by the real commands."""

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
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import yaml

from unirep_feast.events import TIME_TYPE
from unirep_feast.instants import MICROSECONDS_PER_DAY, parse_instant
from unirep_feast.testing.world import make_items, make_world

BIN = Path(sys.executable).parent

#: Encoder settings for a made log, and how many numbers a user then has.
SMALL: dict[str, tuple[dict[str, Any], int]] = {
    "lurm": ({"item_dim": 8, "item_steps": 5, "interests": 6, "anchors": 10, "dim": 4}, 40),
    "userbert": ({"preset": "naml", "dim": 8, "query": 4, "max_events": 20}, 8),
}

#: For real logs: the paper's 10 anchors x 128 on few interests, a small user model.
LARGE: dict[str, tuple[dict[str, Any], int]] = {
    "lurm": ({"interests": 500, "item_steps": 50, "item_batch": 128}, 1280),
    "userbert": ({"dim": 32, "heads": 4, "max_events": 30}, 32),
}

#: Until when real logs are trained on, as of when they are encoded; where lurm's items come from.
REAL = {
    "ml-1m": ("2001-01-01", {"text": {"categories": True}}),
    "online-retail": ("2011-11-09", {}),
    "amazon-grocery": ("2014-01-01", {"items": "id"}),
}

#: Batch, cut-off and steps of the small trainings here.
TRAINING = {"batch_size": 64, "validate_every": 4, "device": "cpu", "threads": 1}


@dataclass(frozen=True)
class Repo:
    """A Feast repo whose one representation is ``users``; commands are typed in its folder."""

    folder: Path

    def write(self, plugin: str, data: Path, until: str, steps: int, **parts: Any) -> None:
        """Write the spec, the view and the store."""
        spec = {
            "name": "users",
            "plugin": plugin,
            "events": {"path": str(data / "events.parquet")},
            "training": {**TRAINING, "until": until, "max_steps": steps},
            "encode": {"device": "cpu", "threads": 1},
            "storage": "data/unirep",
            **parts,
        }
        if (data / "items.parquet").exists():
            spec["items"] = {"path": str(data / "items.parquet")}
        self.folder.mkdir(exist_ok=True)
        (self.folder / "users.yaml").write_text(yaml.safe_dump(spec))
        store = {
            "project": "single",
            "provider": "local",
            "registry": "data/registry.db",
            "offline_store": {"type": "duckdb"},
            "online_store": {"type": "sqlite", "path": "data/online.db"},
            "entity_key_serialization_version": 3,
        }
        (self.folder / "feature_store.yaml").write_text(yaml.safe_dump(store))
        (self.folder / "representations.py").write_text(
            "from pathlib import Path\n"
            "from unirep_feast.feature_store.views import representation\n\n"
            'made = representation(Path(__file__).with_name("users.yaml"))\n'
            "user, source, view, service = made.users\n"
        )

    def type(self, *command: str) -> str:
        """Type a command; it must succeed. Returns what it printed."""
        done = subprocess.run(
            [BIN / command[0], *command[1:]],
            cwd=self.folder,
            env={**os.environ, "FEAST_USAGE": "False", "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=1800,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def train(self, spec: str = "users.yaml") -> dict[str, Any]:
        """`unirep train`; returns what it tells."""
        told: dict[str, Any] = json.loads(self.type("unirep", "train", spec, "--json"))
        return told


@pytest.fixture(params=list(SMALL))
def plugin(request: pytest.FixtureRequest) -> str:
    """The plugin in question."""
    return str(request.param)


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    """An empty repo."""
    return Repo(tmp_path / "repo")


@pytest.fixture
def made_log(tmp_path: Path) -> Path:
    """Events and items of a made world."""
    folder = tmp_path / "data"
    folder.mkdir()
    pq.write_table(make_world(users=60, items=30).events, folder / "events.parquet")
    pq.write_table(make_items(33), folder / "items.parquet")
    return folder


def test_a_made_log_goes_to_feast_and_back(repo: Repo, plugin: str, made_log: Path) -> None:
    """Offline and online, users have the vectors that were encoded, to the last bit."""
    settings, numbers = SMALL[plugin]
    repo.write(plugin, made_log, "2020-03-10", 4, encoder={"settings": settings})
    run = repo.train()["run"]

    assert check(repo, run, "2020-03-10", numbers) > 30


@pytest.mark.slow
@pytest.mark.parametrize("name", list(REAL))
def test_real_logs_go_the_same_way(
    repo: Repo, plugin: str, data_dir: Callable[[str], Path], name: str
) -> None:
    """1,280 numbers from lurm, of everybody with an event, after a few steps of training."""
    until, items = REAL[name]
    settings, numbers = LARGE[plugin]
    settings = {**settings, **(items if plugin == "lurm" else {})}
    repo.write(plugin, data_dir(name), until, 12, encoder={"settings": settings})
    run = repo.train()["run"]
    events = pq.read_table(
        data_dir(name) / "events.parquet", columns=["user_id", "event_timestamp"]
    )
    cut = pa.scalar(parse_instant(until), TIME_TYPE).cast(events["event_timestamp"].type)
    past = events.filter(pc.less(events["event_timestamp"], cut))

    assert check(repo, run, until, numbers) == pc.count_distinct(past["user_id"]).as_py()


def test_clicks_fine_tune_a_pre_trained_run(repo: Repo, made_log: Path) -> None:
    """`init_from` another run of the CLI, on a table of impressions; its vectors go to Feast."""
    events = pq.read_table(made_log / "events.parquet")
    items = pq.read_table(made_log / "items.parquet")["item_id"].to_pylist()
    drawn = np.random.default_rng(0).choice(items, len(events)).tolist()
    shown = {
        "user_id": pa.concat_arrays([events["user_id"].combine_chunks()] * 2),
        "item_id": pa.array(
            events["item_id"].to_pylist() + drawn, events["item_id"].type, from_pandas=True
        ),
        "event_timestamp": pa.concat_arrays([events["event_timestamp"].combine_chunks()] * 2),
        "clicked": pa.array([1] * len(events) + [0] * len(events)),
    }
    pq.write_table(pa.table(shown), made_log / "shown.parquet")
    encoder = {"settings": SMALL["userbert"][0]}

    tuned = fine_tuned(repo, made_log, "2020-03-10", 4, encoder, {})
    assert check(repo, tuned["run"], "2020-03-10", 8) > 30


@pytest.mark.slow
def test_clicks_of_mind_small(repo: Repo, tmp_path: Path, data_dir: Callable[[str], Path]) -> None:
    """Impressions of five days; histories have an order and are given times before them."""
    folder = tmp_path / "mind"
    folder.mkdir()
    _mind(data_dir("mind-small"), folder)
    settings = {"preset": "gru4rec", "dim": 32, "max_events": 30}
    labels = {
        "label": "event_type",
        "clicked": "impression_click",
        "skipped": "impression_skip",
    }

    tuned = fine_tuned(repo, folder, "2019-11-14", 60, {"settings": settings}, labels)
    assert 0 <= tuned["metrics"]["test_auc"] <= 1, tuned["metrics"]
    assert check(repo, tuned["run"], "2019-11-14", 32) > 4_500


def fine_tuned(
    repo: Repo, data: Path, until: str, steps: int, encoder: Any, labels: dict[str, str]
) -> dict[str, Any]:
    """Pre-train, then fine-tune what came of it on data/shown.parquet."""
    repo.write("userbert", data, until, steps, encoder=encoder)
    first = repo.train()["run"]
    table = {"path": str(data / "shown.parquet"), "negatives": 4, **labels}
    parts = {
        "encoder": {"name": "userbert", **encoder},
        "objective": {"name": "userbert.ctr"},
        "sampler": {"name": "userbert.ctr", "settings": table},
    }
    repo.write("userbert", data, until, steps, **parts)
    spec = yaml.safe_load((repo.folder / "users.yaml").read_text())
    spec["training"] |= {"init_from": first, "test": 0.15}
    (repo.folder / "users.yaml").write_text(yaml.safe_dump(spec))
    return repo.train()


def check(repo: Repo, run: str, as_of: str, numbers: int) -> int:
    """Encode, promote, apply, materialize, fetch offline and online; returns how many users."""
    from feast import FeatureStore

    repo.type("unirep", "encode", "users.yaml", "--as-of", as_of, "--run", run)
    catalog = "sqlite:///data/unirep/catalog.db"
    repo.type("unirep", "runs", "promote", run, "--catalog", catalog)
    repo.type("feast", "apply")
    repo.type("feast", "materialize", "1990-01-01T00:00:00", f"{as_of}T00:00:00")
    (path,) = (repo.folder / "data/unirep/users/snapshots/promoted").glob("*.parquet")
    table = pq.read_table(path, columns=["user_id", "vector"], partitioning=None)
    users = table["user_id"].to_pylist()
    wanted = np.array(table["vector"].to_pylist(), np.float32)
    assert wanted.shape == (len(users), numbers) and np.isfinite(wanted).all()
    assert wanted.any(1).all()

    store = FeatureStore(str(repo.folder))
    when = pd.Timestamp(as_of, tz="UTC")
    later = pd.DataFrame({"user_id": users, "event_timestamp": when + pd.Timedelta(days=1)})
    early = pd.DataFrame({"user_id": users[:3], "event_timestamp": when - pd.Timedelta(days=1)})
    found = store.get_historical_features(pd.concat([later, early]), ["users:vector"]).to_df()
    before = found["event_timestamp"] < when
    assert before.sum() == 3 and found.loc[before, "vector"].isna().all()
    offline = found[~before].set_index("user_id")["vector"]
    assert np.array_equal(np.stack([offline[user] for user in users]), wanted)

    some = users[:: max(len(users) // 200, 1)]
    answer = store.get_online_features(["users:vector"], {"user_id": some}).to_dict()
    online = np.array(answer["vector"], np.float32)
    assert np.array_equal(online, wanted[:: max(len(users) // 200, 1)])
    return len(users)


def _mind(data: Path, folder: Path) -> None:
    """Clicks as a log, impressions as a table; histories spread over the four weeks before."""
    table = pq.read_table(data / "events.parquet")
    history = pc.equal(table["event_type"], "history_click")
    read = table.filter(history).sort_by([("user_id", "ascending"), ("seq_pos", "ascending")])
    user = read["user_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    counts = np.bincount(user)
    place = np.arange(len(user)) - (np.cumsum(counts) - counts)[user]
    span = 28 * MICROSECONDS_PER_DAY
    when = parse_instant("2019-11-09") - span + (place + 0.5) / counts[user] * span
    columns = ["user_id", "item_id", "event_timestamp"]
    times = pa.array(when.astype(np.int64)).cast(TIME_TYPE)
    read = pa.table({**{name: read[name] for name in columns[:2]}, columns[2]: times})
    shown = table.filter(pc.invert(history))
    clicks = shown.filter(pc.equal(shown["event_type"], "impression_click")).select(columns)
    log = pa.concat_tables([read, clicks.cast(read.schema)])
    pq.write_table(log, folder / "events.parquet")
    pq.write_table(shown, folder / "shown.parquet")
