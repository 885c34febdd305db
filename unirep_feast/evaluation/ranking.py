"""Full rankings of all candidates, by item vectors, by neighbors, by outputs of a probe."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from unirep_feast.evaluation.probe_data import ProbeData
from unirep_feast.index import Metric, build_index
from unirep_feast.index.exact import unit
from unirep_feast.index.trees import Index
from unirep_feast.task import Examples

#: Scores held at once; sorting them takes several times as much memory.
_CELLS = 1 << 22

#: Positives of a row up to which what stands above each is counted, instead of sorting all.
_FEW_POSITIVES = 8

#: Neighbors tried; the number that is best on ``valid`` is used.
NEIGHBORS = (10, 30, 100, 300)
_SHARPNESS = 20.0  # of a cosine in the weight of a neighbor
_PRIOR = 1e-3  # of popularity, which orders what no neighbor turned to

#: From (b,) rows to (b, m) scores of all candidates.
Score = Callable[[np.ndarray], Tensor]


@dataclass(frozen=True)
class ItemSpace:
    """Item vectors of a run, lined up with a task's candidates.

    Attributes:
        vectors: (m, D) float32; zeros where a candidate has none.
        known: (m,) bool.
        metric: how users and items are compared.
        num_vectors: K of the users.
    """

    vectors: np.ndarray
    known: np.ndarray
    metric: Metric
    num_vectors: int

    def score(self, users: np.ndarray) -> np.ndarray:
        """(b, m) best score over the K vectors of each of (b, K · D) users; unknown items last."""
        flat = users.reshape(len(users) * self.num_vectors, -1)
        items = self.vectors
        if self.metric == "cosine":
            flat, items = unit(flat), unit(items)
        scores = flat @ items.T
        if self.metric == "l2":
            scores = 2 * scores - (items**2).sum(1) - (flat**2).sum(1)[:, None]
        best = scores.reshape(len(users), self.num_vectors, -1).max(1)
        best[:, ~self.known] = -np.inf
        return np.asarray(best)


def ranks_of(score: Score, examples: Examples, rows: np.ndarray) -> np.ndarray:
    """Where the positives of some rows come out among all candidates, from 0.

    Equal scores are ordered by popularity before the cut-off, then by place: a model that says
    nothing is the list of what is popular.

    Returns:
        (sum of positives,) int32, row after row.
    """
    offsets, positives, popularity = examples.offsets, examples.positives, examples.popularity
    assert offsets is not None and positives is not None and popularity is not None  # noqa: S101
    popular = torch.from_numpy(np.argsort(-popularity, kind="stable"))
    place_in_popular = np.empty(len(popular), np.int64)
    place_in_popular[popular.numpy()] = np.arange(len(popular))
    found = []
    for some in _chunks(rows, len(popular)):
        row, place = _pairs(offsets, some)
        columns = torch.from_numpy(place_in_popular[positives[place]])
        few = len(row) <= _FEW_POSITIVES * len(some)
        ranks = _by_counting if few else _by_sorting
        found.append(ranks(score(some)[:, popular], torch.from_numpy(row), columns).numpy())
    return np.concatenate(found).astype(np.int32) if found else np.empty(0, np.int32)


def _by_counting(scores: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Rank some places of (b, m) scores, by what stands above each: cheap for few of them."""
    found = []
    step = max(_CELLS // scores.shape[1], 1)
    number = torch.arange(scores.shape[1])
    for row, column in zip(torch.split(rows, step), torch.split(columns, step), strict=True):
        beside, mine = scores[row], scores[row, column][:, None]
        before = (beside == mine) & (number < column[:, None])
        found.append(((beside > mine) | before).sum(1))
    return torch.cat(found) if found else rows


def _by_sorting(scores: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """The same, of many places a row."""
    order = torch.sort(scores, dim=1, descending=True, stable=True).indices
    rank = torch.empty_like(order)
    rank.scatter_(1, order, torch.arange(order.shape[1]).expand_as(order))
    return rank[rows, columns]


def offsets_of(examples: Examples, rows: np.ndarray) -> np.ndarray:
    """(n + 1,) bounds of the positives of some rows, as :func:`ranks_of` returns them."""
    assert examples.offsets is not None  # noqa: S101
    sizes = examples.offsets[rows + 1] - examples.offsets[rows]
    return np.concatenate(([0], np.cumsum(sizes)))


def by_items(features: np.ndarray, space: ItemSpace) -> Score:
    """Score candidates by their vectors; ``features`` are (n, K · D) user vectors."""
    return lambda rows: torch.from_numpy(space.score(features[rows]))


def by_outputs(outputs: np.ndarray) -> Score:
    """Score candidates by (n, m) outputs of a probe."""
    return lambda rows: torch.from_numpy(outputs[rows])


def by_popularity(examples: Examples) -> Score:
    """One list for all."""
    assert examples.popularity is not None  # noqa: S101
    width = len(examples.popularity)
    return lambda rows: torch.zeros(len(rows), width)


def by_log_popularity(examples: Examples) -> Score:
    """The same list, with scores: log(1 + events before the cut-off)."""
    assert examples.popularity is not None  # noqa: S101
    popularity = torch.from_numpy(examples.popularity).float().log1p()
    return lambda rows: popularity.expand(len(rows), -1)


def by_neighbors(data: ProbeData, number: int) -> Score:
    """Score candidates by what the nearest training users turned to.

    Neighbors are the ``number`` nearest training rows by cosine of the scaled vectors; each adds
    its positives with a weight that grows with the cosine. No parameter is fitted, so it works for
    vectors of any kind, with or without items.
    """
    examples = data.examples
    assert examples.offsets is not None and examples.positives is not None  # noqa: S101
    assert examples.popularity is not None  # noqa: S101
    points = torch.from_numpy(unit(data.scaled))
    row, place = _pairs(examples.offsets, data.train)
    sizes = np.bincount(row, minlength=len(data.train))
    weights = torch.from_numpy((1 / sizes[row]).astype(np.float32))
    places = torch.from_numpy(np.stack([examples.positives[place], row]))
    shape = (len(examples.popularity), len(data.train))
    turned = torch.sparse_coo_tensor(
        places, weights, shape, check_invariants=False
    ).coalesce()  # (m, n_train)
    prior = torch.from_numpy(examples.popularity / max(examples.popularity.max(), 1)) * _PRIOR
    known = points[data.train]

    def score(rows: np.ndarray) -> Tensor:
        cosine = points[rows] @ known.T
        nearest = cosine.topk(min(number, len(known)), dim=1)
        weight = torch.zeros_like(cosine)
        weight.scatter_(1, nearest.indices, torch.softmax(nearest.values * _SHARPNESS, dim=1))
        found: Tensor = torch.sparse.mm(turned, weight.T).T + prior
        return found

    return score


def ranks_by_index(
    features: np.ndarray, space: ItemSpace, examples: Examples, rows: np.ndarray, top: int
) -> np.ndarray:
    """Where positives come out among what an Annoy index finds; beyond ``top``, the last place.

    The index is built as ``unirep similar`` builds it, to 95 % of the exact top 100.
    """
    offsets, positives = examples.offsets, examples.positives
    assert offsets is not None and positives is not None  # noqa: S101
    known = np.flatnonzero(space.known)
    users = features.reshape(len(features), space.num_vectors, -1)
    last = len(space.known)
    with tempfile.TemporaryDirectory(prefix="unirep-index-") as folder:
        path = Path(folder) / "items.ann"
        sample = users[rows[: min(len(rows), 500)]]
        built = build_index(path, space.vectors[known][:, None], space.metric, sample)
        index = Index.open(path, len(known), 1, users.shape[2], space.metric, built.tuning.search_k)
        found = np.full((len(rows), top), -1, np.int64)
        for position, user in enumerate(users[rows]):  # Annoy answers one question at a time
            hits = known[index.search(user, top).rows]
            found[position, : len(hits)] = hits
    row, place = _pairs(offsets, rows)
    equal = found[row] == positives[place][:, None]
    return np.where(equal.any(1), equal.argmax(1), last).astype(np.int32)


def _pairs(offsets: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of all positives of some rows: which of ``rows``, and where among the positives."""
    sizes = offsets[rows + 1] - offsets[rows]
    row = np.repeat(np.arange(len(rows)), sizes)
    first = np.repeat(np.cumsum(sizes) - sizes, sizes)
    return row, np.arange(len(row)) - first + np.repeat(offsets[rows], sizes)


def _chunks(rows: np.ndarray, candidates: int) -> Iterator[np.ndarray]:
    size = max(_CELLS // max(candidates, 1), 1)
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
