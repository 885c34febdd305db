"""Files that appear whole or not at all."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from unirep_feast.files import atomic_path, locked, sha256


def test_a_file_appears_under_its_name(tmp_path: Path) -> None:
    """The content written to the temporary name ends up at the target, folders are made."""
    target = tmp_path / "new" / "folder" / "data.parquet"

    with atomic_path(target) as temporary:
        temporary.write_text("whole")
        assert not target.exists()
        assert temporary.parent == target.parent

    assert target.read_text() == "whole"
    assert list(target.parent.iterdir()) == [target]


def test_the_temporary_name_is_hidden_from_readers(tmp_path: Path) -> None:
    """A glob over a snapshot folder never matches a file that is being written."""
    with atomic_path(tmp_path / "data.parquet") as temporary:
        temporary.touch()
        assert list(tmp_path.glob("*.parquet")) == []
        assert temporary.name.startswith(".")


def test_an_existing_file_is_replaced(tmp_path: Path) -> None:
    """Writing again replaces the file in one step."""
    target = tmp_path / "data"
    target.write_text("old")

    with atomic_path(target) as temporary:
        temporary.write_text("new")
        assert target.read_text() == "old"

    assert target.read_text() == "new"


def test_a_folder_appears_whole(tmp_path: Path) -> None:
    """A folder is renamed with everything in it."""
    target = tmp_path / "checkpoint"

    with atomic_path(target) as temporary:
        (temporary / "deep").mkdir(parents=True)
        (temporary / "deep" / "weights").write_bytes(b"123")

    assert (target / "deep" / "weights").read_bytes() == b"123"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("folder", [False, True])
def test_a_failure_leaves_what_was_there(
    tmp_path: Path, error: type[BaseException], folder: bool
) -> None:
    """Whatever interrupts the writing, the old file stays and nothing new is left."""
    target = tmp_path / "data"
    target.write_text("old")

    with pytest.raises(error), atomic_path(target) as temporary:
        if folder:
            temporary.mkdir()
            (temporary / "part").write_text("half")
        else:
            temporary.write_text("half")
        raise error

    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_target_that_is_a_folder_fails_and_cleans_up(tmp_path: Path) -> None:
    """A file cannot take the place of a folder; the temporary one goes."""
    (tmp_path / "data" / "inside").mkdir(parents=True)

    with pytest.raises(OSError), atomic_path(tmp_path / "data") as temporary:
        temporary.write_text("whole")

    assert list(tmp_path.iterdir()) == [tmp_path / "data"]


def test_forgetting_to_write_is_an_error(tmp_path: Path) -> None:
    """A block that wrote nothing does not pass for one that did."""
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "data"):
        pass

    assert list(tmp_path.iterdir()) == []


def test_a_kill_leaves_only_a_hidden_name(tmp_path: Path) -> None:
    """After kill -9 in the middle the target does not exist; what is left is a hidden file."""
    code = """
        import os, signal, sys
        from pathlib import Path
        from unirep_feast.files import atomic_path
        with atomic_path(Path(sys.argv[1])) as temporary:
            temporary.write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
    """
    target = tmp_path / "data.parquet"

    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code), target], check=False)

    assert done.returncode == -9
    assert not target.exists()
    assert [path.name.startswith(".data.parquet.") for path in tmp_path.iterdir()] == [True]


def test_one_process_at_a_time_holds_a_name(tmp_path: Path) -> None:
    """Six processes count to thirty in one file without losing a step, and leave no lock."""
    code = """
        import sys
        from pathlib import Path
        from unirep_feast.files import locked
        path = Path(sys.argv[1])
        for _ in range(5):
            with locked(path):
                path.write_text(str(int(path.read_text()) + 1))
    """
    target = tmp_path / "count"
    target.write_text("0")
    command = [sys.executable, "-c", textwrap.dedent(code), target]
    workers = [subprocess.Popen(command) for _ in range(6)]

    assert [worker.wait() for worker in workers] == [0] * 6
    assert target.read_text() == "30"
    assert list(tmp_path.iterdir()) == [target]


def test_a_killed_holder_lets_go(tmp_path: Path) -> None:
    """After kill -9 the next one holds the name at once, and an error lets go as well."""
    code = """
        import os, signal, sys
        from pathlib import Path
        from unirep_feast.files import locked
        with locked(Path(sys.argv[1])):
            os.kill(os.getpid(), signal.SIGKILL)
    """
    target = tmp_path / "data"
    command = [sys.executable, "-c", textwrap.dedent(code), target]

    assert subprocess.run(command, check=False).returncode == -9
    with pytest.raises(ValueError, match="no"), locked(target):
        raise ValueError("no")
    with locked(target):
        assert len(list(tmp_path.iterdir())) == 1
    assert list(tmp_path.iterdir()) == []


def test_sha256_is_of_the_content(tmp_path: Path) -> None:
    """The checksum is the one every other tool computes."""
    content = os.urandom(3_000_000)
    (tmp_path / "data").write_bytes(content)

    assert sha256(tmp_path / "data") == hashlib.sha256(content).hexdigest()
