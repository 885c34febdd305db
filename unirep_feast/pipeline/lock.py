"""One training of a representation at a time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

from unirep_feast.config import RepresentationSpec
from unirep_feast.errors import TrainingError


@contextmanager
def hold(spec: RepresentationSpec) -> Iterator[None]:
    """Hold the representation for one training; the system lets go if the process dies.

    Raises:
        TrainingError: another process holds it, or its folder cannot be written.
    """
    path = spec.home / "train.lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = path.open("a+", encoding="utf-8")
    except OSError as error:
        raise TrainingError(
            f"{path.parent} cannot be written: {error.strerror}; name another `storage` in the spec"
        ) from None
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.seek(0)
            raise TrainingError(
                f"another training of {spec.name!r} is running (process {handle.read() or '?'}); "
                "wait for it, or give the spec another name"
            ) from None
        # Who holds it is only told to people: a full disk does not stop a training here.
        try:
            handle.truncate(0)
            handle.write(str(os.getpid()))
            handle.flush()
        except OSError:
            pass
        yield
