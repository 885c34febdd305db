"""A baseline, and `universal` with its blocks: trained, encoded, through Feast, taken apart."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml
from feast import FeatureStore

from unirep_feast.errors import StoreError
from unirep_feast.feature_store.blocks import blocks_of, take_block
from unirep_feast.feature_store.torch_data import online_user_vectors, user_vectors
from unirep_feast.feature_store.views import BLOCKS_TAG
from unirep_feast.snapshot import BLOCKS, read_vectors

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
UNTIL, LATER = "2024-06-01", "2024-12-01"


def run(folder: Path, *command: str) -> str:
    """Type a command in the repo; it must succeed. Returns stdout."""
    done = subprocess.run(
        [BIN / command[0], *command[1:]],
        cwd=folder,
        env={**os.environ, "FEAST_USAGE": "False", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A feature repo with a baseline and the shipped `universal`, encoded and materialized."""
    folder = tmp_path_factory.mktemp("repo")
    (folder / "feature_store.yaml").write_text(
        (ROOT / "feature_repo" / "feature_store.yaml").read_text()
    )
    run(folder, "unirep", "data", "synth", "data", "--users", "120", "--seed", "7")
    common = {
        "events": {"path": "data/events.parquet"},
        "items": {"path": "data/items.parquet"},
    }
    training = {"until": UNTIL, "device": "cpu", "threads": 1}
    tfidf = {
        "name": "tfidf",
        "encoder": {"name": "baselines.tfidf", "settings": {"dim": 8}},
        "training": training,
    }
    universal = yaml.safe_load((ROOT / "examples/evaluation/universal.yaml").read_text())
    universal["training"] |= training
    sizes: dict[str, dict[str, Any]] = {
        "lifetime": {"interests": 10, "anchors": 2, "dim": 4, "item_dim": 4},
        "interests": {"dim": 8},
        "taste": {"dim": 6},
        "factors": {"dim": 5},
    }
    for member in universal["encoder"]["settings"]["members"]:
        member["encoder"].setdefault("settings", {}).update(sizes.get(member["name"], {}))
        if "training" in member:
            member["training"] |= {"max_steps": 4, "batch_size": 16}
    for spec in (tfidf, universal):
        (folder / f"{spec['name']}.yaml").write_text(yaml.safe_dump({**spec, **common}))
    (folder / "representations.py").write_text(
        "from unirep_feast.feature_store.views import representation\n"
        'user, source, view, service = representation("tfidf.yaml")\n'
        '_, source2, view2, service2 = representation("universal.yaml")\n'
    )
    for name in ("tfidf", "universal"):
        run(folder, "unirep", "train", f"{name}.yaml")
        run(folder, "unirep", "encode", f"{name}.yaml", "--as-of", UNTIL)
    run(folder, "feast", "apply")
    run(folder, "feast", "materialize", f"{UNTIL}T00:00:00", f"{LATER}T00:00:00")
    return folder


def snapshot(repo: Path, name: str, when: str) -> Path:
    (path,) = (repo / "data/unirep" / name / "snapshots/promoted").glob(f"{when.replace('-', '')}*")
    return path


@pytest.mark.parametrize("name", ["tfidf", "universal"])
def test_vectors_are_fetched_as_they_were_made(repo: Path, name: str) -> None:
    """Point-in-time from the snapshot of then, online from the latest."""
    store = FeatureStore(str(repo))
    for when, later in ((UNTIL, False), (LATER, True)):
        ids, vectors = read_vectors(snapshot(repo, name, when))
        rows = pd.DataFrame(
            {
                "user_id": ids.to_pylist(),
                "event_timestamp": pd.Timestamp(when, tz="UTC") + pd.Timedelta("1h"),
            }
        )

        found = user_vectors(store, name, rows)
        assert bool(found.mask.all())
        assert np.array_equal(found.vectors.numpy(), vectors)
        if later:
            online = online_user_vectors(store, name, ids.to_pylist())
            assert np.array_equal(online.vectors.numpy(), vectors)


def test_universal_names_its_blocks(repo: Path) -> None:
    """In the checkpoint's order, in tags and footers, without a gap."""
    view = FeatureStore(str(repo)).get_feature_view("universal")
    blocks = blocks_of(view)

    spec = yaml.safe_load((ROOT / "examples/evaluation/universal.yaml").read_text())
    assert list(blocks) == [each["name"] for each in spec["encoder"]["settings"]["members"]]
    assert list(blocks)[:4] == ["lifetime", "future", "interests", "rhythm"]
    ends = [0, *(stop for _, stop in blocks.values())]
    assert [start for start, _ in blocks.values()] == ends[:-1]
    width = pq.read_table(snapshot(repo, "universal", LATER))["vector"][0]
    assert ends[-1] == len(width)
    assert {name: list(place) for name, place in blocks.items()} == json.loads(
        view.tags[BLOCKS_TAG]
    )
    footer = pq.read_schema(snapshot(repo, "universal", UNTIL)).metadata
    assert json.loads(footer[BLOCKS]) == json.loads(view.tags[BLOCKS_TAG])


def test_a_block_is_cut_out_by_name(repo: Path) -> None:
    """Of tensors and of arrays, online and of the past."""
    store = FeatureStore(str(repo))
    view = store.get_feature_view("universal")
    ids, vectors = read_vectors(snapshot(repo, "universal", LATER))
    start, stop = blocks_of(view)["taste"]

    online = online_user_vectors(store, view, ids.to_pylist())

    assert stop - start == 6
    cut = take_block(view, online.vectors, "taste")
    assert np.array_equal(cut.numpy(), vectors[:, start:stop])
    assert np.shares_memory(cut.numpy(), online.vectors.numpy())
    assert np.array_equal(take_block(view, vectors, "taste"), vectors[:, start:stop])


def test_time_alone_moves_the_rhythm_and_nothing_else(repo: Path) -> None:
    """Half a year later users without a new event have another rhythm, and the same taste."""
    view = FeatureStore(str(repo)).get_feature_view("universal")
    tables = [pq.read_table(snapshot(repo, "universal", when)) for when in (UNTIL, LATER)]
    frames = [table.to_pandas().set_index("user_id") for table in tables]
    both = frames[0].join(frames[1], rsuffix="_later", how="inner")
    quiet = both[both.last_event == both.last_event_later]
    assert len(quiet) > 0
    before, after = (np.stack(quiet[column]) for column in ("vector", "vector_later"))

    for name in ("lifetime", "taste", "factors"):
        one, two = (take_block(view, vectors, name) for vectors in (before, after))
        assert np.allclose(one, two, atol=1e-5)
    one, two = (take_block(view, vectors, "rhythm") for vectors in (before, after))
    assert (np.abs(one - two).max(axis=1) > 0.1).all()


@pytest.mark.parametrize(
    ("view", "name", "message"),
    [
        ("universal", "mood", "has no block 'mood'; found lifetime, future, interests, rhythm"),
        ("tfidf", "taste", "has no block 'taste'; found none: its vectors are of one piece"),
    ],
)
def test_an_unknown_block_is_one_line(repo: Path, view: str, name: str, message: str) -> None:
    """That names the blocks there are."""
    found = FeatureStore(str(repo)).get_feature_view(view)

    with pytest.raises(StoreError, match=message):
        take_block(found, np.zeros((1, 1000), np.float32), name)


def test_vectors_of_another_width_are_refused(repo: Path) -> None:
    """They are of another run, and its blocks lie elsewhere."""
    view = FeatureStore(str(repo)).get_feature_view("universal")

    with pytest.raises(StoreError, match="these vectors have 9 numbers: of another run"):
        take_block(view, np.zeros((1, 9), np.float32), "factors")


def test_what_changes_with_time_is_not_carried_over(repo: Path) -> None:
    """`encode --incremental` refuses a concatenation with recency in it."""
    done = subprocess.run(
        [BIN / "unirep", "encode", "universal.yaml", "--as-of", "2024-11-01", "--incremental"],
        cwd=repo,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )

    assert done.returncode == 1
    assert "vectors of encoder 'baselines.concat' change with the as-of time alone" in done.stderr
