"""Writing files so that a reader sees all of one or nothing of it."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path


def fsync(path: Path) -> None:
    """Force a file's or folder's content to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Give a temporary name beside a file or folder; on success sync it and rename it to target.

    An existing file is replaced in one step; an existing folder must have been removed before. On
    failure nothing is left behind. Temporary names start with ``.`` and never match ``*.parquet``.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.parent / f".{target.name}.{uuid.uuid4().hex[:8]}.tmp"
    try:
        yield temporary
        if temporary.is_dir():
            for file in temporary.rglob("*"):
                fsync(file)
        fsync(temporary)
        temporary.replace(target)
        fsync(target.parent)
    except BaseException:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def locked(target: Path) -> Iterator[None]:
    """Hold the right to write a file until the block ends; whoever else wants it waits.

    The system lets go if the process dies. The lock's own file stands beside the target, under a
    temporary name, for as long as somebody holds it.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    path = target.parent / f".{target.name}.lock"
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            if _is_open_file(handle, path):
                break
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # the one before us removed the file that we waited for
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)


def _is_open_file(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def sha256(path: Path) -> str:
    """Hash a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
