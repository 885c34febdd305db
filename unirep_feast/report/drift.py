"""How the users' vectors moved from snapshot to snapshot of one run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from unirep_feast.catalog import Snapshot
from unirep_feast.config import RepresentationSpec, format_instant
from unirep_feast.evaluation.intrinsic import (
    effective_rank,
    frechet_drift,
    mean_shift,
    neighbor_overlap,
)
from unirep_feast.snapshot import read_vectors, snapshot_path

#: Snapshots that are compared, the latest.
MOST = 12


def drift_of(
    spec: RepresentationSpec, run: str, snapshots: Sequence[Snapshot]
) -> list[dict[str, Any]]:
    """Compare each snapshot with the first of those shown, and with the one before it.

    Args:
        spec: the representation.
        run: whose snapshots.
        snapshots: earlier first.

    Returns:
        One entry per snapshot: ``as_of users effective_rank``, ``mean_shift`` and ``frechet`` of
        the population since the first, and ``neighbors_kept`` of the users in both since the one
        before; None for the first.
    """
    entries: list[dict[str, Any]] = []
    first: np.ndarray | None = None
    before: tuple[pa.Array, np.ndarray] | None = None
    for snapshot in snapshots[-MOST:]:
        path = snapshot_path(spec.home, run, snapshot.as_of)
        ids, vectors = read_vectors(path, spec.view.join_key)
        first = vectors if first is None else first
        entries.append(
            {
                "as_of": format_instant(snapshot.as_of),
                "users": len(ids),
                "effective_rank": effective_rank(vectors),
                "mean_shift": mean_shift(first, vectors),
                "frechet": frechet_drift(first, vectors),
                "neighbors_kept": None if before is None else _kept(before, (ids, vectors)),
            }
        )
        before = ids, vectors
    return entries


def _kept(before: tuple[pa.Array, np.ndarray], after: tuple[pa.Array, np.ndarray]) -> float | None:
    place = pc.index_in(before[0], value_set=after[0])
    shared = place.is_valid().to_numpy(zero_copy_only=False)
    if shared.sum() < 2:
        return None
    there = place.drop_null().to_numpy().astype(np.int64)
    return neighbor_overlap(before[1][shared], after[1][there])
