"""How an evaluation or a search talks to people, and reads on their behalf."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from unirep_feast.evaluation.candidates import ReaderOf
from unirep_feast.pipeline.job import OnRecord
from unirep_feast.progress import Advance


@dataclass(frozen=True)
class Telling:
    """How an evaluation talks to people.

    Attributes:
        advance: called with cells done, cells in all, and what is being done.
        notify: called with lines.
        reader_of: gives what reads the events of a spec.
        on_record: called for every record of a training.
    """

    reader_of: ReaderOf
    advance: Advance = lambda done, total, text: None
    notify: Callable[[str], None] = lambda line: None
    on_record: OnRecord = lambda record: None
