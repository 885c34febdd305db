"""Does what a feature view declares fit what a run makes?"""

from __future__ import annotations

from feast import FeatureView
from feast.types import Array, Float32

from unirep_feast.checkpoint import Manifest
from unirep_feast.errors import StoreError
from unirep_feast.feature_store.views import DIM_TAG, VECTORS_TAG, kind_of


def check_view(view: FeatureView, manifest: Manifest) -> None:
    """Refuse a view whose vectors have another shape than those of a run.

    Args:
        view: a feature view of ours; its tags and the ``vector_length`` of its field tell K and D
            of a row.
        manifest: of the run's checkpoint.

    Raises:
        StoreError: they differ, or the field holds something else than float32; both are named.
    """
    per_row = manifest.num_vectors if kind_of(view) == "user" else 1
    run = f"run {manifest.run} makes K={per_row} vectors of D={manifest.dim}"
    vectors, dim = view.tags.get(VECTORS_TAG), view.tags.get(DIM_TAG)
    if vectors and dim and (vectors, dim) != (str(per_row), str(manifest.dim)):
        raise StoreError(
            f"feature view {view.name!r} was applied with K={vectors} vectors of D={dim}, {run}; "
            "run `feast apply` once its readers expect that, or promote a run that fits"
        )
    for feature in view.features:
        if feature.name != "vector":
            continue
        if feature.dtype != Array(Float32):
            raise StoreError(
                f"feature view {view.name!r}: 'vector' is declared as {feature.dtype}, vectors are "
                "Array(Float32); declare that, then run `feast apply`"
            )
        numbers = per_row * manifest.dim
        if feature.vector_length and feature.vector_length != numbers:
            raise StoreError(
                f"feature view {view.name!r}: 'vector' is declared with vector_length="
                f"{feature.vector_length}, {run}, {numbers} numbers; declare that, then run `feast "
                "apply`, or promote a run that fits"
            )
