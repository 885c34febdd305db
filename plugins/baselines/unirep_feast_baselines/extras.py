"""Libraries that only some baselines need, asked for when they are needed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from unirep_feast.errors import UnirepError


@contextmanager
def needs(library: str, extra: str) -> Iterator[None]:
    """Turn a failed import into one line that says what to install."""
    try:
        yield
    except ImportError as error:
        raise UnirepError(
            f"baselines.{extra} needs {library}, which is not installed ({error}); "
            f"pip install 'unirep-feast-baselines[{extra}]'"
        ) from None
