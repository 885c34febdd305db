"""What the tests of the host share: a small plugin, a small shop, and `unirep` itself."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Tests are small and run beside each other: more threads only wait for one another. Set before
# torch is imported, and inherited by every process that a test starts.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import CliRunner, Result

LAB = Path(__file__).parent / "lab"
UNIREP = Path(sys.executable).parent / "unirep"


@pytest.fixture
def fresh_plugins() -> Iterator[None]:
    """Let plugins be looked for anew, now and afterwards."""
    from unirep_feast.plugins import load_plugins

    load_plugins.cache_clear()
    yield
    load_plugins.cache_clear()


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch, fresh_plugins: None) -> None:
    """Install the lab plugin, in this process and in those it starts."""
    monkeypatch.syspath_prepend(str(LAB))
    monkeypatch.setenv("PYTHONPATH", str(LAB))


@dataclass
class Shop:
    """A folder with an event log and a spec for the lab plugin."""

    folder: Path
    spec: dict[str, Any] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        """The spec file."""
        return self.folder / "shop.yaml"

    @property
    def home(self) -> Path:
        """Where runs and snapshots go."""
        return self.folder / "data/unirep/shop"

    @property
    def catalog(self) -> str:
        """URL of the catalog."""
        return f"sqlite:///{self.folder}/data/unirep/catalog.db"

    def write(self, **changes: Any) -> Path:
        """Write the spec; ``training__max_steps=3`` changes a nested key."""
        for key, value in changes.items():
            *parents, last = key.split("__")
            node = self.spec
            for parent in parents:
                node = node.setdefault(parent, {})
            node[last] = value
        self.path.write_text(yaml.safe_dump(self.spec))
        return self.path

    def log(self, events: pa.Table) -> None:
        """Replace the event log."""
        pq.write_table(events, self.folder / "events.parquet")

    def parsed(self) -> Any:
        """The spec as the package reads it."""
        from unirep_feast.pipeline import read_spec

        return read_spec(self.path)

    def runs(self) -> list[Any]:
        """The catalog's runs, latest first."""
        from unirep_feast.catalog import Catalog

        if not (self.folder / "data/unirep/catalog.db").exists():
            return []
        return list(Catalog(self.catalog, create=False).list_runs("shop"))

    def logged(self, kind: str) -> int:
        """How many records of a kind have been logged, over all runs."""
        files = (self.home / "runs").glob("*/log.jsonl")
        lines = [line for file in files for line in file.read_text().splitlines()]
        return sum(f'"kind": "{kind}"' in line for line in lines)

    def wait_for(self, condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
        """Wait until something is there; a process that ends without it fails the test."""
        deadline = time.monotonic() + 240
        while not condition():
            if process.poll() is not None:
                pytest.fail(f"the process ended: {process.communicate()[1]}")
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def weights(self, run: str) -> dict[str, Any]:
        """Tensors of the final checkpoint of a run."""
        from unirep_feast.checkpoint import open_checkpoint

        checkpoint = open_checkpoint(self.home / "runs" / run / "checkpoints" / "final")
        return {
            f"{group}.{name}": value
            for group in ("encoder", "objective")
            for name, value in checkpoint.tensors(group).items()
        }

    def assert_nothing_half_written(self) -> None:
        """No temporary name, and no parquet that cannot be read."""
        assert [path for path in self.folder.rglob("*") if path.name.endswith(".tmp")] == []
        for path in (self.folder / "data").rglob("*.parquet"):
            pq.read_metadata(path)


@pytest.fixture
def shop(tmp_path: Path, lab: None) -> Shop:
    """A shop of 60 customers whose spec trains the lab plugin for six steps."""
    from unirep_feast.testing.world import make_world

    folder = tmp_path / "shop"
    folder.mkdir()
    shop = Shop(
        folder,
        {
            "name": "shop",
            "events": {"path": "events.parquet"},
            "plugin": "lab",
            "encoder": {"settings": {"dropout": 0.1}},
            "training": {
                "until": "2020-03-01",
                "batch_size": 16,
                "max_steps": 6,
                "epochs": None,
                "validation": 0.2,
                "validate_every": 2,
                "checkpoint_every": 2,
                "log_every": 1,
                "device": "cpu",
                "threads": 1,
            },
            "encode": {"cells": 256, "device": "cpu", "threads": 1},
        },
    )
    shop.log(make_world(users=60, items=30).events)
    shop.write()
    return shop


@pytest.fixture
def cli() -> Callable[..., Result]:
    """Call `unirep` in this process: quick, with stdout and stderr apart."""
    from unirep_feast.cli import main

    def call(*arguments: Any) -> Result:
        result = CliRunner().invoke(main, [str(argument) for argument in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return call


@pytest.fixture
def unirep() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Call the installed `unirep` executable."""

    def call(
        *arguments: Any, cwd: Path | None = None, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [UNIREP, *map(str, arguments)],
            cwd=cwd,
            env={**os.environ, **(env or {})},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    return call


@pytest.fixture
def refusal() -> Callable[[Result], str]:
    """Check that a call ended in exit code 1 and one line of error; returns the line."""

    def check(result: Result | subprocess.CompletedProcess[str]) -> str:
        code = getattr(result, "exit_code", None)
        code = result.returncode if code is None else code
        lines = result.stderr.strip().splitlines()
        errors = [line for line in lines if line.startswith("Error:")]
        assert code == 1, result.stderr
        assert "Traceback" not in result.stderr
        assert len(errors) == 1 and lines[-1] == errors[0], result.stderr
        return errors[0]

    return check
