"""`unirep plugins new` writes a plugin that installs, passes its own tests and trains."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from unirep_feast.scaffold import PARTS, TRIO

ROOT = Path(__file__).parents[2]

#: Name of a plugin to the parts it is asked to have; none asked for are all.
ASKED: dict[str, tuple[str, ...]] = {
    "acme": (),
    "acme_enc": ("encoder",),
    "acme_obj": ("objective",),
    "acme_sam": ("sampler", "task"),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a plugin of each kind, and `site`, where pip put them."""
    from click.testing import CliRunner

    from unirep_feast.cli import main

    folder = tmp_path_factory.mktemp("made")
    for name, parts in ASKED.items():
        flags = [f"--{part}" for part in parts]
        done = CliRunner().invoke(main, ["plugins", "new", name, "--into", str(folder), *flags])
        assert done.exit_code == 0, done.stderr
        assert f"pip install -e '{folder}/unirep-feast-{name.replace('_', '-')}" in done.stdout
    site = folder / "site"
    run(
        folder,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--target",
        str(site),
        *(str(folder / f"unirep-feast-{name.replace('_', '-')}") for name in ASKED),
    )
    return folder


def run(folder: Path, *arguments: str, cwd: Path | None = None) -> str:
    """Run Python with the made plugins installed; returns stdout."""
    done = subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": str(folder / "site")},
        cwd=cwd or folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_every_kind_of_plugin_passes_its_own_tests(made: Path) -> None:
    """The compliance kit among them, at once and with nothing edited."""
    tests = [str(made / f"unirep-feast-{name.replace('_', '-')}" / "tests") for name in ASKED]

    told = run(
        made, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--import-mode=importlib", *tests
    )

    assert " passed" in told and "failed" not in told and "skipped" not in told, told


def test_a_plugin_offers_what_was_asked_for(made: Path) -> None:
    """All three parts where none was named."""
    listed = json.loads(run(made, "-m", "unirep_feast", "plugins", "list", "--json"))
    by_name = {plugin["name"]: plugin for plugin in listed}

    for name, parts in ASKED.items():
        assert by_name[name]["state"] == "ready", by_name[name]
        wanted = [f"{part} {name}" for part in PARTS if part in (parts or TRIO)]
        assert by_name[name]["offers"] == wanted


def test_the_kit_runs_outside_the_plugins_repo(made: Path) -> None:
    """`pytest --pyargs unirep_feast.testing --unirep-plugin NAME`, with smaller settings."""
    told = run(
        made,
        *("-m", "pytest", "-v", "-p", "unirep_feast.testing.pytest_plugin", "--noconftest"),
        *("-p", "no:cacheprovider", "--pyargs", "unirep_feast.testing"),
        *("--unirep-plugin", "acme", "--unirep-set", "encoder.dim=8"),
    )

    assert "checking plugin 'acme'" in told
    assert " passed" in told and " failed" not in told, told
    for kit in ("TestPlugin::", "TestEncoderAcme::", "TestObjectiveAcme::", "TestSamplerAcme::"):
        assert kit in told


def test_a_trainable_encoder_alone_is_checked_with_a_partner(made: Path) -> None:
    """Without an objective of its own nothing would train it: the toy's does."""
    report = json.loads(run(made, "-m", "unirep_feast", "plugins", "check", "acme_enc", "--json"))

    assert report["passed"], [c for c in report["checks"] if c["outcome"] == "failed"]
    assert {check["part"] for check in report["checks"]} == {"plugin", "encoder acme_enc"}


def test_what_is_written_keeps_the_houses_style(made: Path) -> None:
    """ruff finds nothing in what a stranger starts from."""
    written = [str(made / f"unirep-feast-{name.replace('_', '-')}") for name in ASKED]
    for arguments in (["format", "--check"], ["check", "--ignore", "I001,S101,D"]):
        command = [sys.executable, "-m", "ruff", *arguments]
        command += ["--no-cache", "--config", str(ROOT / "pyproject.toml"), *written]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["Acme"], "plugin name 'Acme': wanted lower-case letters, digits and _, a letter first"),
        (["clue"], "plugin 'clue' is installed already, by unirep-feast-clue "),
        (["taken"], "unirep-feast-taken is there already; give another name, or --into another"),
        (["acme", "--into", "file/below"], "cannot be written: Not a directory; mend the folder"),
    ],
)
def test_bad_names_and_folders_are_one_line(
    arguments: list[str],
    line: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cli: Callable[..., Result],
    refusal: Callable[[Result], str],
) -> None:
    """And nothing is left behind."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "unirep-feast-taken").mkdir()
    (tmp_path / "file").write_text("")

    assert line in refusal(cli("plugins", "new", *arguments))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "unirep-feast-taken"]
