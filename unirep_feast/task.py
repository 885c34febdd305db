"""The task contract: an event log and a cut-off in, examples with labels from after it out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, Protocol, get_args, runtime_checkable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from unirep_feast.packing import PackedEvents

#: What is to be predicted of an example: yes or no; several of them; one of several classes; a
#: number; which items of all; whether the item that was shown is clicked.
Problem = Literal["binary", "multilabel", "multiclass", "regression", "ranking", "impressions"]

PROBLEMS: tuple[Problem, ...] = get_args(Problem)


@dataclass(frozen=True)
class EventSlice:
    """The events of a stretch of time, sorted by user, time and item.

    Attributes:
        users: (n,) int64 rows in :attr:`TaskLog.users`.
        items: (n,) int64 rows in :attr:`TaskLog.items`.
        times: (n,) int64 microseconds.
        values: (n,) float32, NaN where there is none; None if the log has no values.
        types: (n,) int16 places in :attr:`TaskLog.event_types` + 1, 0 for none; None if the log
            has no types.
    """

    users: np.ndarray
    items: np.ndarray
    times: np.ndarray
    values: np.ndarray | None = None
    types: np.ndarray | None = None

    def __len__(self) -> int:
        """Return the number of events."""
        return len(self.users)

    def take(self, chosen: np.ndarray) -> EventSlice:
        """Return some of the events: (n,) bool, or rows in rising order."""
        return EventSlice(
            self.users[chosen],
            self.items[chosen],
            self.times[chosen],
            None if self.values is None else self.values[chosen],
            None if self.types is None else self.types[chosen],
        )


@dataclass(frozen=True)
class TaskLog:
    """What tasks see: all events, to be cut at times only.

    Attributes:
        users: (U,) ids, int64 or string, sorted.
        items: (V,) ids, sorted.
        titles: (V,) string, null where unknown.
        categories: (V,) list<string>, null where unknown.
        event_types: distinct event types, sorted.
        events: all of them.
        folder: what relative paths in settings are relative to.
    """

    users: pa.Array
    items: pa.Array
    titles: pa.Array
    categories: pa.Array
    event_types: tuple[str, ...]
    events: EventSlice
    folder: str = "."

    @classmethod
    def build(cls, packed: PackedEvents, items: pa.Table | None, folder: str = ".") -> TaskLog:
        """Line up packed events with an item table (see ``catalogue.read_items``), if any."""
        rows = np.repeat(np.arange(len(packed.users), dtype=np.int64), np.diff(packed.offsets))
        events = EventSlice(
            rows,
            packed.items.astype(np.int64),
            packed.times,
            packed.columns.get("value"),
            packed.columns.get("event_type"),
        )
        titles: pa.Array = pa.nulls(len(packed.item_ids), pa.string())
        categories: pa.Array = pa.nulls(len(packed.item_ids), pa.list_(pa.string()))
        if items is not None and items["item_id"].type == packed.item_ids.type:
            items = items.combine_chunks()
            listed = items["item_id"].combine_chunks()
            place = pc.index_in(packed.item_ids, value_set=listed)
            titles = items["title"].combine_chunks().take(place)
            categories = items["category"].combine_chunks().take(place)
        return cls(
            packed.users, packed.item_ids, titles, categories, packed.event_types, events, folder
        )

    def before(self, when: int) -> EventSlice:
        """Events strictly before a time, microseconds: what features may know."""
        return self.events.take(self.events.times < when)

    def between(self, start: int, end: int) -> EventSlice:
        """Events within ``[start, end)``, microseconds: where labels come from."""
        times = self.events.times
        return self.events.take((times >= start) & (times < end))

    @cached_property
    def until(self) -> int:
        """Just after the last event, microseconds."""
        return int(self.events.times.max(initial=-1)) + 1


@dataclass(frozen=True)
class Examples:
    """Labelled examples of a task.

    Attributes:
        users: (n,) int64 rows in :attr:`TaskLog.users`; all examples of a user fall into one split.
        as_of: (n,) int64 microseconds, one of the task's :meth:`Task.times`: features are as of it.
        targets: float32 (n,) of ``binary``, ``regression``, ``impressions``; (n, C) of
            ``multilabel``; (n,) class numbers of ``multiclass``; empty for ``ranking``.
        outputs: names of the C labels or classes.
        candidates: ``ranking``: (m,) int64 items that are ranked, rows in :attr:`TaskLog.items`.
        offsets: ``ranking``: (n + 1,) int64; positives of example i are
            ``positives[offsets[i]:offsets[i + 1]]``.
        positives: ``ranking``: int64 places in ``candidates``.
        popularity: ``ranking``: (m,) events of each candidate before the cut-off.
        items: ``impressions``: (n,) int64 rows in :attr:`TaskLog.items` of what was shown.
        groups: ``impressions``: (n,) int64, equal for what was shown at once.
        context: (n, F) float32 known as of the cut-off that every probe gets beside the vector.
        scored: (n,) bool: only those count in the test split; None: all.
    """

    users: np.ndarray
    as_of: np.ndarray
    targets: np.ndarray
    outputs: tuple[str, ...] = ()
    candidates: np.ndarray | None = None
    offsets: np.ndarray | None = None
    positives: np.ndarray | None = None
    popularity: np.ndarray | None = None
    items: np.ndarray | None = None
    groups: np.ndarray | None = None
    context: np.ndarray | None = None
    scored: np.ndarray | None = None
    notes: Mapping[str, float] = field(default_factory=dict)

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self.users)


@runtime_checkable
class Task(Protocol):
    """Makes examples from a log; knows neither representations nor probes.

    Attributes:
        problem: what is to be predicted.
        metrics: names the host computes (see ``evaluation.metrics``); the leaderboard goes by the
            first.
    """

    problem: Problem
    metrics: tuple[str, ...]

    def times(self, cut_off: int) -> tuple[int, ...]:
        """Times that features are as of, microseconds; none earlier than the cut-off.

        Representations are encoded as of each. Most tasks return ``(cut_off,)``.
        """
        ...

    def horizon(self, cut_off: int) -> int:
        """End of the time that labels come from, microseconds; the log must reach it."""
        ...

    def examples(self, log: TaskLog, cut_off: int) -> Examples:
        """Make examples: who is asked about from ``log.before(T)``, labels from T on.

        Raises:
            EvaluationError: the log cannot answer, in one line.
        """
        ...
