"""The probe ``blend``: what several probes say of a row, weighed by how well they did on ``valid``.

Ensemble selection (Caruana et al., ICML 2004): starting from nothing, the probe that helps the
metric most is taken in again and again, with replacement; how often it was taken is its weight. It
is done on several halves of the validation users and the weights are averaged, so that a probe that
was only lucky on some of them gets little. With named blocks the probes of every block are among
them: a block each knows something of, as a model with several feature views would have it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from unirep_feast.evaluation.metrics import higher_is_better, ranked_values
from unirep_feast.evaluation.predicting import Predicted, ranking
from unirep_feast.evaluation.probe_data import ProbeData
from unirep_feast.evaluation.ranking import (
    Score,
    by_log_popularity,
    offsets_of,
    ranks_of,
)
from unirep_feast.evaluation.scoring import measure

_ROUNDS = 10
#: Rounds without a gain worth the name, after which no more are tried.
_PATIENCE, _GAIN = 3, 1e-6
_SEED = 20_250_102
_HALVES = 5
#: Of a ranking: scores held at once, and validation rows looked at, at most.
_CELLS = 1 << 28
_RANKED_ROWS = 500

#: From (k,) weights and places among the rows weighed on to the metric, higher is better.
Value = Callable[[np.ndarray, np.ndarray], float]


def blend(data: ProbeData, members: Sequence[Predicted], metric: str) -> Predicted:
    """Weigh what probes say on the validation split.

    Averaged are probabilities, of a regression numbers, of a ranking scores, which are standardised
    per row first; there popularity is a member, too, which needs no vector and is hard to beat.

    Args:
        data: targets and splits.
        members: what each probe says; of a ranking all have scores.
        metric: the task's primary one.
    """
    if data.problem == "ranking":
        scores = [member.score for member in members if member.score is not None]
        scores.append(by_log_popularity(data.examples))
        return ranking(data, _sum(scores, _ranking_weights(data, scores, metric)))
    outputs = [_comparable(member) for member in members]
    on_valid = [each[data.valid] for each in outputs]
    sign = 1 if higher_is_better(metric) else -1

    def value(weights: np.ndarray, some: np.ndarray) -> float:
        found = _weighed(on_valid, weights)
        return sign * measure(data, metric, data.valid, found)(some)

    weights = select(value, len(members), data.examples.users[data.valid])
    return Predicted(_weighed(outputs, weights).astype(np.float32))


def select(value: Value, count: int, users: np.ndarray) -> np.ndarray:
    """Weights of members, by ensemble selection on halves of the users.

    Args:
        value: what weights are worth on some rows.
        count: members, k.
        users: (n,) whose rows these are; a user's rows stay together.

    Returns:
        (k,) >= 0, summing to 1.
    """
    generator = np.random.default_rng(_SEED)
    distinct, place = np.unique(users, return_inverse=True)
    total = np.zeros(count)
    for _ in range(_HALVES):
        half = generator.permutation(len(distinct)) < max(len(distinct) // 2, 1)
        total += _taken(value, count, np.flatnonzero(half[place]))
    return np.asarray(total / total.sum())


def _taken(value: Value, count: int, some: np.ndarray) -> np.ndarray:
    """(k,) how often each member was taken when it was best, over that number."""
    taken, best, kept = np.zeros(count), -np.inf, np.full(count, 1 / count)
    stale = 0
    while stale < _PATIENCE and taken.sum() < _ROUNDS:
        tried = [value(weights / weights.sum(), some) for weights in taken + np.eye(count)]
        pick = int(np.argmax(np.nan_to_num(tried, nan=-np.inf)))
        taken[pick] += 1
        stale += 1
        if tried[pick] > best + _GAIN:
            best, kept, stale = tried[pick], taken / taken.sum(), 0
    return kept


def _comparable(member: Predicted) -> np.ndarray:
    """Outputs that mean the same whichever probe they are of: probabilities, or numbers."""
    assert member.outputs is not None  # noqa: S101  # no ranking
    found = member.outputs.astype(np.float64)
    return np.asarray(torch.from_numpy(found).sigmoid()) if member.logits else found


def _weighed(outputs: Sequence[np.ndarray], weights: np.ndarray) -> np.ndarray:
    found = np.zeros(outputs[0].shape)
    for weight, each in zip(weights, outputs, strict=True):
        if weight:
            found += weight * each
    return found


def _ranking_weights(data: ProbeData, scores: Sequence[Score], metric: str) -> np.ndarray:
    """Weights of rankings; tried on so many validation rows as scores can be held of."""
    candidates = data.outputs
    fit = max(_CELLS // (candidates * len(scores)), 1)
    rows = np.random.default_rng(_SEED).permutation(data.valid)[: min(_RANKED_ROWS, fit)]
    rows.sort()
    held = torch.stack([_standard(score(rows)) for score in scores])

    def value(weights: np.ndarray, some: np.ndarray) -> float:
        mixed = torch.zeros(len(some), candidates)
        for member in np.flatnonzero(weights):  # of dozens a few have a weight
            mixed.add_(held[member][some], alpha=float(weights[member]))
        chosen = rows[some]
        ranks = ranks_of(lambda asked: mixed[np.searchsorted(chosen, asked)], data.examples, chosen)
        return float(ranked_values(metric, ranks, offsets_of(data.examples, chosen)).mean())

    return select(value, len(scores), data.examples.users[rows])


def _sum(scores: Sequence[Score], weights: np.ndarray) -> Score:
    pairs = [(float(w), score) for w, score in zip(weights, scores, strict=True) if w]

    def score(rows: np.ndarray) -> Tensor:
        return torch.stack([weight * _standard(each(rows)) for weight, each in pairs]).sum(0)

    return score


def _standard(scores: Tensor) -> Tensor:
    """(b, m) scores with mean 0 and spread 1 in every row; the least where there is none."""
    known = torch.isfinite(scores)
    count = known.sum(1, keepdim=True).clamp(min=1)
    filled = torch.where(known, scores, 0)
    mean = filled.sum(1, keepdim=True) / count
    centred = torch.where(known, filled - mean, 0)
    spread = (centred.square().sum(1, keepdim=True) / count).sqrt().clamp(min=1e-12)
    found = centred / spread
    return torch.where(known, found, found.min(1, keepdim=True).values)
