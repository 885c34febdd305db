"""Profiles: what a label table says of users, from what they did before the cut-off."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from unirep_feast.config import Frozen
from unirep_feast.errors import EvaluationError
from unirep_feast.evaluation.kinds.common import at, known_users
from unirep_feast.evaluation.kinds.tables import read_columns, rows_of
from unirep_feast.events import TIME_TYPE
from unirep_feast.instants import MICROSECONDS_PER_DAY
from unirep_feast.task import Examples, Problem, TaskLog


class TableSettings(Frozen):
    """A table with one row per user."""

    path: str = Field("users.parquet", description="parquet, relative to the task file")
    user: str = Field("user_id", description="column with the user id")
    label: str = Field("label", description="column with the label")
    time: str | None = Field(
        None,
        description="column with the label's time, with a zone: only labels from [T, T + days) "
        "are used; null: labels do not change",
    )
    days: float = Field(365.0, gt=0, description="with `time`: how long after T labels count")


class ProfileSettings(TableSettings):
    """Classes."""

    min_count: int = Field(
        20, ge=1, description="users a class needs; those of others are left out"
    )


class _Table:
    """Labels of a table: those that do not change have no time that could lie before T."""

    settings: TableSettings

    def times(self, cut_off: int) -> tuple[int, ...]:
        """Features are as of the cut-off."""
        return (cut_off,)

    def horizon(self, cut_off: int) -> int:
        """No label comes from the log, so it need not go on behind T."""
        return cut_off

    def labelled(self, log: TaskLog, cut_off: int) -> tuple[np.ndarray, pa.Array]:
        """Rows of labelled users with an event before T, sorted, and their labels."""
        settings = self.settings
        columns = [settings.user, settings.label, *([settings.time] if settings.time else [])]
        table = read_columns(log, settings.path, columns, "labels")
        users = rows_of(table[settings.user], log.users, settings.path, "users")
        labels = table[settings.label].combine_chunks()
        known = np.isin(users, known_users(log.before(cut_off)))
        known &= ~labels.is_null(nan_is_null=True).to_numpy(False)
        if settings.time is not None:
            known &= self._in_time(table[settings.time], cut_off)
        chosen = np.flatnonzero(known)
        chosen = chosen[np.argsort(users[chosen], kind="stable")]
        found = users[chosen]
        twice = len(found) - len(np.unique(found))
        if twice:
            raise EvaluationError(
                f"{settings.path}: {twice:,} users stand more than once; keep one row each"
            )
        if len(found) == 0:
            raise EvaluationError(
                f"{settings.path}: no user of the log before the cut-off has a {settings.label!r}"
            )
        return found, labels.take(pa.array(chosen))

    def _in_time(self, column: pa.ChunkedArray, cut_off: int) -> np.ndarray:
        """(n,) bool: the label came to be in [T, T + days)."""
        settings = self.settings
        if not pa.types.is_timestamp(column.type) or column.type.tz is None:
            raise EvaluationError(
                f"{settings.path}: column {settings.time!r} is {column.type}; wanted times with a "
                "zone"
            )
        times = pc.fill_null(column.cast(TIME_TYPE).cast(pa.int64()), cut_off - 1).to_numpy()
        end = cut_off + int(settings.days * MICROSECONDS_PER_DAY)
        return np.asarray((times >= cut_off) & (times < end))


class ProfileTask(_Table):
    """One of several classes; AUC is the mean over classes of each against the others."""

    problem: Problem = "multiclass"
    metrics: tuple[str, ...] = ("auc", "accuracy")

    def __init__(self, settings: ProfileSettings) -> None:
        self.settings: ProfileSettings = settings

    def examples(self, log: TaskLog, cut_off: int) -> Examples:
        """One example per labelled user; classes in order of their text."""
        users, labels = self.labelled(log, cut_off)
        encoded = labels.cast(pa.string()).dictionary_encode()
        codes = encoded.indices.to_numpy().astype(np.int64)
        counts = np.bincount(codes, minlength=len(encoded.dictionary))
        names = encoded.dictionary
        order = pc.sort_indices(names).to_numpy()
        order = order[counts[order] >= self.settings.min_count]
        if len(order) < 2:
            raise EvaluationError(
                f"{self.settings.path}: {len(order)} classes of {self.settings.label!r} have "
                f"{self.settings.min_count:,} users; at least 2 are wanted, lower min_count"
            )
        place = np.full(len(names), -1, np.int64)
        place[order] = np.arange(len(order))
        targets = place[codes]
        kept = targets >= 0
        users, targets = users[kept], targets[kept].astype(np.float32)
        outputs = tuple(names.take(pa.array(order)).to_pylist())
        return Examples(users, at(cut_off, users), targets, outputs)


class RegressionSettings(TableSettings):
    """Numbers."""

    log: bool = Field(False, description="predict log(1 + label)")


class RegressionTask(_Table):
    """A number."""

    problem: Problem = "regression"
    metrics: tuple[str, ...] = ("r2", "spearman", "mae")

    def __init__(self, settings: RegressionSettings) -> None:
        self.settings: RegressionSettings = settings

    def examples(self, log: TaskLog, cut_off: int) -> Examples:
        """One example per labelled user."""
        users, labels = self.labelled(log, cut_off)
        try:
            numbers = labels.cast(pa.float64()).to_numpy(zero_copy_only=False)
        except pa.ArrowException:
            raise EvaluationError(
                f"{self.settings.path}: column {self.settings.label!r} is {labels.type}; wanted "
                "numbers, or kind: profile for classes"
            ) from None
        if self.settings.log and (numbers <= -1).any():
            raise EvaluationError(
                f"{self.settings.path}: log: true needs labels above -1, found {numbers.min()}"
            )
        numbers = np.log1p(numbers) if self.settings.log else numbers
        return Examples(users, at(cut_off, users), numbers.astype(np.float32))
