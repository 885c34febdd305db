"""How many trees, and how many nodes per search: as few as reach a stated recall."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from unirep_feast.index.exact import Found, Metric, exact_search, without

#: Questions that recall is measured with.
SAMPLE = 200

_TREES = (16, 32, 64, 128, 256)
_CHEAP_SHARE = 16  # a search that looks at more than 1/16 of all vectors is worth more trees,
_CHEAP = 8_192  # unless that takes about a millisecond
_QUICK = 65_536  # the most nodes that are tried where vectors are fewer
_ROUNDING = 1e-5  # of a score, relative to the largest


class Searcher(Protocol):
    """Anything that answers a question of (Q, D) vectors with its top owners."""

    def search(self, query: np.ndarray, top: int) -> Found:
        """Answer one question."""
        ...


@dataclass(frozen=True)
class Tuning:
    """What an index was built with, and what that is good for.

    Attributes:
        n_trees: trees in the forest.
        search_k: nodes looked at per query vector.
        recall: share of the exact top that was found, mean over the sample.
        wanted: the recall that was asked for; ``recall`` may have stayed below it.
        top: M, how long the compared lists were.
        questions: how many were asked.
    """

    n_trees: int
    search_k: int
    recall: float
    wanted: float
    top: int
    questions: int

    @property
    def reached(self) -> bool:
        """Whether the recall that was asked for was reached."""
        return self.recall >= self.wanted

    def line(self) -> str:
        """One line for people."""
        text = (
            f"recall@{self.top} {self.recall:.3f} against exact search ({self.questions} questions,"
            f" {self.n_trees} trees, search_k {self.search_k:,})"
        )
        return text if self.reached else f"{text}; {self.wanted:g} was wanted and not reached"


def tune(
    grow: Callable[[int], Callable[[int], Searcher]],
    vectors: np.ndarray,
    queries: np.ndarray | None,
    metric: Metric,
    wanted: float,
    top: int,
    seed: int,
) -> Tuning:
    """Grow a forest until searches through it reach a recall; it stays at that size.

    Per number of trees, ``search_k`` doubles. More trees come where a search would have to look at
    a large share of all vectors; at the largest number it may look at as many nodes as there are
    vectors.

    Args:
        grow: builds so many trees and returns what opens them with a ``search_k``.
        vectors: (n, K, D), what is in the forest.
        queries: (B, Q, D) questions to draw the sample from; None draws owners, and nobody finds
            himself.
        metric: how vectors are compared.
        wanted: recall.
        top: M.
        seed: of the sample.
    """
    owners, per_owner, _ = vectors.shape
    asked = vectors if queries is None else queries
    picked = np.sort(np.random.default_rng(seed).permutation(len(asked))[: min(SAMPLE, len(asked))])
    sample = np.ascontiguousarray(asked[picked])
    own = [np.array([row]) if queries is None else np.empty(0, np.int64) for row in picked]
    top = min(top, max(owners - (queries is None), 1))
    more = top + (queries is None)
    truth = [
        without(found, row, top)
        for found, row in zip(exact_search(vectors, sample, more, metric), own, strict=True)
    ]
    count = owners * per_owner
    cheap = max(count // _CHEAP_SHARE, _CHEAP)
    for n_trees in _TREES:
        open_with = grow(n_trees)
        last = n_trees == _TREES[-1]
        # Beyond `count` nodes, exact search would be the quicker one.
        limit = max(count, _QUICK) if last else cheap
        search_k = more * per_owner
        while True:
            index = open_with(search_k)
            answers = [
                without(index.search(query, more), row, top)
                for query, row in zip(sample, own, strict=True)
            ]
            found = recall(truth, answers)
            if found >= wanted or search_k >= limit:
                break
            search_k *= 2
        if found >= wanted or last:
            break
    return Tuning(n_trees, search_k, found, wanted, top, len(sample))


def recall(truth: Sequence[Found], answers: Sequence[Found]) -> float:
    """Share of the exact top that was found, mean over questions.

    Owners whose scores tie with the last of the exact top are as good as it: users with the same
    history have the same vector, and which of them is listed is arbitrary.
    """
    shares = []
    for exact, answer in zip(truth, answers, strict=True):
        if len(exact) == 0:  # an only child has no neighbours to miss
            continue
        slack = _ROUNDING * float(np.abs(exact.scores).max())
        shares.append((answer.scores >= exact.scores[-1] - slack).sum() / len(exact))
    return float(np.mean(shares)) if shares else 1.0
