"""An Annoy index on disk: every vector of a snapshot, mapped into memory and searched by trees."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from annoy import AnnoyIndex

from unirep_feast.errors import SearchError, one_line
from unirep_feast.files import atomic_path, sha256
from unirep_feast.index.exact import Found, Metric, check_shapes
from unirep_feast.index.tuning import Tuning, tune

SEED = 20_060_102

_ANNOY: dict[Metric, Literal["angular", "dot", "euclidean"]] = {
    "cosine": "angular",
    "inner_product": "dot",
    "l2": "euclidean",
}
_MOST_VECTORS = 2**31 - 1  # Annoy counts in 32 bits

#: Called with (done, total, what is being done).
Advance = Callable[[int, int, str], None]


@dataclass(frozen=True)
class IndexFile:
    """An index on disk, and how good it was when it was built.

    Attributes:
        path: the Annoy file.
        checksum: SHA-256 of it.
        size: bytes.
        tuning: trees, nodes looked at per query vector, and the recall they reach.
    """

    path: Path
    checksum: str
    size: int
    tuning: Tuning


class Index:
    """Searches a set of vectors through an Annoy forest.

    Args:
        forest: of n·K vectors, the K of one owner in a row.
        per_owner: K.
        metric: the one it was built for.
        search_k: nodes that are looked at per query vector.
    """

    def __init__(self, forest: AnnoyIndex, per_owner: int, metric: Metric, search_k: int) -> None:
        self._forest, self.per_owner = forest, per_owner
        self.metric, self.search_k = metric, search_k

    @classmethod
    def open(
        cls, path: Path, owners: int, per_owner: int, dim: int, metric: Metric, search_k: int
    ) -> Index:
        """Map an index file.

        Raises:
            SearchError: it is not there, or holds another number of vectors.
        """
        forest = AnnoyIndex(dim, _ANNOY[metric])
        try:
            forest.load(str(path))
        except OSError as error:
            raise SearchError(f"index {path} cannot be read: {one_line(error)}") from None
        if forest.get_n_items() != owners * per_owner:
            raise SearchError(
                f"index {path} holds {forest.get_n_items():,} vectors; wanted {owners:,} x "
                f"{per_owner} of {dim} numbers"
            )
        return cls(forest, per_owner, metric, search_k)

    def __len__(self) -> int:
        """Return the number of owners."""
        return int(self._forest.get_n_items()) // self.per_owner

    def vectors(self, rows: np.ndarray) -> np.ndarray:
        """Return the (m, K, D) float32 vectors of some owners."""
        places = (np.asarray(rows, np.int64)[:, None] * self.per_owner) + np.arange(self.per_owner)
        flat = [self._forest.get_item_vector(place) for place in places.ravel().tolist()]
        return np.array(flat, np.float32).reshape(len(places), self.per_owner, self._forest.f)

    def search(self, query: np.ndarray, top: int) -> Found:
        """Find owners with high scores for one question of one or several vectors.

        One search per query vector; an owner's score is its best pair's. Any top-M owner has a pair
        among the M·K vectors nearest to some query vector, so that many are asked for.

        Args:
            query: (Q, D) float32.
            top: M.

        Returns:
            At most M owners. Owners may be missing (see recall); scores are those of pairs that
            were found, exact up to rounding.

        Raises:
            SearchError: the shapes do not fit.
        """
        check_shapes(np.empty((0, self.per_owner, self._forest.f)), query[None], top)
        near = min(top * self.per_owner, self._forest.get_n_items())
        places, scores = [], []
        for vector in query:
            found, distances = self._forest.get_nns_by_vector(vector, near, self.search_k, True)
            places.append(np.array(found, np.int64))
            scores.append(self._scores(np.array(distances, np.float64)))
        return _best_of(np.concatenate(places) // self.per_owner, np.concatenate(scores), top)

    def _scores(self, distances: np.ndarray) -> np.ndarray:
        """Turn Annoy's distances into scores."""
        if self.metric == "cosine":  # its angular distance is √(2 - 2 cos)
            distances = 1 - distances**2 / 2
        elif self.metric == "l2":
            distances = -distances
        return distances.astype(np.float32)


def build_index(
    path: Path,
    vectors: np.ndarray,
    metric: Metric = "cosine",
    queries: np.ndarray | None = None,
    recall: float = 0.95,
    top: int = 100,
    seed: int = SEED,
    advance: Advance = lambda done, total, what: None,
) -> IndexFile:
    """Build an index that reaches a recall, and put it on disk whole or not at all.

    Trees, and nodes looked at per query, grow until searches through the index find the share
    ``recall`` of what exact search finds, measured on a sample. The same vectors, seed and machine
    give the same bytes.

    Args:
        path: where it goes; a file that is there is replaced.
        vectors: (n, K, D) float32, K vectors per owner.
        metric: how vectors are compared.
        queries: (B, Q, D) float32 questions to measure with, where those that will be asked are
            not of the vectors' own kind (users who look for items); None takes owners.
        recall: wanted share of the exact top, in (0, 1].
        top: M of that top.
        seed: of the trees and of the sample.
        advance: called while it goes on.

    Raises:
        SearchError: there are no vectors or too many, or the disk refuses.
    """
    owners, per_owner, dim = vectors.shape
    if not 0 < owners * per_owner <= _MOST_VECTORS:
        raise SearchError(
            f"{owners:,} x {per_owner} vectors cannot be indexed; wanted 1 to {_MOST_VECTORS:,}: "
            "use exact search"
        )
    if not 0 < recall <= 1:
        raise SearchError(f"a recall of {recall} is wanted; it must lie in (0, 1]")
    forest = AnnoyIndex(dim, _ANNOY[metric])
    forest.set_seed(seed)
    # Annoy takes vectors one by one only.
    flat = vectors.reshape(-1, dim)
    for place in range(len(flat)):
        forest.add_item(place, flat[place])
        if place % 65_536 == 0:
            advance(place, len(flat), "vectors added")

    def grow(n_trees: int) -> Callable[[int], Index]:
        advance(0, n_trees, "trees")
        forest.unbuild()
        # One thread: several would number the nodes by who comes first.
        forest.build(n_trees, n_jobs=1)
        advance(n_trees, n_trees, "trees")
        return lambda search_k: Index(forest, per_owner, metric, search_k)

    tuning = tune(grow, vectors, queries, metric, recall, top, seed)
    try:
        with atomic_path(path) as temporary:
            if not forest.save(str(temporary)):
                raise OSError(0, "Annoy wrote nothing")
            checksum, size = sha256(temporary), temporary.stat().st_size
    except OSError as error:
        raise SearchError(
            f"index {path} cannot be written: {error.strerror or error}; free space or mend the "
            "folder"
        ) from None
    return IndexFile(path, checksum, size, tuning)


def _best_of(owners: np.ndarray, scores: np.ndarray, top: int) -> Found:
    """Keep the best pair of each owner: by falling score, ties by row."""
    order = np.lexsort((owners, -scores))
    owners, scores = owners[order], scores[order]
    _, first = np.unique(owners, return_index=True)
    first = np.sort(first)[:top]
    return Found(owners[first], scores[first])
