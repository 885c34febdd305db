"""What reading returns: vectors and a mask, in the order they were asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from feast import FeatureStore, FeatureView
from feast.errors import FeatureViewNotFoundException
from torch import Tensor

from unirep_feast.errors import StoreError
from unirep_feast.feature_store.snapshot_lookup import snapshot_folder, snapshot_paths
from unirep_feast.feature_store.views import DIM_TAG, VECTORS_TAG, spec_of
from unirep_feast.snapshot import DIM, VECTORS

#: Folder of a run to its K and D, which never change; serving must not open a file per request.
_SHAPES: dict[Path, tuple[int, int]] = {}


@dataclass(frozen=True)
class UserVectors:
    """Vectors in the order they were asked for.

    Attributes:
        vectors: [n, K * D] float32; zeros where the mask is False, which mean nothing.
        mask: [n] bool, True where there is a vector.
        num_vectors: K, where the feature view tells it.
        dim: D, where the feature view tells it.
    """

    vectors: Tensor
    mask: Tensor
    num_vectors: int | None = None
    dim: int | None = None

    def __len__(self) -> int:
        return len(self.mask)

    def reshape(self) -> Tensor:
        """View the vectors as [n, K, D].

        Raises:
            StoreError: K and D are unknown, or belong to another run than the vectors.
        """
        if self.num_vectors is None or self.dim is None:
            raise StoreError(
                "neither a snapshot nor a tag of the feature view tells K and D; run `feast apply` "
                "after training, or reshape `vectors` yourself"
            )
        if self.num_vectors * self.dim != self.vectors.shape[1]:
            raise StoreError(
                f"the promoted run makes K={self.num_vectors} vectors of D={self.dim} but these "
                f"have {self.vectors.shape[1]} numbers: of a run before it; run `feast "
                "materialize`"
            )
        return self.vectors.view(-1, self.num_vectors, self.dim)


def view_of(store: FeatureStore, view: str | FeatureView, cached: bool = False) -> FeatureView:
    """Find a feature view of ours with vectors.

    Args:
        store: the feature store.
        view: the view itself, or its name.
        cached: whether the store's copy of the registry is fresh enough, as it is for
            ``get_online_features``.

    Raises:
        StoreError: it is unknown, not made by ``representation(...)``, or has no vectors.
    """
    if isinstance(view, str):
        view = _named(store, view, cached)
    spec_of(view)
    fields = [field.name for field in view.features]
    if "vector" not in fields:
        raise StoreError(
            f"feature view {view.name!r} has no feature 'vector'; found {', '.join(fields)}"
        )
    return view


def lay_out(view: FeatureView, found: np.ndarray, source: np.ndarray) -> UserVectors:
    """Put (m, W) found vectors where they belong; (n,) ``source`` is -1 where a row has none."""
    if len(found) == 0:
        return missing(view, len(source))
    mask = source >= 0
    if mask.all():
        # What stands right already is not copied, unless it is Arrow's, which may not be written.
        right = found.flags.writeable and np.array_equal(source, np.arange(len(found)))
        vectors = found if right else found[source]
    else:
        vectors = np.zeros((len(source), found.shape[1]), np.float32)
        vectors[mask] = found[source[mask]]
    return UserVectors(torch.from_numpy(vectors), torch.from_numpy(mask), *shape_of(view))


def missing(view: FeatureView, rows: int) -> UserVectors:
    """Say that no row has a vector.

    Raises:
        StoreError: nothing tells how many numbers one would have.
    """
    vectors, dim = shape_of(view)
    if vectors is None or dim is None:
        raise StoreError(
            f"feature view {view.name!r}: none of {rows:,} rows has a vector, and neither a "
            "snapshot nor a tag tells how many numbers one has; run `unirep encode`, then `feast "
            "apply`"
        )
    width = vectors * dim
    return UserVectors(torch.zeros(rows, width), torch.zeros(rows, dtype=torch.bool), vectors, dim)


def shape_of(view: FeatureView) -> tuple[int | None, int | None]:
    """K and D of the promoted run: of its snapshots where they can be seen, else of the tags."""
    folder = snapshot_folder(view)
    if folder is not None and folder not in _SHAPES:
        try:  # a folder out of reach, or a damaged snapshot, is no reason to stop serving
            newest = snapshot_paths(folder)[-1:]
            footer = (pq.read_schema(newest[0]).metadata or {}) if newest else {}
        except (StoreError, pa.ArrowException, OSError):
            footer = {}
        if VECTORS in footer and DIM in footer:
            _SHAPES[folder] = int(footer[VECTORS]), int(footer[DIM])
    if folder in _SHAPES:
        return _SHAPES[folder]
    vectors, dim = view.tags.get(VECTORS_TAG), view.tags.get(DIM_TAG)
    return (int(vectors), int(dim)) if vectors and dim else (None, None)


def _named(store: FeatureStore, name: str, cached: bool) -> FeatureView:
    for from_cache in (True, False) if cached else (False,):
        try:
            return store.get_feature_view(name, allow_registry_cache=from_cache)
        except FeatureViewNotFoundException:
            continue
    known = ", ".join(sorted(each.name for each in store.list_feature_views()))
    raise StoreError(
        f"no feature view {name!r} in project {store.project!r}; "
        + (f"found {known}" if known else "it has none; run `feast apply`")
    )
