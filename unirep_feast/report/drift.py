"""How the users' vectors moved from snapshot to snapshot of one run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from unirep_feast.catalog import Snapshot
from unirep_feast.config import RepresentationSpec
from unirep_feast.evaluation.intrinsic import (
    Moments,
    effective_rank,
    frechet_drift,
    in_both,
    mean_shift,
    moments,
    neighbor_overlap,
)
from unirep_feast.instants import format_instant
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
    first: Moments | None = None  # no more of it: snapshots are large
    before: tuple[pa.Array, np.ndarray] | None = None
    for snapshot in snapshots[-MOST:]:
        path = snapshot_path(spec.home, run, snapshot.as_of)
        ids, vectors = read_vectors(path, spec.view.join_key)
        kept = None if before is None else _kept(before, (ids, vectors))
        before = ids, vectors  # lets go of the one before, ahead of the moments' own copies
        present = moments(vectors)
        first = first or present
        entries.append(
            {
                "as_of": format_instant(snapshot.as_of),
                "users": len(ids),
                "effective_rank": effective_rank(vectors),
                "mean_shift": mean_shift(first, present),
                "frechet": frechet_drift(first, present),
                "neighbors_kept": kept,
            }
        )
    return entries


def _kept(before: tuple[pa.Array, np.ndarray], after: tuple[pa.Array, np.ndarray]) -> float | None:
    earlier, later = in_both(before, after)
    return None if len(earlier) < 2 else neighbor_overlap(earlier, later)
