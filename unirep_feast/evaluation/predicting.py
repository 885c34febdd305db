"""What a probe says of rows: fitted to the training rows of a cell, asked about any."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from unirep_feast.evaluation.boosting import fit_boosting
from unirep_feast.evaluation.cells import Wanted
from unirep_feast.evaluation.config import EvaluationConfig
from unirep_feast.evaluation.heads import fit_logistic, fit_mlp
from unirep_feast.evaluation.probe_data import ProbeData
from unirep_feast.evaluation.ranking import (
    NEIGHBORS,
    Score,
    by_items,
    by_neighbors,
    by_outputs,
    ranks_by_index,
    ranks_of,
)
from unirep_feast.evaluation.subject import Subject

#: From (b,) rows to the ranks of their positives, see :func:`~.ranking.ranks_of`.
Ranks = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Predicted:
    """What a probe says.

    Attributes:
        outputs: (n, …) of all rows; None of a ranking.
        score: of a ranking, what it gives the candidates; None for an index, which only finds.
        ranks: of a ranking, where positives come out.
        logits: whether ``outputs`` are logits.
    """

    outputs: np.ndarray | None = None
    score: Score | None = None
    ranks: Ranks | None = None
    logits: bool = False


def predict(
    config: EvaluationConfig,
    data: ProbeData,
    subject: Subject,
    cell: Wanted,
    metrics: tuple[str, ...],
) -> Predicted:
    """Fit a cell's probe.

    Args:
        config: the file, for the probes' settings.
        data: features and targets, training rows of the cell only.
        subject: what they are of.
        cell: the probe and its seed.
        metrics: of the task; an index looks no deeper than these do.
    """
    if data.problem == "ranking":
        if cell.probe == "index":
            return Predicted(ranks=_index(data, subject, metrics))
        return ranking(data, _score(config, data, subject, cell))
    logits = data.problem != "regression" and cell.probe in ("logistic", "mlp", "fine_tune")
    return Predicted(_outputs(config, data, subject, cell), logits=logits)


def ranking(data: ProbeData, score: Score) -> Predicted:
    """What scores of candidates come to."""
    return Predicted(score=score, ranks=lambda rows: ranks_of(score, data.examples, rows))


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


def _score(config: EvaluationConfig, data: ProbeData, subject: Subject, cell: Wanted) -> Score:
    if cell.probe == "direct":
        assert subject.items is not None  # noqa: S101  # else the cell is not wanted
        return by_items(subject.features, subject.items)
    if cell.probe == "neighbors":
        return by_neighbors(data, _neighbors(data))
    return by_outputs(fit_mlp(data, config.mlp, cell.seed))


def _index(data: ProbeData, subject: Subject, metrics: tuple[str, ...]) -> Ranks:
    space = subject.items
    assert space is not None  # noqa: S101  # else the cell is not wanted
    top = max(int(metric.rpartition("@")[2]) for metric in metrics)
    return lambda rows: ranks_by_index(subject.features, space, data.examples, rows, top)


def _neighbors(data: ProbeData) -> int:
    """The number of neighbors that is best on ``valid``, by the mean reciprocal rank."""
    best, chosen = -1.0, NEIGHBORS[0]
    for number in NEIGHBORS:
        ranks = ranks_of(by_neighbors(data, number), data.examples, data.valid)
        reciprocal = float((1 / (ranks + 1.0)).mean())
        if reciprocal > best:
            best, chosen = reciprocal, number
    return chosen
