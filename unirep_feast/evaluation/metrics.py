"""Metrics of predictions, the usual ones by their usual names."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import numpy as np

from unirep_feast.errors import EvaluationError
from unirep_feast.task import Problem

#: Metrics where less is better.
_LOWER = frozenset({"mae"})

_RANKED = re.compile(r"(recall|mrr|ndcg)@([1-9]\d*)")
_GROUPED = frozenset({"auc_per_group", "ndcg@10_per_group"})


def higher_is_better(metric: str) -> bool:
    """Whether more of a metric is better."""
    return metric not in _LOWER


def check_metric(problem: Problem, metric: str) -> None:
    """Refuse a metric that is not one of the problem's.

    Raises:
        EvaluationError: names those that are.
    """
    known = [*_WHOLE.get(problem, {}), *(_GROUPED if problem == "impressions" else ())]
    if problem == "ranking":
        if _RANKED.fullmatch(metric):
            return
        known = ["recall@M", "mrr@M", "ndcg@M"]
    if metric not in known:
        raise EvaluationError(
            f"metric {metric!r} is none of a {problem} task; wanted {', '.join(known)}"
        )


def is_per_row(problem: Problem, metric: str) -> bool:
    """Whether the metric is a mean over rows (or groups of rows), each with a value of its own."""
    return problem == "ranking" or metric in _GROUPED


def whole(problem: Problem, metric: str, targets: np.ndarray, scores: np.ndarray) -> float:
    """A metric of all rows together; NaN where it is not defined, such as AUC of one class.

    Args:
        problem: of the task.
        metric: its name.
        targets: as in :class:`~unirep_feast.task.Examples`.
        scores: (n,) or (n, C), higher for likelier; the predicted number for ``regression``.
    """
    return _WHOLE[problem][metric](targets, scores)


def per_row(metric: str, targets: np.ndarray, scores: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """(n,) value of a grouped metric at the first row of each group, NaN at all others.

    Groups with only clicks or none have no order to get right, and are left out.
    """
    values = np.full(len(targets), np.nan)
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.diff(groups[order], prepend=groups[order][:1] - 1))
    group = np.cumsum(np.bincount(starts, minlength=len(order))) - 1  # (n,) in sorted order
    wanted, found = targets[order] > 0, scores[order]
    size = np.bincount(group)
    clicks = np.bincount(group, wanted)
    usable = (clicks > 0) & (clicks < size)
    if metric == "auc_per_group":
        ranked = np.lexsort((found, group))
        rank = _mean_ranks(group[ranked], found[ranked])
        within = rank - np.concatenate(([0], np.cumsum(size)))[group[ranked]]
        sums = np.bincount(group[ranked], np.where(wanted[ranked], within, 0))
        pairs = np.where(usable, clicks * (size - clicks), 1)
        result = (sums - clicks * (clicks + 1) / 2) / pairs
    else:
        ranked = np.lexsort((-found, group))
        place = np.arange(len(order)) - np.concatenate(([0], np.cumsum(size)))[group[ranked]]
        gain = np.where(place < 10, wanted[ranked] / np.log2(place + 2), 0)
        best = np.concatenate(([0], np.cumsum(1 / np.log2(np.arange(10) + 2))))
        result = np.bincount(group[ranked], gain) / np.where(
            usable, best[np.minimum(clicks, 10).astype(int)], 1
        )
    values[order[starts]] = np.where(usable, result, np.nan)
    return values


def ranked_values(metric: str, ranks: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """(n,) recall@M, mrr@M or ndcg@M of lists, from where their positives came out.

    Args:
        metric: its name.
        ranks: ranks from 0 of all positives, those of row i at ``offsets[i]:offsets[i + 1]``.
        offsets: (n + 1,) int64; every row has a positive.
    """
    found = _RANKED.fullmatch(metric)
    assert found is not None  # noqa: S101  # checked with the task
    kind, top = found[1], int(found[2])
    sizes = np.diff(offsets)
    rows = np.repeat(np.arange(len(sizes)), sizes)
    hit = ranks < top
    if kind == "recall":
        return np.asarray(np.bincount(rows, hit, minlength=len(sizes)) / sizes)
    if kind == "mrr":
        return np.asarray(np.maximum.reduceat(np.where(hit, 1 / (ranks + 1.0), 0), offsets[:-1]))
    gain = np.bincount(rows, np.where(hit, 1 / np.log2(ranks + 2.0), 0), minlength=len(sizes))
    best = np.concatenate(([0], np.cumsum(1 / np.log2(np.arange(top) + 2))))
    return np.asarray(gain / best[np.minimum(sizes, top)])


def auc_columns(targets: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """(C,) area under the ROC curve of every column, ties counted half; NaN of one class.

    Mann and Whitney's U: the share of pairs of a positive and a negative that stand right.

    Args:
        targets: (n, C) 0 or 1.
        scores: (n, C).
    """
    n = len(targets)
    order = np.argsort(scores, axis=0, kind="stable")
    ordered = np.take_along_axis(scores, order, 0)
    positive = np.take_along_axis(targets > 0, order, 0)
    rank = np.empty(ordered.shape)
    for column in range(ordered.shape[1]):  # a handful of outputs
        rank[:, column] = _mean_ranks(np.zeros(n, np.int64), ordered[:, column])
    positives = positive.sum(0)
    pairs = positives * (n - positives)
    total = np.where(positive, rank, 0).sum(0) - positives * (positives + 1) / 2
    return np.asarray(np.where(pairs > 0, total / np.where(pairs > 0, pairs, 1), np.nan))


def _mean_ranks(group: np.ndarray, ordered: np.ndarray) -> np.ndarray:
    """(n,) ranks from 1 of values sorted within groups, the mean rank for ties."""
    n = len(ordered)
    if n == 0:
        return np.empty(0)
    new = np.concatenate(([True], (ordered[1:] != ordered[:-1]) | (group[1:] != group[:-1])))
    first = np.flatnonzero(new)
    last = np.concatenate((first[1:], [n]))
    return np.asarray(((first + last + 1) / 2)[np.cumsum(new) - 1])


def _auc(targets: np.ndarray, scores: np.ndarray) -> float:
    return float(auc_columns(targets[:, None], scores[:, None])[0])


def _ap_columns(targets: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """(C,) average precision; of equal scores the precision behind all of them counts."""
    values = np.full(targets.shape[1], np.nan)
    for column in range(targets.shape[1]):
        wanted, found = targets[:, column] > 0, scores[:, column]
        if not wanted.any():
            continue
        order = np.argsort(-found, kind="stable")
        hits = np.cumsum(wanted[order])
        ends = np.flatnonzero(np.append(np.diff(found[order]) != 0, True))
        precision = hits[ends] / (ends + 1)
        values[column] = (precision * np.diff(hits[ends], prepend=0)).sum() / hits[-1]
    return values


def _mean(values: np.ndarray) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


def _one_hot(targets: np.ndarray, scores: np.ndarray) -> np.ndarray:
    return np.asarray(targets.astype(np.int64)[:, None] == np.arange(scores.shape[1]))


def _r2(targets: np.ndarray, scores: np.ndarray) -> float:
    wanted = targets.astype(np.float64)
    spread = ((wanted - wanted.mean()) ** 2).sum()
    return float(1 - ((wanted - scores) ** 2).sum() / spread) if spread else float("nan")


def _spearman(targets: np.ndarray, scores: np.ndarray) -> float:
    ranks = []
    for values in (targets, scores):
        order = np.argsort(values, kind="stable")
        rank = np.empty(len(values))
        rank[order] = _mean_ranks(np.zeros(len(values), np.int64), values[order])
        ranks.append(rank - rank.mean())
    scale = np.sqrt((ranks[0] ** 2).sum() * (ranks[1] ** 2).sum())
    return float((ranks[0] * ranks[1]).sum() / scale) if scale else 0.0


Whole = Callable[[np.ndarray, np.ndarray], float]

_BINARY: Mapping[str, Whole] = {
    "auc": _auc,
    "ap": lambda t, s: float(_ap_columns(t[:, None], s[:, None])[0]),
}

_WHOLE: Mapping[Problem, Mapping[str, Whole]] = {
    "binary": _BINARY,
    "impressions": _BINARY,
    "multilabel": {
        "auc": lambda t, s: _mean(auc_columns(t, s)),
        "ap": lambda t, s: _mean(_ap_columns(t, s)),
    },
    "multiclass": {
        "auc": lambda t, s: _mean(auc_columns(_one_hot(t, s), s)),
        "accuracy": lambda t, s: float((s.argmax(1) == t).mean()),
    },
    "regression": {
        "r2": _r2,
        "spearman": _spearman,
        "mae": lambda t, s: float(np.abs(t.astype(np.float64) - s).mean()),
    },
}
