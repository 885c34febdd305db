"""The README's walk is what a new user types first, so it is typed here too."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"<!-- walk:[^>]*-->\n```(\w+)\n(.*?)```", re.DOTALL)


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the feature repo, as the README tells a reader to make."""
    folder = tmp_path_factory.mktemp("readme") / "feature_repo"
    shutil.copytree(ROOT / "feature_repo", folder, ignore=shutil.ignore_patterns("data"))
    return folder


def _run(command: list[str], repo: Path) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        command, cwd=repo, env={**os.environ, "PATH": path}, text=True, capture_output=True
    )


def test_every_block_of_the_readme_runs_as_written(repo: Path) -> None:
    """The commands and the Python of the README run, in order, and do what the text says."""
    blocks = BLOCK.findall((ROOT / "README.md").read_text())

    assert [language for language, _ in blocks] == ["bash", "python"]
    for language, text in blocks:
        if language == "bash":
            result = _run(["bash", "-euo", "pipefail", "-c", text], repo)
        else:
            result = _run([sys.executable, "-c", text], repo)
        assert result.returncode == 0, result.stderr


def test_the_readme_names_every_command() -> None:
    """A command that the README's table leaves out would be found by nobody."""
    from unirep_feast.cli import COMMANDS

    table = (ROOT / "README.md").read_text()

    assert all(f"`unirep {name} " in table for name in COMMANDS)
