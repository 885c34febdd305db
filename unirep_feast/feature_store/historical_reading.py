"""Vectors as they were known at a time: from snapshot files, or through Feast's offline store."""

from __future__ import annotations

import glob
import warnings
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from feast import FeatureStore, FeatureView, FileSource

from unirep_feast.errors import StoreError, one_line
from unirep_feast.feature_store.columns import from_arrow
from unirep_feast.feature_store.entity_rows import (
    TIME,
    EntityRows,
    join_keys,
    read_entity_rows,
    unique_pairs,
)
from unirep_feast.feature_store.found_vectors import UserVectors, lay_out, missing, view_of
from unirep_feast.feature_store.snapshot_lookup import (
    Located,
    Snapshot,
    gather,
    locate,
    snapshot_folder,
    snapshot_paths,
)

DASK_FAULT = (
    "the dask offline store drops entity rows whose only snapshots are later than the row or "
    "expired; here they come back as missing, from get_historical_features itself they do not "
    "come back at all; set offline_store: {type: duckdb} in feature_store.yaml"
)

#: Offline stores that read the files of a FileSource as they lie there.
_READS_FILES = frozenset({"duckdb", "dask", "file"})

_ROW = "unirep_row"


def user_vectors(
    store: FeatureStore, view: str | FeatureView, entity_df: pd.DataFrame | pa.Table
) -> UserVectors:
    """Fetch, for every row, the user's vector as it was known at the row's time.

    That is the vector of the latest snapshot at or before the row's ``event_timestamp``; a snapshot
    as of T holds events strictly before T. What ``get_historical_features`` answers on duckdb, but
    read straight from the snapshots where they are local files; other sources and offline stores
    are asked through Feast.

    Works for every view of a representation: where it is keyed by items, or by user and interest,
    those are the columns to give.

    Args:
        store: the feature store.
        view: a feature view made by ``representation(...)``, or its name.
        entity_df: n rows with the view's join keys and ``event_timestamp`` (with a time zone); more
            columns do no harm. Rows may repeat and stand in any order; a null user is missing.

    Returns:
        n vectors in the order of ``entity_df``. Users without a snapshot at that time are False in
        the mask, whatever the offline store does with such rows.

    Raises:
        StoreError: the view is unknown or not ours, a column is missing or of the wrong type, times
            have no zone, there is no snapshot yet, or the offline store failed.
    """
    view = view_of(store, view)
    rows = read_entity_rows(entity_df, view)
    warn_of_dask(store)
    return read_vectors(store, view, rows)


def read_vectors(store: FeatureStore, view: FeatureView, rows: EntityRows) -> UserVectors:
    """Answer :func:`user_vectors` for rows that are checked."""
    snapshots = open_snapshots(store, view)
    if snapshots is None:
        return through_feast(store, view, rows)
    return from_snapshots(snapshots, view, rows)


def open_snapshots(store: FeatureStore, view: FeatureView) -> list[Snapshot] | None:
    """Open the files that a view's vectors come from.

    Returns:
        None where Feast has to be asked, for another source or another offline store.

    Raises:
        StoreError: there is no file yet, or one cannot be read.
    """
    if type_of(store.config.offline_store) not in _READS_FILES:
        return None
    folder = snapshot_folder(view)
    if folder is None:
        return None
    paths = snapshot_paths(folder)
    if not paths:
        raise _no_snapshot(view)
    return [Snapshot(path, view) for path in paths]


def from_snapshots(snapshots: list[Snapshot], view: FeatureView, rows: EntityRows) -> UserVectors:
    """Answer :func:`user_vectors` from open files."""
    located = locate(snapshots, rows, view.ttl)
    vectors, mask = gather(snapshots, located)
    if not mask.any():
        return missing(view, len(rows))
    shape = shape_in(snapshots, located)
    return UserVectors(torch.from_numpy(vectors), torch.from_numpy(mask), *shape)


def shape_in(snapshots: list[Snapshot], located: Located) -> tuple[int | None, int | None]:
    """K and D of the file that vectors come from; of the newest one if there are none."""
    used = snapshots[int(located.file.max(initial=-1))]
    return used.num_vectors, used.dim


def through_feast(store: FeatureStore, view: FeatureView, rows: EntityRows) -> UserVectors:
    """Answer :func:`user_vectors` with ``get_historical_features``."""
    asked, pairs, distinct = unique_pairs(rows)
    if len(distinct) == 0:
        return missing(view, len(rows))
    frame = pd.DataFrame(
        {
            **{key: distinct.keys[key].to_pandas() for key in join_keys(view)},
            TIME: pd.DatetimeIndex(distinct.times.astype("datetime64[us]")).tz_localize("UTC"),
            _ROW: np.arange(len(distinct)),
        }
    )
    try:
        job = store.get_historical_features(entity_df=frame, features=[f"{view.name}:vector"])
        table = job.to_arrow()
    except Exception as error:
        raise StoreError(_offline_failure(store, view, error)) from error
    found, present = from_arrow(table["vector"], f"feature {view.name}:vector")
    answered = table[_ROW].to_numpy()[present]
    # Feast promises no order and dask not even all rows, so each is put where its number says.
    position = np.full(len(distinct), -1, np.int64)
    position[answered] = np.arange(len(answered))
    source = np.full(len(rows), -1, np.int64)
    source[asked] = position[pairs]
    return lay_out(view, found, source)


def warn_of_dask(store: FeatureStore) -> None:
    """Warn the caller's caller of what the dask offline store does."""
    if type_of(store.config.offline_store) in ("dask", "file"):
        warnings.warn(DASK_FAULT, UserWarning, stacklevel=3)


def type_of(config: Any) -> str:
    """Name of a store, as it stands in feature_store.yaml."""
    return str(getattr(config, "type", type(config).__name__))


def _no_snapshot(view: FeatureView) -> StoreError:
    return StoreError(
        f"feature view {view.name!r} has no snapshot: nothing matches {view.batch_source.path}; "
        "run `unirep train` and `unirep encode`"
    )


def _offline_failure(store: FeatureStore, view: FeatureView, error: Exception) -> str:
    kind = type_of(store.config.offline_store)
    source = view.batch_source
    path = source.path if isinstance(source, FileSource) else "://"
    if "://" not in path and not glob.glob(path):  # noqa: PTH207, a pattern from its start
        return str(_no_snapshot(view))
    hint = "look at offline_store in feature_store.yaml"
    if kind in ("dask", "file"):
        hint = "dask fails so on users without a snapshot; set offline_store: {type: duckdb}"
    return f"feature view {view.name!r}: the {kind} offline store failed: {one_line(error)}; {hint}"
