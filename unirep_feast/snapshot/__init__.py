"""Snapshots: immutable parquet files of vectors, one per run, as-of time and kind.

``layout`` says where they lie and which run serves, ``writing`` writes a file whole or not at all,
``kinds`` lays out rows of users and items, ``interests`` cuts users into their interests,
``reading`` reads vectors back.
"""

from __future__ import annotations

from unirep_feast.snapshot.interests import write_interests
from unirep_feast.snapshot.kinds import (
    ItemBlock,
    VectorBlock,
    write_items,
    write_plain,
    write_snapshot,
)
from unirep_feast.snapshot.layout import (
    AS_OF,
    BLOCKS,
    DIM,
    KINDS,
    LEAKAGE,
    MACHINE,
    PROMOTED,
    RUN,
    VECTORS,
    Kind,
    point_promoted,
    snapshot_folder,
    snapshot_path,
)
from unirep_feast.snapshot.reading import read_vectors
from unirep_feast.snapshot.writing import SnapshotFile

__all__ = [
    "AS_OF",
    "BLOCKS",
    "DIM",
    "KINDS",
    "LEAKAGE",
    "MACHINE",
    "PROMOTED",
    "RUN",
    "VECTORS",
    "ItemBlock",
    "Kind",
    "SnapshotFile",
    "VectorBlock",
    "point_promoted",
    "read_vectors",
    "snapshot_folder",
    "snapshot_path",
    "write_interests",
    "write_items",
    "write_plain",
    "write_snapshot",
]
