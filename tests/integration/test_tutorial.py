"""The tutorial, typed as it stands: from an empty folder to vectors in Feast with a new plugin.

It installs a plugin, so it has an environment of its own: empty, but that it sees the packages of
the one that runs the tests. Nothing is installed into that one.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable
from pathlib import Path

import pytest

TUTORIAL = Path(__file__).parents[2] / "docs/pages/tutorial.md"

#: What a block is, its argument, its language and its text.
BLOCK = re.compile(
    r"^<!-- (walk|replace|by)(?:: (.*?))? -->\n```(\w+)\n(.*?)```", re.DOTALL | re.MULTILINE
)

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run a command in the empty folder, with the environment's own `unirep`, `feast` and `pip`."""
    home = tmp_path / "venv"
    venv.create(home, with_pip=False)
    ours = Path(sysconfig.get_path("purelib"))
    theirs = home / ours.relative_to(sys.prefix)
    # addsitedir, unlike a bare path, reads the .pth files there: editable installs are seen.
    (theirs / "seen.pth").write_text(f"import site; site.addsitedir({str(ours)!r})\n")
    for script in ("unirep", "feast", "pip"):
        source = (Path(sys.executable).parent / script).read_text()
        (home / "bin" / script).write_text(re.sub(r"^#!.*", f"#!{home}/bin/python", source))
        (home / "bin" / script).chmod(0o755)
    folder = tmp_path / "empty"
    folder.mkdir()
    env = {
        **os.environ,
        "PATH": f"{home / 'bin'}{os.pathsep}{os.environ['PATH']}",
    }

    def call(*command: str, cwd: str = ".") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=folder / cwd, env=env, capture_output=True, text=True, check=False
        )

    return call


def test_the_tutorial_runs_as_written(run: Run, tmp_path: Path) -> None:
    """Commands, edits and Python, in order; what the text says fails, fails."""
    blocks = BLOCK.findall(TUTORIAL.read_text(encoding="utf-8"))
    folder, old = tmp_path / "empty", ("", "")

    assert {kind for kind, *_ in blocks} == {"walk", "replace", "by"}
    for kind, argument, language, text in blocks:
        if kind == "replace":
            old = (argument, text)
        elif kind == "by":
            path = folder / old[0]
            source = path.read_text(encoding="utf-8")
            assert source.count(old[1]) == 1, f"{path} does not hold once:\n{old[1]}"
            path.write_text(source.replace(old[1], text), encoding="utf-8")
        elif language == "bash":
            done = run("bash", "-euo", "pipefail", "-c", text)
            assert (done.returncode != 0) == (argument == "fails"), done.stdout + done.stderr
            if argument == "fails":
                assert "FAIL encoder acme: padding changes nothing" in done.stdout
                assert done.stdout.count("FAIL") == 2, done.stdout
        else:
            done = run("python", "-c", text, cwd=argument)
            assert done.returncode == 0, done.stderr


def test_every_block_of_the_tutorial_is_run() -> None:
    """A block without its mark would be read and never tried."""
    text = TUTORIAL.read_text(encoding="utf-8")

    assert len(BLOCK.findall(text)) == text.count("```") // 2
