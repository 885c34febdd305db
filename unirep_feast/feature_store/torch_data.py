"""User vectors out of Feast as tensors: point-in-time for training, online for serving."""

from __future__ import annotations

import glob
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch
from feast import FeatureStore, FeatureView, FileSource
from feast.errors import FeatureViewNotFoundException
from torch import Tensor

from unirep_feast.errors import StoreError, one_line
from unirep_feast.feature_store.columns import from_arrow, from_values
from unirep_feast.feature_store.entity_rows import (
    TIME,
    check_ids,
    id_array,
    key_of,
    read_entity_rows,
    unique_pairs,
)
from unirep_feast.feature_store.views import (
    DIM_TAG,
    VECTORS_TAG,
    read_promoted,
    snapshot_folder,
    spec_of,
)

if TYPE_CHECKING:
    import pandas as pd

_ROW = "unirep_row"

#: Folder of a run to its K and D, which never change; serving must not open a file per request.
_SHAPES: dict[str, tuple[int, int]] = {}

DASK_FAULT = (
    "the dask offline store drops entity rows whose only snapshots are later than the row or "
    "expired; here they come back as missing, from get_historical_features itself they do not "
    "come back at all; set offline_store: {type: duckdb} in feature_store.yaml"
)


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


def user_vectors(
    store: FeatureStore, view: str | FeatureView, entity_df: pd.DataFrame | pa.Table
) -> UserVectors:
    """Fetch, for every row, the user's vector as it was known at the row's time.

    That is the vector of the latest snapshot at or before the row's ``event_timestamp``; a snapshot
    as of T holds events strictly before T.

    Args:
        store: the feature store.
        view: a feature view made by ``representation(...)``, or its name.
        entity_df: n rows with the view's join key and ``event_timestamp`` (with a time zone); more
            columns do no harm. Rows may repeat and stand in any order; a null user is missing.

    Returns:
        n vectors in the order of ``entity_df``. Users without a snapshot at that time are False in
        the mask, whatever the offline store does with such rows.

    Raises:
        StoreError: the view is unknown or not ours, a column is missing or of the wrong type, times
            have no zone, there is no snapshot yet, or the offline store failed.
    """
    view = _view(store, view)
    ids, times = read_entity_rows(entity_df, view)
    _warn_of_dask(store)
    asked, pairs, pair_ids, pair_times = unique_pairs(ids, times)
    if len(pair_ids) == 0:
        return _missing(view, len(ids))
    import pandas as pd

    frame = pd.DataFrame(
        {
            key_of(view): pair_ids.to_pandas(),
            TIME: pd.DatetimeIndex(pair_times.astype("datetime64[us]")).tz_localize("UTC"),
            _ROW: np.arange(len(pair_ids)),
        }
    )
    try:
        job = store.get_historical_features(entity_df=frame, features=[f"{view.name}:vector"])
        table = job.to_arrow()
    except Exception as error:
        raise StoreError(_offline_failure(store, view, error)) from error
    found, present = from_arrow(table["vector"], f"feature {view.name}:vector")
    rows = table[_ROW].to_numpy()[present]
    # Feast promises no order and dask not even all rows, so each is put where its number says.
    position = np.full(len(pair_ids), -1, np.int64)
    position[rows] = np.arange(len(rows))
    source = np.full(len(ids), -1, np.int64)
    source[asked] = position[pairs]
    return _gather(view, found, source)


def online_user_vectors(
    store: FeatureStore,
    view: str | FeatureView,
    ids: Sequence[Any] | np.ndarray | pa.Array | Tensor,
) -> UserVectors:
    """Fetch the users' latest materialized vectors from the online store.

    Args:
        store: the feature store.
        view: a feature view made by ``representation(...)``, or its name.
        ids: n user ids, integers or strings as the view's join key; may repeat.

    Returns:
        n vectors in the order of ``ids``; unknown users are False in the mask.

    Raises:
        StoreError: the view is unknown or not ours, ids are of the wrong type, nothing was ever
            materialized, or the online store failed.
    """
    view = _view(store, view)
    keys = check_ids(id_array(ids), view, "ids")
    asked = np.flatnonzero(keys.is_valid().to_numpy(zero_copy_only=False))
    if len(asked) == 0:
        return _missing(view, len(keys))
    request = {key_of(view): keys.drop_null().to_pylist()}
    try:
        response = store.get_online_features(
            features=[f"{view.name}:vector"], entity_rows=request
        ).proto
    except Exception as error:
        raise StoreError(
            f"feature view {view.name!r}: the {_type(store.config.online_store)} online store "
            f"failed: {one_line(error)}; is it running, and was `feast apply` run?"
        ) from error
    place = list(response.metadata.feature_names.val).index("vector")
    found, present = from_values(response.results[place].values, f"feature {view.name}:vector")
    if not present.any():
        _check_materialized(store, view)
    source = np.full(len(keys), -1, np.int64)
    source[asked[present]] = np.arange(len(found))
    return _gather(view, found, source)


def _view(store: FeatureStore, view: str | FeatureView) -> FeatureView:
    if isinstance(view, str):
        try:
            view = store.get_feature_view(view)
        except FeatureViewNotFoundException:
            known = ", ".join(sorted(each.name for each in store.list_feature_views()))
            raise StoreError(
                f"no feature view {view!r} in project {store.project!r}; "
                + (f"found {known}" if known else "it has none; run `feast apply`")
            ) from None
    spec_of(view)
    fields = [field.name for field in view.features]
    if "vector" not in fields:
        raise StoreError(
            f"feature view {view.name!r} has no feature 'vector'; found {', '.join(fields)}"
        )
    return view


def _gather(view: FeatureView, found: np.ndarray, source: np.ndarray) -> UserVectors:
    """Lay found vectors out by row; ``source`` is -1 where a row has none."""
    if len(found) == 0:
        return _missing(view, len(source))
    mask = source >= 0
    vectors = np.zeros((len(source), found.shape[1]), np.float32)
    vectors[mask] = found[source[mask]]
    return UserVectors(torch.from_numpy(vectors), torch.from_numpy(mask), *_shape(view))


def _missing(view: FeatureView, rows: int) -> UserVectors:
    vectors, dim = _shape(view)
    if vectors is None or dim is None:
        raise StoreError(
            f"feature view {view.name!r}: none of {rows:,} rows has a vector, and neither a "
            "snapshot nor a tag tells how many numbers one has; run `unirep encode`, then `feast "
            "apply`"
        )
    width = vectors * dim
    return UserVectors(torch.zeros(rows, width), torch.zeros(rows, dtype=torch.bool), vectors, dim)


def _shape(view: FeatureView) -> tuple[int | None, int | None]:
    """K and D of the promoted run: of its snapshots where they can be seen, else of the tags."""
    spec = spec_of(view)
    run_folder = os.path.realpath(snapshot_folder(spec))
    if run_folder not in _SHAPES:
        try:
            promoted = read_promoted(spec)
        except StoreError:  # a damaged snapshot is no reason to stop serving
            promoted = None
        if promoted is None or not promoted.vectors or not promoted.dim:
            vectors, dim = view.tags.get(VECTORS_TAG), view.tags.get(DIM_TAG)
            return (int(vectors), int(dim)) if vectors and dim else (None, None)
        _SHAPES[run_folder] = promoted.vectors, promoted.dim
    return _SHAPES[run_folder]


def _check_materialized(store: FeatureStore, view: FeatureView) -> None:
    if view.materialization_intervals:
        return
    store.refresh_registry()
    if not store.get_feature_view(view.name).materialization_intervals:
        raise StoreError(
            f"feature view {view.name!r} was never materialized; run `unirep encode`, then `feast "
            "materialize`"
        )


def _warn_of_dask(store: FeatureStore) -> None:
    if _type(store.config.offline_store) in ("dask", "file"):
        warnings.warn(DASK_FAULT, UserWarning, stacklevel=3)


def _offline_failure(store: FeatureStore, view: FeatureView, error: Exception) -> str:
    kind = _type(store.config.offline_store)
    source = view.batch_source
    path = source.path if isinstance(source, FileSource) else "://"
    if "://" not in path and not glob.glob(path):  # noqa: PTH207, a pattern from its start
        return (
            f"feature view {view.name!r} has no snapshot: nothing matches {path}; run `unirep "
            "train` and `unirep encode`"
        )
    hint = "look at offline_store in feature_store.yaml"
    if kind in ("dask", "file"):
        hint = "dask fails so on users without a snapshot; set offline_store: {type: duckdb}"
    return f"feature view {view.name!r}: the {kind} offline store failed: {one_line(error)}; {hint}"


def _type(config: Any) -> str:
    return str(getattr(config, "type", type(config).__name__))
