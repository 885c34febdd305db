"""Impressions: of what was shown after the cut-off, what was clicked."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from unirep_feast.errors import EvaluationError
from unirep_feast.evaluation.kinds.common import Windowed, WindowSettings, known_users
from unirep_feast.evaluation.kinds.tables import read_columns, rows_of
from unirep_feast.events import TIME_TYPE
from unirep_feast.task import Examples, Problem, TaskLog

_CATEGORIES = 20


class ImpressionSettings(WindowSettings):
    """A table with one row per item shown."""

    path: str = Field("impressions.parquet", description="parquet, relative to the task file")
    user: str = Field("user_id", description="column with the user id")
    item: str = Field("item_id", description="column with the id of the item that was shown")
    time: str = Field("event_timestamp", description="column with the time; with a time zone")
    label: str = Field("event_type", description="column that says what happened")
    clicked: tuple[str, ...] = Field(("click",), description="values that are a click, as text")
    shown: tuple[str, ...] | None = Field(
        ("click", "skip"), description="values that are impressions at all; null: every one"
    )
    group: str | None = Field(
        None, description="column that is equal for what was shown at once; null: user and time"
    )


class ImpressionsTask(Windowed):
    """Click-through: is it clicked? Rows of ``[T, T + days)``, features as of T.

    Beside the vector every probe gets what is known of the item before T: the logarithms of its
    clicks and impressions, its rate of clicks, and its first category.
    """

    problem: Problem = "impressions"
    metrics: tuple[str, ...] = ("auc", "ap")

    def __init__(self, settings: ImpressionSettings) -> None:
        self.settings: ImpressionSettings = settings

    def examples(self, log: TaskLog, cut_off: int) -> Examples:
        """One example per item shown to a user with an event before T."""
        s = self.settings
        columns = [s.user, s.item, s.time, s.label, *([s.group] if s.group else [])]
        table = read_columns(log, s.path, columns, "impressions")
        labels = table[s.label].cast(pa.string())
        kept = pc.and_(pc.is_valid(labels), pc.is_valid(table[s.time]))
        if s.shown is not None:
            kept = pc.and_(kept, pc.is_in(labels, value_set=pa.array(s.shown)))
        table, labels = table.filter(kept), labels.filter(kept)
        if not pa.types.is_timestamp(table[s.time].type) or table[s.time].type.tz is None:
            raise EvaluationError(
                f"{s.path}: column {s.time!r} is {table[s.time].type}; wanted times with a zone"
            )
        times = table[s.time].cast(TIME_TYPE).cast(pa.int64()).to_numpy()
        users = rows_of(table[s.user], log.users, s.path, "users")
        items = rows_of(table[s.item], log.items, s.path, "items")
        clicked = pc.is_in(labels, value_set=pa.array(s.clicked)).to_numpy()
        context = self._context(log, items, clicked, times < cut_off)
        chosen = (times >= cut_off) & (times < self.horizon(cut_off)) & (items >= 0)
        chosen &= np.isin(users, known_users(log.before(cut_off)))
        rows = np.flatnonzero(chosen)
        if len(rows) == 0:
            raise EvaluationError(f"{s.path}: nothing is shown to a known user after the cut-off")
        rows = rows[np.lexsort((items[rows], times[rows], users[rows]))]
        if s.group is not None:
            groups = table[s.group].combine_chunks().dictionary_encode().indices
            groups = groups.to_numpy(zero_copy_only=False)[rows].astype(np.int64)
        else:
            same = (np.diff(users[rows], prepend=-1) != 0) | (np.diff(times[rows], prepend=-1) != 0)
            groups = np.cumsum(same)
        return Examples(
            users[rows],
            np.full(len(rows), cut_off, np.int64),
            clicked[rows].astype(np.float32),
            items=items[rows],
            groups=groups,
            context=context[rows],
        )

    def _context(
        self, log: TaskLog, items: np.ndarray, clicked: np.ndarray, past: np.ndarray
    ) -> np.ndarray:
        """(n, F) what was known of each row's item before T."""
        known = past & (items >= 0)
        shown = np.bincount(items[known], minlength=len(log.items))
        clicks = np.bincount(items[known & clicked], minlength=len(log.items))
        rate = (clicks + 1) / (shown + 10)
        codes = _first_categories(log)
        order = np.argsort(-np.bincount(codes[codes >= 0]), kind="stable")[:_CATEGORIES]
        table = np.column_stack([np.log1p(clicks), np.log1p(shown), rate, codes[:, None] == order])
        return np.asarray(table[items.clip(min=0)], np.float32)


class NewsTask(ImpressionsTask):
    """The same rows as lists: AUC and nDCG@10 within each impression, then the mean (MIND)."""

    metrics: tuple[str, ...] = ("auc_per_group", "ndcg@10_per_group")


def _first_categories(log: TaskLog) -> np.ndarray:
    """(V,) int64 number of each item's first category, -1 where it has none."""
    some = pc.greater(pc.fill_null(pc.list_value_length(log.categories), 0), 0)
    found = np.full(len(log.items), -1, np.int64)
    first = pc.list_element(log.categories.filter(some), 0).dictionary_encode()
    found[some.to_numpy(zero_copy_only=False)] = pc.fill_null(first.indices, -1).to_numpy()
    return found
