"""Matching: which items of all a user turns to after the cut-off, and which one next."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from unirep_feast.errors import EvaluationError
from unirep_feast.evaluation.kinds.common import Windowed, WindowSettings, of_types
from unirep_feast.instants import MICROSECONDS_PER_DAY
from unirep_feast.task import EventSlice, Examples, Problem, TaskLog


class MatchingSettings(WindowSettings):
    """Consumer matching of GUIM, section 4.2.1."""

    mode: Literal["long", "short", "next"] = Field(
        "long",
        description="long (CMP-L): the items of the next `days`; short (CMP-S): of one day, for "
        "`starts` days within `days`; next (CMP-N): the first item of the next `days`",
    )
    starts: int = Field(5, ge=1, description="short: as-of times, evenly over `days`")
    top: int = Field(100, ge=1, description="M of recall@M")


class MatchingTask(Windowed):
    """recall@M over all items that have an event before T; nothing is sampled (GUIM, Eq 5).

    Users without a positive are left out. Positives that had no event before T cannot be ranked
    and do not count. Where several items share the time of the next one, it is the first by id.
    """

    problem: Problem = "ranking"

    def __init__(self, settings: MatchingSettings) -> None:
        self.settings: MatchingSettings = settings
        self.metrics: tuple[str, ...] = (f"recall@{settings.top}",)
        self.first = settings.mode == "next"

    def times(self, cut_off: int) -> tuple[int, ...]:
        """The cut-off; of CMP-S, days spread over the window."""
        if self.settings.mode != "short":
            return (cut_off,)
        days = max(int(self.settings.days), 1)
        offsets = sorted(
            {int(k * days / self.settings.starts) for k in range(self.settings.starts)}
        )
        return tuple(cut_off + k * MICROSECONDS_PER_DAY for k in offsets)

    def examples(self, log: TaskLog, cut_off: int) -> Examples:
        """One example per user and as-of time with a history before it and a positive after it."""
        past = log.before(cut_off)
        counts = np.bincount(past.items, minlength=len(log.items))
        candidates = np.flatnonzero(counts)
        found = []
        for when in self.times(cut_off):
            end = self.horizon(cut_off)
            if self.settings.mode == "short":
                end = when + MICROSECONDS_PER_DAY
            future = of_types(log, log.between(when, end), self.settings.types)
            found.append(self._pairs(log, future, when, candidates))
        users = np.concatenate([each[0] for each in found])
        sizes = np.concatenate([each[1] for each in found])
        if len(users) == 0:
            raise EvaluationError("no user with a history turns to a known item after the cut-off")
        return Examples(
            users,
            np.concatenate([each[3] for each in found]),
            np.empty(0, np.float32),
            candidates=candidates,
            offsets=np.concatenate(([0], np.cumsum(sizes))),
            positives=np.concatenate([each[2] for each in found]),
            popularity=counts[candidates].astype(np.float32),
        )

    def _pairs(
        self, log: TaskLog, future: EventSlice, when: int, candidates: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Users, how many positives each, those one after the other, and the as-of time."""
        known = np.isin(future.users, log.before(when).users)
        future = future.take(known & np.isin(future.items, candidates))
        if self.first:  # events are sorted by user, time and item
            future = future.take(np.diff(future.users, prepend=-1) != 0)
        pairs = np.unique(future.users * len(log.items) + future.items)
        user, item = np.divmod(pairs, len(log.items))
        users, sizes = np.unique(user, return_counts=True)
        return users, sizes, np.searchsorted(candidates, item), np.full(len(users), when, np.int64)


class NextItemSettings(WindowSettings):
    """The next item of every user, held out by time."""

    top: int = Field(10, ge=1, description="M of MRR@M, Recall@M and nDCG@M")


class NextItemTask(MatchingTask):
    """The first item after T, ranked among all: MRR@10, Recall@10, nDCG@10.

    One event per user is left out as in leave-one-out, at one time for all users, so that no
    user's past holds another's future.
    """

    def __init__(self, settings: NextItemSettings) -> None:
        super().__init__(
            MatchingSettings(
                days=settings.days, types=settings.types, mode="next", top=settings.top
            )
        )
        top = settings.top
        self.metrics = (f"mrr@{top}", f"recall@{top}", f"ndcg@{top}")
