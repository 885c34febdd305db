"""What a user is worth in the time after the cut-off."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from unirep_feast.errors import EvaluationError
from unirep_feast.evaluation.kinds.common import Windowed, WindowSettings, at, known_users
from unirep_feast.task import Examples, Problem, TaskLog


class ValueSettings(WindowSettings):
    """Sum or number of events."""

    measure: Literal["sum", "count"] = Field(
        "sum", description="sum of the value column, or number of events"
    )


class ValueTask(Windowed):
    """log(1 + sum of values in ``[T, T + days)``) of every user with an event before T.

    Sums are heavy-tailed over orders of magnitude, hence the logarithm; negative sums count as 0.
    """

    problem: Problem = "regression"
    metrics: tuple[str, ...] = ("r2", "spearman", "mae")

    def __init__(self, settings: ValueSettings) -> None:
        self.settings: ValueSettings = settings

    def examples(self, log: TaskLog, cut_off: int) -> Examples:
        """One example per known user; those without an event in the window count as 0."""
        users = known_users(log.before(cut_off))
        future = self.future(log, cut_off)
        weights = None
        if self.settings.measure == "sum":
            if future.values is None:
                raise EvaluationError(
                    "measure: sum needs values; name the column under `events.columns.value`, or "
                    "set measure: count"
                )
            weights = np.nan_to_num(future.values.astype(np.float64))
        totals = np.bincount(future.users, weights, minlength=len(log.users))[users]
        return Examples(users, at(cut_off, users), np.log1p(totals.clip(min=0)).astype(np.float32))
