"""Churn: who of those that were active does nothing in the time after the cut-off."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from unirep_feast.evaluation.kinds.common import Windowed, WindowSettings, at, known_users, of_types
from unirep_feast.instants import MICROSECONDS_PER_DAY
from unirep_feast.task import Examples, Problem, TaskLog


class ChurnSettings(WindowSettings):
    """RecSys Challenge 2025: active before, no event within the window."""

    active_days: float | None = Field(
        None, gt=0, description="only users with an event so many days before T; null: ever"
    )


class ChurnTask(Windowed):
    """1 for a user without an event in ``[T, T + days)``, of those with one before T."""

    problem: Problem = "binary"
    metrics: tuple[str, ...] = ("auc", "ap")

    def __init__(self, settings: ChurnSettings) -> None:
        self.settings: ChurnSettings = settings

    def examples(self, log: TaskLog, cut_off: int) -> Examples:
        """One example per user who was active before T."""
        days = self.settings.active_days
        since = None if days is None else cut_off - int(days * MICROSECONDS_PER_DAY)
        past = of_types(log, log.before(cut_off), self.settings.types)
        users = known_users(past, since)
        stayed = np.isin(users, self.future(log, cut_off).users)
        return Examples(users, at(cut_off, users), (~stayed).astype(np.float32))
