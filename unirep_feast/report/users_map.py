"""Users on a plane: near where their vectors are, as far as two dimensions can tell."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from unirep_feast.instants import format_instant
from unirep_feast.pipeline.loading import Notify
from unirep_feast.report.population import Population

#: Groups that have a colour of their own; the rest is "other".
GROUPS = 7

#: Users below which a neighborhood graph tells nothing.
_FEW = 20


def map_of(population: Population, notify: Notify) -> dict[str, Any]:
    """Lay users out on a plane.

    By UMAP (McInnes et al., 2018, arXiv:1802.03426) of cosine distances where umap-learn is
    installed, else by the two directions of largest variance.

    Returns:
        ``method as_of users sample grouped_by groups x y group``: ``groups`` the names that
        ``group`` counts through, (n,) -1 for unknown; with no groups, ``length`` is (n,) instead.
    """
    method, points = _layout(population.vectors, notify)
    found: dict[str, Any] = {
        "method": method,
        "as_of": format_instant(population.as_of),
        "users": population.users,
        "sample": len(points),
        "grouped_by": population.grouped_by,
        "x": np.round(points[:, 0], 4).tolist(),
        "y": np.round(points[:, 1], 4).tolist(),
    }
    if population.groups is None:
        found |= {
            "grouped_by": "length of the history",
            "groups": [],
            "length": population.lengths.tolist(),
        }
        return found
    names, places = group_codes(population.groups.to_pylist())
    return found | {"groups": names, "group": places}


def group_codes(values: list[str | None]) -> tuple[list[str], list[int]]:
    """Number the most frequent groups, most frequent first; all others share the last number.

    Returns:
        Names, and (n,) their places; -1 where a value is None.
    """
    counts = Counter(value for value in values if value is not None)
    ordered = sorted(counts, key=lambda name: (-counts[name], name))
    names = ordered if len(ordered) <= GROUPS + 1 else [*ordered[:GROUPS], "other"]
    place = {name: min(number, len(names) - 1) for number, name in enumerate(ordered)}
    return names, [-1 if value is None else place[value] for value in values]


def principal_plane(vectors: np.ndarray) -> np.ndarray:
    """(n, 2) coordinates of (n, D) vectors along the two directions of largest variance."""
    centred = vectors.astype(np.float64) - vectors.mean(0, dtype=np.float64)
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    points = np.zeros((len(vectors), 2))
    some = min(2, len(values))
    points[:, :some] = left[:, :some] * values[:some]
    return points


def _layout(vectors: np.ndarray, notify: Notify) -> tuple[str, np.ndarray]:
    if len(vectors) < _FEW:
        return "PCA", principal_plane(vectors)
    try:
        import umap
    except ImportError:
        notify("the map is drawn by PCA; for UMAP: pip install 'unirep-feast[report]'")
        return "PCA", principal_plane(vectors)
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one thread, because of the seed
        reducer = umap.UMAP(metric="cosine", random_state=0)
        return "UMAP", np.asarray(reducer.fit_transform(vectors), np.float64)
