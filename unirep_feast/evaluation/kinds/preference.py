"""Preference for categories, words of titles or single items in the time after the cut-off."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from unirep_feast.errors import EvaluationError
from unirep_feast.evaluation.kinds.common import Windowed, WindowSettings, at, known_users
from unirep_feast.task import EventSlice, Examples, Problem, TaskLog

_SHORTEST_WORD = 4


class PreferenceSettings(WindowSettings):
    """Which groups, and what it takes to prefer one."""

    by: Literal["category", "word", "item"] = Field(
        "category", description="what items are grouped by; word: the words of their titles"
    )
    level: int | None = Field(
        None, ge=0, description="category: place in the list, from 0; null: every one of the list"
    )
    top: int = Field(10, ge=1, description="groups asked about: the most frequent before T")
    skip: int = Field(0, ge=0, description="of the most frequent ones, which nearly all touch")
    target: Literal["any", "above"] = Field(
        "any",
        description="any: at least one event with the group; above: a larger share of the user's "
        "events than of everybody's",
    )
    active_only: bool = Field(
        True, description="only users with an event in the window: what, and not whether"
    )


class PropensitySettings(PreferenceSettings):
    """RecSys Challenge 2025: single products, of everybody."""

    by: Literal["category", "word", "item"] = Field("item", description="what items are grouped by")
    top: int = Field(20, ge=1, description="groups asked about: the most frequent before T")
    active_only: bool = Field(False, description="only users with an event in the window")


class PreferenceTask(Windowed):
    """For each of the C most frequent groups: does the user turn to it in ``[T, T + days)``?

    Groups are chosen by events before T, so that nothing is known of the window.
    """

    problem: Problem = "multilabel"
    metrics: tuple[str, ...] = ("auc", "ap")

    def __init__(self, settings: PreferenceSettings) -> None:
        self.settings: PreferenceSettings = settings

    def examples(self, log: TaskLog, cut_off: int) -> Examples:
        """One example per user with an event before T, and within the window if so set."""
        settings = self.settings
        past, future = log.before(cut_off), self.future(log, cut_off)
        users = known_users(past)
        if settings.active_only:
            users = users[np.isin(users, future.users)]
        groups, names = _groups(log, settings)
        chosen = self._chosen(past, groups, len(names))
        place = np.full(len(names), -1, np.int64)
        place[chosen] = np.arange(len(chosen))
        counts = _counts(users, future, groups, place, len(chosen))
        if settings.target == "any":
            targets = counts > 0
        else:
            events = np.bincount(future.users, minlength=len(log.users))[users]
            usual = counts.sum(0) / max(events.sum(), 1)
            targets = counts > usual * events[:, None]
        outputs = tuple(names[group] for group in chosen.tolist())
        return Examples(users, at(cut_off, users), targets.astype(np.float32), outputs)

    def _chosen(self, past: EventSlice, groups: _Groups, known: int) -> np.ndarray:
        counts = np.bincount(groups.of_events(past.items)[1], minlength=known)
        order = np.argsort(-counts, kind="stable")
        order = order[counts[order] > 0]
        chosen = order[self.settings.skip : self.settings.skip + self.settings.top]
        if len(chosen) == 0:
            raise EvaluationError(
                f"no {self.settings.by} has an event before the cut-off (skip: "
                f"{self.settings.skip}); does the item table have them?"
            )
        return np.asarray(chosen)


class _Groups:
    """Which groups each item is in: item i has ``flat[offsets[i]:offsets[i + 1]]``."""

    def __init__(self, offsets: np.ndarray, flat: np.ndarray) -> None:
        self.offsets, self.flat = offsets, flat

    def of_events(self, items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pairs of event and group: (m,) rows of ``items``, (m,) groups."""
        starts, sizes = self.offsets[items], np.diff(self.offsets)[items]
        rows = np.repeat(np.arange(len(items)), sizes)
        first = np.repeat(np.cumsum(sizes) - sizes, sizes)
        return rows, self.flat[np.arange(len(rows)) - first + np.repeat(starts, sizes)]


def _counts(
    users: np.ndarray, events: EventSlice, groups: _Groups, place: np.ndarray, width: int
) -> np.ndarray:
    """(n, C) events of each user with each chosen group."""
    rows, found = groups.of_events(events.items)
    column = place[found]
    row = np.searchsorted(users, events.users[rows])
    known = (row < len(users)) & (column >= 0)
    known[known] = users[row[known]] == events.users[rows[known]]
    cells = np.bincount(row[known] * width + column[known], minlength=len(users) * width)
    return cells.reshape(len(users), width)


def _groups(log: TaskLog, settings: PreferenceSettings) -> tuple[_Groups, list[str]]:
    count = len(log.items)
    if settings.by == "item":
        names = log.items.cast(pa.string())
        titled = pc.coalesce(log.titles, names).to_pylist()
        return _Groups(np.arange(count + 1), np.arange(count)), titled
    if settings.by == "word":
        lists = pc.split_pattern_regex(pc.utf8_lower(log.titles), r"[^\pL]+")
        shortest = _SHORTEST_WORD
    else:
        lists = log.categories
        shortest = 1
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    flat = pc.list_flatten(lists)
    item = np.repeat(np.arange(count), lengths)
    within = np.arange(len(flat)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    kept = pc.greater_equal(pc.utf8_length(flat), shortest)
    kept = pc.fill_null(kept, False).to_numpy(zero_copy_only=False)
    if settings.by == "category" and settings.level is not None:
        kept &= within == settings.level
    encoded = flat.filter(pa.array(kept)).dictionary_encode()
    codes, item = encoded.indices.to_numpy().astype(np.int64), item[kept]
    # A word that stands twice in a title is one group of the item.
    pairs = np.unique(item * max(len(encoded.dictionary), 1) + codes)
    item, codes = np.divmod(pairs, max(len(encoded.dictionary), 1))
    sizes = np.bincount(item, minlength=count)
    return _Groups(np.concatenate(([0], np.cumsum(sizes))), codes), encoded.dictionary.to_pylist()
