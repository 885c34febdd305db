"""`unirep data synth`."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from unirep_feast.cli import data, main
from unirep_feast.synthetic import World


def run(*arguments: Any) -> Result:
    return CliRunner().invoke(main, ["data", "synth", *map(str, arguments)])


def test_synth_writes_a_world_and_says_so(tmp_path: Path) -> None:
    """One line on stdout, nothing on stderr where it is no terminal, the files in place."""
    result = run(tmp_path / "w", "--users", 200, "--items", 30, "--days", 90, "--seed", 4)

    assert result.exit_code == 0
    assert result.stderr == ""
    assert result.stdout.count("\n") == 1
    assert "200 users" in result.stdout
    assert "from 2023-01-" in result.stdout
    assert len(pq.read_table(tmp_path / "w" / "users.parquet")) == 200


def test_synth_json_is_the_report(tmp_path: Path) -> None:
    """With --json stdout is one object with the counts of the files."""
    arguments = ("--users", 100, "--string-ids", "--start", "2020-02-28", "--days", 2, "--json")
    report = json.loads(run(tmp_path, *arguments).stdout)

    assert report["events"] == pq.read_metadata(tmp_path / "events.parquet").num_rows
    assert report["users"] == 100
    assert report["first_event"] >= "2020-02-28T00:00"
    assert report["last_event"] < "2020-03-01"


def test_synth_refuses_in_one_line(tmp_path: Path) -> None:
    """Wrong settings and a folder in use end in one line and exit code 1."""
    (tmp_path / "mine.txt").write_text("")
    for result, problem in (
        (run(tmp_path), "holds 'mine.txt'"),
        (run(tmp_path / "w", "--users", 0, "--churn", 1), "2 problems"),
        (run(tmp_path / "w", "--items", 0), "items"),
        (run(tmp_path / "w", "--days", 0), "at least one day"),
        (run(tmp_path / "w", "--start", "soon"), "wanted an ISO date"),
    ):
        assert result.exit_code == 1
        assert problem in result.stderr
        assert result.stderr.count("\n") == 1
        assert result.stdout == ""
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]


def test_overwrite_replaces_the_world(tmp_path: Path) -> None:
    """A world is replaced with --overwrite only, and the refusal names it."""
    assert run(tmp_path, "--users", 50).exit_code == 0
    refused = run(tmp_path, "--users", 60)
    assert refused.exit_code == 1
    assert "--overwrite" in refused.stderr
    assert run(tmp_path, "--users", 60, "--overwrite").exit_code == 0

    assert len(pq.read_table(tmp_path / "users.parquet")) == 60


def test_defaults_are_those_of_the_world() -> None:
    """What --help shows as a default is what the settings model has."""
    defaults = {option.name: option.default for option in data.synth.params}
    shared = set(defaults) & set(World.model_fields)

    assert shared >= {"users", "items", "events_per_user", "drift", "churn", "seed"}
    for name in shared - {"start", "categories", "string_ids"}:
        assert defaults[name] == World.model_fields[name].default, name
    assert World().days == defaults["days"]
    assert "default: 40" in (data.synth.get_help(data.synth.make_context("synth", ["x"])))
    assert World().categories == 40
    assert inspect.getdoc(data.synth.callback)


def test_bar_waits_for_long_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bar opens after two seconds, not before, and is told every step from then on."""
    from contextlib import ExitStack, contextmanager

    from unirep_feast import progress

    shown: list[tuple[int, int, str]] = []

    @contextmanager
    def bar(label: str) -> Any:
        yield lambda *step: shown.append(step)

    now = [0.0]
    monkeypatch.setattr(progress, "bar", bar)
    monkeypatch.setattr(data.time, "monotonic", lambda: now[0])
    with ExitStack() as stack:
        waiting = data._Bar(stack)
        waiting.show(1, 9)
        now[0] = 2.5
        waiting.show(2, 9)
        waiting.show(3, 9)

    assert shown == [(2, 9, "users"), (3, 9, "users")]


def test_help_loads_nothing_heavy() -> None:
    """The command's module, and so its help, imports no array library."""
    code = (
        "import sys, unirep_feast.cli.data; "
        "print([m for m in ('torch', 'feast', 'numpy', 'pyarrow', 'rich') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert out.stdout.strip() == "[]"
