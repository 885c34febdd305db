"""One evaluation or search of a folder at a time."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from unirep_feast.errors import EvaluationError


@contextmanager
def alone(work: Path) -> Iterator[None]:
    """Let one evaluation at a time write to a folder; the system lets go if the process dies."""
    path = work / "evaluate.lock"
    try:
        work.mkdir(parents=True, exist_ok=True)
        handle = path.open("a+")
    except OSError as error:
        raise EvaluationError(
            f"{work} cannot be written: {error.strerror}; name another folder with --work"
        ) from None
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise EvaluationError(
                f"another evaluation is writing to {work}; wait for it, or name another folder "
                "with --work"
            ) from None
        yield
