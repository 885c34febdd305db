"""What was predicted, measured: the figures of a cell on the validation and the test split."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from unirep_feast.evaluation.metrics import is_per_row, per_row, ranked_values, whole
from unirep_feast.evaluation.predicting import Predicted
from unirep_feast.evaluation.probe_data import ProbeData
from unirep_feast.evaluation.ranking import offsets_of
from unirep_feast.evaluation.significance import resampled

#: From places among some rows (None: all of them) to a metric.
Measure = Callable[[np.ndarray | None], float]


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


def score(data: ProbeData, predicted: Predicted, metrics: tuple[str, ...]) -> Scored:
    """Measure what a probe says on the validation and the test split.

    Args:
        data: features and targets.
        predicted: what it says.
        metrics: of the task, the primary one first.
    """
    users = data.examples.users[data.test]
    if data.problem == "ranking":
        return _score_ranking(data, predicted, metrics)
    outputs = predicted.outputs
    assert outputs is not None  # noqa: S101
    values = {
        split: {metric: measure(data, metric, rows, outputs[rows])(None) for metric in metrics}
        for split, rows in (("valid", data.valid), ("test", data.test))
    }
    sampled = resampled(users, measure(data, metrics[0], data.test, outputs[data.test]))
    return Scored(values, outputs[data.test].astype(np.float32), sampled.astype(np.float32))


def measure(data: ProbeData, metric: str, rows: np.ndarray, outputs: np.ndarray) -> Measure:
    """From some of the rows to a metric of their outputs.

    Args:
        data: targets.
        metric: its name.
        rows: (n,).
        outputs: (n, …) of these rows.
    """
    truth = data.examples.targets[rows]
    if not is_per_row(data.problem, metric):
        return lambda some: whole(
            data.problem,
            metric,
            *((truth, outputs) if some is None else (truth[some], outputs[some])),
        )
    assert data.examples.groups is not None  # noqa: S101
    each = per_row(metric, truth, outputs, data.examples.groups[rows])

    def mean(some: np.ndarray | None) -> float:
        chosen = each if some is None else each[some]
        return float(np.nanmean(chosen)) if np.isfinite(chosen).any() else float("nan")

    return mean


def _score_ranking(data: ProbeData, predicted: Predicted, metrics: tuple[str, ...]) -> Scored:
    assert predicted.ranks is not None  # noqa: S101
    values: dict[str, dict[str, float]] = {}
    each = np.empty((0, len(metrics)))
    for split, rows in (("valid", data.valid), ("test", data.test)):
        ranks = predicted.ranks(rows)
        offsets = offsets_of(data.examples, rows)
        each = np.column_stack([ranked_values(metric, ranks, offsets) for metric in metrics])
        values[split] = dict(zip(metrics, each.mean(0).tolist(), strict=True))
    users = data.examples.users[data.test]
    sampled = resampled(users, lambda some: float(each[some, 0].mean()))
    return Scored(values, each.astype(np.float32), sampled.astype(np.float32))
