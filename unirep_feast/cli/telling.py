"""What `evaluate` and `tune` show while they run: how far they are, and the training in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from unirep_feast.cli import spec as spec_options

if TYPE_CHECKING:
    from unirep_feast.evaluation.telling import Telling
    from unirep_feast.trainer import Record


@contextmanager
def telling(label: str, total: int, before_steps: str) -> Iterator[Telling]:
    """Show a progress bar while the block runs, with the steps of the training it waits for.

    Args:
        label: in front of the bar.
        total: cells or trials, until the work itself says how many there are.
        before_steps: between what is being done and the training's ``12/100``.
    """
    from unirep_feast.evaluation.telling import Telling
    from unirep_feast.progress import bar

    with bar(label) as advance:
        state = (0, total, "")

        def show(done: int, total: int, text: str) -> None:
            nonlocal state
            state = (done, total, text)
            advance(done, total, text)

        def record(one: Record) -> None:
            if one.kind == "step":
                done, total, text = state
                advance(done, total, f"{text}{before_steps}{one.step}/{one.total}")

        yield Telling(spec_options.reader, show, spec_options.notify, record)
