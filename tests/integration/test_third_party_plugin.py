"""A stranger's plugin, installed like any other: checked, trained, materialized, fetched."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "third_party_plugin"

FETCH = """
import json
import numpy as np
import pandas as pd
from feast import FeatureStore
from unirep_feast.feature_store.torch_data import online_user_vectors, user_vectors

store = FeatureStore(".")
users = pd.read_parquet("data/users.parquet")["user_id"].tolist()[:5]
when = pd.Timestamp("2024-12-02", tz="UTC")
rows = pd.DataFrame({"user_id": [*users, -1], "event_timestamp": when})
then = user_vectors(store, "decay", rows)
now = online_user_vectors(store, "decay", [*users, -1])
stock = store.get_online_features(["decay:vector"], [{"user_id": users[0]}]).to_dict()
print(json.dumps({
    "shape": list(now.vectors.shape),
    "known": now.mask.tolist(),
    "equal": bool((now.vectors[:-1] == then.vectors[:-1]).all()),
    "stock": bool(np.allclose(stock["vector"][0], now.vectors[0].flatten().numpy())),
    "spread": float(now.vectors[:-1].std(0).max()),
}))
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Run a command beside a copy of the example's repo, with the plugin installed by pip."""
    folder = tmp_path_factory.mktemp("decay")
    site = folder / "site"
    shutil.copytree(EXAMPLE, folder / "plugin", ignore=shutil.ignore_patterns("__pycache__"))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PYTHONPATH": str(site), "PATH": path}

    def call(*command: str) -> str:
        done = subprocess.run(
            command,
            cwd=folder / "plugin/repo",
            env=env,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        return done.stdout

    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site))
    call(*pip, str(folder / "plugin"))
    return call


def test_it_passes_its_own_tests(run: Callable[..., str]) -> None:
    """The compliance kit, half-lives by hand, and a stream that gives the same vectors."""
    told = run(
        *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "../tests"),
        *("--rootdir=..", "--import-mode=importlib"),
    )

    assert " passed" in told and "failed" not in told, told


def test_it_goes_from_a_log_to_vectors_out_of_feast(run: Callable[..., str]) -> None:
    """Trained, encoded by `feast materialize`, and fetched: offline, online and by stock Feast."""
    listed = {one["name"]: one for one in json.loads(run("unirep", "plugins", "list", "--json"))}
    assert (listed["decay"]["distribution"], listed["decay"]["version"]) == ("acme-decay", "2.1.0")

    run("unirep", "data", "synth", "data", "--users", "200", "--items", "150", "--seed", "7")
    trained = json.loads(
        run("unirep", "train", "decay.yaml", "--set", "training.until=2024-06-01", "--json")
    )
    run("feast", "apply")
    run("feast", "materialize", "2024-06-01T00:00:00", "2024-12-01T00:00:00")
    found = json.loads(run(sys.executable, "-c", FETCH).splitlines()[-1])

    assert trained["promoted"] and trained["metrics"]["best_loss"] > 0
    assert found["shape"] == [6, 3 * 16]
    assert found["known"] == [True] * 5 + [False]
    assert found["equal"] and found["stock"]
    assert found["spread"] > 0
