"""From built wheels alone, in a fresh environment: a new plugin, trained, served and fetched.

Nothing of the checkout is on the path, so what the wheels leave out (templates, migrations, a
dependency) is missed here.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONSTRAINTS = ROOT / "constraints.txt"

FETCH = """
import json
import pandas as pd
import unirep_feast
from feast import FeatureStore
from unirep_feast.feature_store.torch_data import online_user_vectors, user_vectors

store = FeatureStore(".")
events = pd.read_parquet("data/events.parquet")
early = events[events["event_timestamp"] < pd.Timestamp("2024-06-01", tz="UTC")]
users = early["user_id"].unique()[:5].tolist()
july = pd.Timestamp("2024-07-01", tz="UTC")
rows = pd.DataFrame({"user_id": [*users, -1], "event_timestamp": july})
then = user_vectors(store, "acme", rows)
now = online_user_vectors(store, "acme", [*users, -1])
print(json.dumps({
    "from": unirep_feast.__file__,
    "then": [list(then.vectors.shape), then.mask.tolist()],
    "now": [list(now.vectors.shape), now.mask.tolist()],
    "moved": bool((then.vectors[:5] != now.vectors[:5]).any()),
}))
"""


class Environment:
    """A fresh virtual environment, and a folder of its own to work in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bin = folder / "venv/bin"
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "UNIREP"))}
        self.env = {**kept, "PATH": f"{self.bin}{os.pathsep}/usr/bin{os.pathsep}/bin"}
        self.run(sys.executable, "-m", "venv", str(folder / "venv"))

    def run(self, *command: str, cwd: str = ".") -> str:
        """Run a command; returns stdout."""
        done = subprocess.run(
            command, cwd=self.folder / cwd, env=self.env, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    def pip(self, *arguments: str) -> None:
        """Install, with the versions that the tests run with."""
        self.run(str(self.bin / "pip"), "install", "--quiet", "-c", str(CONSTRAINTS), *arguments)


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Environment]:
    """The host and one plugin from wheels, torch first as `make install` does."""
    folder = tmp_path_factory.mktemp("wheels")
    wheels = folder / "wheels"
    build = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(wheels))
    subprocess.run([*build, str(ROOT), str(ROOT / "plugins/clue")], check=True)
    environment = Environment(folder)
    environment.pip("torch==2.13.0")
    (host,) = wheels.glob("unirep_feast-*.whl")
    (clue,) = wheels.glob("unirep_feast_clue-*.whl")
    environment.pip(f"{host}[testing]", str(clue))
    yield environment


@pytest.mark.slow
def test_a_new_plugin_goes_from_wheels_to_vectors_in_feast(fresh: Environment) -> None:
    """`plugins new`, its tests, train, encode, apply, materialize, fetch: nothing edited."""
    repo = "unirep-feast-acme/example"

    fresh.run("unirep", "plugins", "new", "acme")
    fresh.pip(str(fresh.folder / "unirep-feast-acme"))
    tested = fresh.run("python", "-m", "pytest", "-q", cwd="unirep-feast-acme")
    checked = fresh.run(
        "pytest", "-q", "--pyargs", "unirep_feast.testing", "--unirep-plugin", "clue",
        "--unirep-set", "encoder.dim=16", "--unirep-set", "encoder.max_events=24",
        "-k", "TestPlugin",
    )  # fmt: skip
    fresh.run("unirep", "data", "synth", "data", "--users", "300", "--seed", "7", cwd=repo)
    until = ("--set", "training.until=2024-06-01")
    trained = json.loads(fresh.run("unirep", "train", "acme.yaml", *until, "--json", cwd=repo))
    fresh.run("unirep", "encode", "acme.yaml", "--as-of", "2024-06-01", cwd=repo)
    fresh.run("feast", "apply", cwd=repo)
    fresh.run("feast", "materialize", "2024-06-01T00:00:00", "2024-12-01T00:00:00", cwd=repo)
    found = json.loads(fresh.run("python", "-c", FETCH, cwd=repo).splitlines()[-1])

    assert " passed" in tested and "failed" not in tested and "skipped" not in tested
    assert " passed" in checked and "failed" not in checked
    assert trained["promoted"]
    assert Path(found["from"]).is_relative_to(fresh.folder / "venv")
    assert found["then"] == found["now"] == [[6, 32], [True] * 5 + [False]]
    assert found["moved"], "a vector as of June equals the one as of December"


@pytest.mark.slow
def test_the_wheel_brings_plugins_of_the_environment_only(fresh: Environment) -> None:
    """The plugin from its wheel is found; those of the checkout are not."""
    listed = json.loads(fresh.run("unirep", "plugins", "list", "--json"))

    assert {one["name"] for one in listed} <= {"clue", "acme"}
    assert all(one["state"] == "ready" for one in listed)
