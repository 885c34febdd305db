"""A part of a fetched vector, by the name of its block."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from feast import FeatureView
from torch import Tensor

from unirep_feast.blocks import Blocks, place_of, read_blocks
from unirep_feast.errors import StoreError
from unirep_feast.feature_store.snapshot_lookup import snapshot_folder, snapshot_paths
from unirep_feast.feature_store.tags import BLOCKS_TAG
from unirep_feast.snapshot import BLOCKS

Numbers = TypeVar("Numbers", Tensor, np.ndarray)

#: Folder of a run to its blocks, which never change; serving must not open a file per request.
_BLOCKS: dict[Path, Blocks] = {}


def blocks_of(view: FeatureView) -> Blocks:
    """Name the blocks of a view's vectors, and where each begins and ends.

    Of the promoted run's snapshots where they can be seen, else of the view's tags, which
    ``feast apply`` writes.

    Args:
        view: of ``representation(...)``.

    Returns:
        Nothing if the vectors are of one piece.
    """
    folder = snapshot_folder(view)
    if folder is not None and folder not in _BLOCKS:
        try:  # a folder out of reach, or a damaged snapshot, is no reason to stop serving
            newest = snapshot_paths(folder)[-1:]
            if newest:
                footer = pq.read_schema(newest[0]).metadata or {}
                _BLOCKS[folder] = read_blocks(footer.get(BLOCKS))
        except (StoreError, pa.ArrowException, OSError):
            pass
    if folder in _BLOCKS:
        return _BLOCKS[folder]
    return read_blocks(view.tags.get(BLOCKS_TAG))


def take_block(view: FeatureView, vectors: Numbers, name: str) -> Numbers:
    """Cut a block out of vectors that were fetched from a view; no number is copied.

    ::

        universal = store.get_feature_view("universal")
        found = online_user_vectors(store, universal, users)
        rhythm = take_block(universal, found.vectors, "rhythm")

    Args:
        view: that the vectors come from.
        vectors: (..., K · D) tensor or array.
        name: of a block; :func:`blocks_of` names them.

    Returns:
        (..., W), the W numbers of the block.

    Raises:
        StoreError: there is no such block, or the vectors are of another run.
    """
    who = f"feature view {view.name!r}"
    return vectors[..., place_of(blocks_of(view), name, vectors.shape[-1], who)]
