"""What several kinds of tasks share: windows of days, event types, who is asked about."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from unirep_feast.config import Frozen
from unirep_feast.errors import EvaluationError
from unirep_feast.instants import MICROSECONDS_PER_DAY
from unirep_feast.task import EventSlice, TaskLog


class WindowSettings(Frozen):
    """Labels come from the days after the cut-off."""

    days: float = Field(30.0, gt=0, description="labels come from [T, T + days)")
    types: tuple[str, ...] | None = Field(
        None, description="label events are of these event types only; null: of all"
    )


class Windowed:
    """A task whose features are as of the cut-off and whose labels come from the days after it."""

    settings: WindowSettings

    def times(self, cut_off: int) -> tuple[int, ...]:
        """Features are as of the cut-off alone."""
        return (cut_off,)

    def horizon(self, cut_off: int) -> int:
        """Where the window ends."""
        return cut_off + int(self.settings.days * MICROSECONDS_PER_DAY)

    def future(self, log: TaskLog, cut_off: int) -> EventSlice:
        """The events that labels are made of."""
        return of_types(log, log.between(cut_off, self.horizon(cut_off)), self.settings.types)


def of_types(log: TaskLog, events: EventSlice, types: tuple[str, ...] | None) -> EventSlice:
    """Keep events of some types.

    Raises:
        EvaluationError: the log knows no types, or one of them is never used in it.
    """
    if types is None:
        return events
    unknown = [name for name in types if name not in log.event_types]
    if unknown or events.types is None:
        known = ", ".join(log.event_types) or "none (name the column under `events.columns.type`)"
        raise EvaluationError(f"no event of type {', '.join(unknown or types)}; found {known}")
    codes = [log.event_types.index(name) + 1 for name in types]
    return events.take(np.isin(events.types, codes))


def known_users(past: EventSlice, since: int | None = None) -> np.ndarray:
    """Rows of the users with an event before the cut-off, since a time where one is given."""
    rows = past.users if since is None else past.users[past.times >= since]
    return np.unique(rows)


def at(cut_off: int, users: np.ndarray) -> np.ndarray:
    """(n,) int64 the cut-off as as-of time of every example."""
    return np.full(len(users), cut_off, np.int64)
