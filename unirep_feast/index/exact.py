"""Search that compares with every vector: matrix products in chunks, exact up to rounding."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from unirep_feast.errors import SearchError

#: How two vectors are compared, as ``view.metric`` of a spec has it: the cosine of their angle,
#: their inner product, or their Euclidean distance, whose negative is the score.
Metric = Literal["cosine", "inner_product", "l2"]

#: How the scores of several seeds become one.
Merge = Literal["max", "mean"]

#: Scores held at once; 64 MB of them.
_CELLS = 1 << 24

_LOW = 0xFFFF_FFFF
_SIGN_KEPT = np.int32(0x7FFF_FFFF)


@dataclass(frozen=True)
class Found:
    """Owners by falling score, ties by row.

    Attributes:
        rows: (m,) int64 positions of the owners.
        scores: (m,) float32.
    """

    rows: np.ndarray
    scores: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)


def exact_search(
    vectors: np.ndarray,
    queries: np.ndarray,
    top: int,
    metric: Metric = "cosine",
    merge: Merge | None = None,
) -> list[Found]:
    """Find the owners with the highest scores.

    The score of an owner for a question is the highest over all pairs of a vector of the owner and
    one of the question's. The order of either's vectors changes nothing, and under ``cosine``
    neither does their length; a vector of zeros has a cosine of 0 with everything.

    Args:
        vectors: (n, K, D) float32, K vectors per owner.
        queries: (B, Q, D) float32, Q vectors per question.
        top: M, at most so many owners per question.
        metric: how two vectors are compared.
        merge: None answers every question by itself; else the B questions are one, and an owner's
            score is the highest, or the mean, over them.

    Returns:
        One answer per question, or a single one where ``merge`` is given; min(M, n) owners each.

    Raises:
        SearchError: the shapes do not fit.

    >>> people = np.array([[[1, 0]], [[0, 1]], [[3, 4]]], np.float32)
    >>> exact_search(people, np.array([[[1, 0]]], np.float32), top=2)[0].rows
    array([0, 2])
    """
    check_shapes(vectors, queries, top)
    questions = len(queries) if merge is None else 1
    best = np.empty((questions, 0), np.int64)
    for start, scores in _scores(vectors, queries, metric):
        if merge == "max":
            scores = scores.max(0, keepdims=True)
        elif merge == "mean":
            scores = scores.mean(0, keepdims=True, dtype=np.float64).astype(np.float32)
        best = np.concatenate((best, _keys(scores, start)), axis=1)
        if best.shape[1] > top:
            best = np.partition(best, best.shape[1] - top, axis=1)[:, -top:]
    rows, scores = _read_keys(np.sort(best, axis=1)[:, ::-1])
    return [Found(*answer) for answer in zip(rows, scores, strict=True)]


def without(found: Found, rows: np.ndarray, top: int) -> Found:
    """Leave some owners out of an answer, then cut it to ``top``."""
    kept = np.flatnonzero(~np.isin(found.rows, rows))[:top]
    return Found(found.rows[kept], found.scores[kept])


def unit(vectors: np.ndarray) -> np.ndarray:
    """Scale (…, D) vectors to length 1; a vector of zeros stays one."""
    lengths = np.sqrt(np.einsum("...d,...d->...", vectors, vectors, dtype=np.float64))[..., None]
    return np.asarray(vectors / np.where(lengths > 0, lengths, 1).astype(np.float32), np.float32)


def check_shapes(vectors: np.ndarray, queries: np.ndarray, top: int) -> None:
    """Refuse vectors and questions that cannot be compared."""
    if vectors.ndim != 3 or queries.ndim != 3 or vectors.shape[2] != queries.shape[2]:
        raise SearchError(
            f"vectors are {vectors.shape} and queries {queries.shape}; wanted (n, K, D) and "
            "(B, Q, D) with the same D: do both come from one run?"
        )
    if top < 1:
        raise SearchError(f"top is {top}; wanted at least 1")


def _scores(
    vectors: np.ndarray, queries: np.ndarray, metric: Metric
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the first row of a chunk and its (B, rows) scores."""
    owners, per_owner, dim = vectors.shape
    questions, per_question, _ = queries.shape
    flat = queries.reshape(-1, dim)
    if metric == "cosine":
        flat = unit(flat)
    elif metric == "l2":  # |q|² + |v|² - 2 q·v of near vectors needs the digits
        flat = flat.astype(np.float64)
    rows = max(_CELLS // max(len(flat) * per_owner, dim * per_owner, 1), 1)
    for start in range(0, owners, rows):
        chunk = vectors[start : start + rows].reshape(-1, dim)
        if metric == "cosine":
            chunk = unit(chunk)
        elif metric == "l2":
            chunk = chunk.astype(np.float64)
        pairs = flat @ chunk.T  # (B·Q, rows·K)
        if metric == "l2":
            pairs = _squares(flat)[:, None] + _squares(chunk) - 2 * pairs
            pairs = -np.sqrt(pairs.clip(min=0)).astype(np.float32)
        pairs = pairs.reshape(questions, per_question, -1, per_owner)
        yield start, pairs.max(axis=3).max(axis=1)


def _squares(vectors: np.ndarray) -> np.ndarray:
    return np.asarray(np.einsum("nd,nd->n", vectors, vectors))


def _keys(scores: np.ndarray, start: int) -> np.ndarray:
    """Put score and row into one integer that sorts by score, then by falling row."""
    bits = (scores + np.float32(0)).view(np.int32)  # + 0 makes one zero of the two
    bits = np.where(bits < 0, bits ^ _SIGN_KEPT, bits).astype(np.int64)
    rows = np.arange(start, start + scores.shape[1], dtype=np.int64)
    return np.asarray((bits << 32) | (_LOW - rows))


def _read_keys(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    bits = (keys >> 32).astype(np.int32)
    bits = np.where(bits < 0, bits ^ _SIGN_KEPT, bits)
    return _LOW - (keys & _LOW), bits.view(np.float32)
