"""The shipped feature repo, as one types its commands: our engine, and stock Feast instead."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml

from unirep_feast.catalog import Catalog

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
START, END = "2024-06-01T00:00:00", "2024-12-01T00:00:00"
TRAINING = {"until": "2024-06-01", "max_steps": 4, "epochs": None, "validate_every": 4}
KEYS = {
    "purchases_clue": ["user_id"],
    "purchases_clue_items": ["item_id"],
    "purchases_clue_interests": ["user_id", "interest"],
}


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Type a command in the repo; it must succeed."""
    done = subprocess.run(
        [BIN / command[0], *command[1:]],
        cwd=folder,
        env={**os.environ, "FEAST_USAGE": "False"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done


def stored(folder: Path) -> dict[str, list[Any]]:
    """All that lies online, byte by byte, by table."""
    with sqlite3.connect(folder / "data/online_store.db") as connection:
        names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        return {
            name: connection.execute(f"SELECT * FROM {name} ORDER BY 1, 2").fetchall()
            for (name,) in names.fetchall()
        }


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """A copy of feature_repo/ with a synthetic log, a training of four steps, and interests too."""
    folder = tmp_path / "feature_repo"
    ignored = shutil.ignore_patterns("data", "__pycache__")
    shutil.copytree(ROOT / "feature_repo", folder, ignore=ignored)
    run(folder, "unirep", "data", "synth", "data", "--users", "120", "--seed", "7")
    path = folder / "purchases_clue.yaml"
    spec = yaml.safe_load(path.read_text())
    assert spec["view"]["items"] is True
    spec["training"] |= TRAINING
    spec["encoder"]["settings"] |= {"dim": 16, "max_events": 10}
    spec["view"]["per_interest"] = True
    path.write_text(yaml.safe_dump(spec, sort_keys=False))
    return folder


def test_apply_and_materialize_alone_fill_both_stores(repo: Path) -> None:
    """After training, `feast apply && feast materialize START END`, and nothing else, fills offline
    and online for users, items and interests. Taking the batch_engine lines away leaves a repo that
    stock Feast materializes to the same bytes."""
    run(repo, "unirep", "train", "purchases_clue.yaml")
    config = repo / "feature_store.yaml"
    assert "batch_engine" in yaml.safe_load(config.read_text())

    run(repo, "feast", "apply")
    run(repo, "feast", "materialize", START, END)

    ours = stored(repo)
    assert set(ours) == {f"purchases_{view}" for view in KEYS}
    snapshots = repo / "data/unirep/purchases_clue/snapshots/promoted"
    files = {
        view: pq.read_table(snapshots / below / "20241201T000000Z.parquet")
        for view, below in zip(KEYS, ("", "items", "interests"), strict=True)
    }
    for view, table in files.items():
        keys = {row[0] for row in ours[f"purchases_{view}"]}
        assert len(keys) == table.num_rows > 0
    check_offline(repo, files)
    catalog = Catalog(f"sqlite:///{repo}/data/unirep/catalog.db", create=False)
    (only,) = catalog.list_runs("purchases_clue")
    written = catalog.lineage(only.id).materializations
    assert {one.feature_view: one.rows for one in written} == {
        f"purchases/{view}": table.num_rows for view, table in files.items()
    }

    text = config.read_text()
    head, line, rest = text.partition("batch_engine:\n")
    assert line and all(each.startswith(" ") for each in rest.splitlines())
    config.write_text(head)
    assert "batch_engine" not in yaml.safe_load(config.read_text())
    for name in ("online_store.db", "registry.db"):
        (repo / "data" / name).unlink()
    run(repo, "feast", "apply")
    run(repo, "feast", "materialize", START, END)

    assert stored(repo) == ours


def check_offline(repo: Path, files: dict[str, Any]) -> None:
    """Point-in-time rows of every view hold the vectors of the snapshot, to the last bit."""
    from feast import FeatureStore

    store = FeatureStore(str(repo))
    for view, table in files.items():
        rows = table.select(KEYS[view]).to_pandas()
        rows["event_timestamp"] = pd.Timestamp("2024-12-05", tz="UTC")
        found = store.get_historical_features(rows, [f"{view}:vector"]).to_df()
        assert len(found) == table.num_rows
        both = found.merge(table.select([*KEYS[view], "vector"]).to_pandas(), on=KEYS[view])
        assert len(both) == table.num_rows
        assert all(
            list(one) == list(other)
            for one, other in zip(both["vector_x"], both["vector_y"], strict=True)
        )
