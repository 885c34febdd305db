"""Progress on stderr, for people: nothing where stderr is no terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

#: Called with (done, total, text behind the bar).
Advance = Callable[[int, int, str], None]


@contextmanager
def bar(label: str) -> Iterator[Advance]:
    """Show a progress bar while the block runs."""
    if not sys.stderr.isatty():
        yield lambda done, total, text: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[text]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(label, total=None, text="")
        yield lambda done, total, text: progress.update(
            task, completed=done, total=total, text=text
        )
