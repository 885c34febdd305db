"""What a probe makes of a cell: fitted to its training rows, measured on the others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from unirep_feast.evaluation.boosting import fit_boosting
from unirep_feast.evaluation.cells import UNTRAINED, Wanted
from unirep_feast.evaluation.config import EvaluationConfig
from unirep_feast.evaluation.heads import fit_logistic, fit_mlp
from unirep_feast.evaluation.metrics import is_per_row, per_row, ranked_values, whole
from unirep_feast.evaluation.probe_data import ProbeData
from unirep_feast.evaluation.ranking import (
    NEIGHBORS,
    by_items,
    by_neighbors,
    by_outputs,
    offsets_of,
    ranks_by_index,
    ranks_of,
)
from unirep_feast.evaluation.significance import resampled
from unirep_feast.evaluation.subject import Subject


@dataclass(frozen=True)
class Scored:
    """The figures of one cell.

    Attributes:
        values: by split, ``valid`` and ``test``, and by metric.
        test: (n_test, …) float32 what was predicted for the test rows; of a ranking its metrics.
        resampled: (SAMPLES,) float32 the primary metric on test users drawn anew.
    """

    values: dict[str, dict[str, float]]
    test: np.ndarray
    resampled: np.ndarray


def score(
    config: EvaluationConfig,
    data: ProbeData,
    subject: Subject,
    cell: Wanted,
    metrics: tuple[str, ...],
) -> Scored:
    """Fit the cell's probe, and measure it on the validation and the test split.

    Args:
        config: the file, for the probes' settings.
        data: features and targets, training rows of the cell only.
        subject: what they are of.
        cell: the probe and its seed.
        metrics: of the task, the primary one first.
    """
    users = data.examples.users[data.test]
    if data.problem == "ranking":
        return _score_ranking(config, data, subject, cell, metrics)
    outputs = _outputs(config, data, subject, cell)
    values = {
        split: {
            metric: _measure(data, metric, getattr(data, split), outputs)(None)
            for metric in metrics
        }
        for split in ("valid", "test")
    }
    sampled = resampled(users, _measure(data, metrics[0], data.test, outputs))
    return Scored(values, outputs[data.test].astype(np.float32), sampled.astype(np.float32))


def _measure(
    data: ProbeData, metric: str, rows: np.ndarray, outputs: np.ndarray
) -> Callable[[np.ndarray | None], float]:
    """From some of the rows (None: all of them) to a metric of their outputs."""
    truth, found = data.examples.targets[rows], outputs[rows]
    if not is_per_row(data.problem, metric):
        return lambda some: whole(
            data.problem, metric, *((truth, found) if some is None else (truth[some], found[some]))
        )
    assert data.examples.groups is not None  # noqa: S101
    each = per_row(metric, truth, found, data.examples.groups[rows])

    def mean(some: np.ndarray | None) -> float:
        chosen = each if some is None else each[some]
        return float(np.nanmean(chosen)) if np.isfinite(chosen).any() else float("nan")

    return mean


def _score_ranking(
    config: EvaluationConfig,
    data: ProbeData,
    subject: Subject,
    cell: Wanted,
    metrics: tuple[str, ...],
) -> Scored:
    top = max(int(metric.rpartition("@")[2]) for metric in metrics)
    values: dict[str, dict[str, float]] = {}
    each = np.empty((0, len(metrics)))
    for split in ("valid", "test"):
        rows = getattr(data, split)
        ranks = _ranks(config, data, subject, cell, rows, top)
        offsets = offsets_of(data.examples, rows)
        each = np.column_stack([ranked_values(metric, ranks, offsets) for metric in metrics])
        values[split] = dict(zip(metrics, each.mean(0).tolist(), strict=True))
    users = data.examples.users[data.test]
    sampled = resampled(users, lambda some: float(each[some, 0].mean()))
    return Scored(values, each.astype(np.float32), sampled.astype(np.float32))


def _ranks(
    config: EvaluationConfig,
    data: ProbeData,
    subject: Subject,
    cell: Wanted,
    rows: np.ndarray,
    top: int,
) -> np.ndarray:
    examples = data.examples
    if cell.probe in UNTRAINED:
        assert subject.items is not None  # noqa: S101  # else the cell is not wanted
        if cell.probe == "index":
            return ranks_by_index(subject.features, subject.items, examples, rows, top)
        return ranks_of(by_items(subject.features, subject.items), examples, rows)
    if cell.probe == "neighbors":
        return ranks_of(by_neighbors(data, _neighbors(data)), examples, rows)
    outputs = fit_mlp(data, config.mlp, cell.seed)
    return ranks_of(by_outputs(outputs), examples, rows)


def _neighbors(data: ProbeData) -> int:
    """The number of neighbors that is best on ``valid``, by the mean reciprocal rank."""
    best, chosen = -1.0, NEIGHBORS[0]
    for number in NEIGHBORS:
        ranks = ranks_of(by_neighbors(data, number), data.examples, data.valid)
        reciprocal = float((1 / (ranks + 1.0)).mean())
        if reciprocal > best:
            best, chosen = reciprocal, number
    return chosen


def _outputs(
    config: EvaluationConfig, data: ProbeData, subject: Subject, cell: Wanted
) -> np.ndarray:
    if cell.probe == "logistic":
        return fit_logistic(data, config.logistic)
    if cell.probe == "mlp":
        return fit_mlp(data, config.mlp, cell.seed)
    if cell.probe == "boosting":
        return fit_boosting(data, config.boosting, cell.seed)
    if cell.probe == "direct":
        return subject.item_scores(data.examples.items)
    assert subject.fine_tune is not None  # noqa: S101
    return subject.fine_tune(data, cell.seed)
