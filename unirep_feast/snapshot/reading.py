"""Vectors back from a snapshot."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from unirep_feast.errors import SnapshotError, one_line


def read_vectors(path: Path, join_key: str = "user_id") -> tuple[pa.Array, np.ndarray]:
    """Read a snapshot or a plain file: (n,) ids and (n, K · D) float32, in file order."""
    try:
        dataset = pq.ParquetDataset(path, partitioning=None)
        missing = {join_key, "vector"} - set(dataset.schema.names)
        if missing:
            raise SnapshotError(
                f"{path} has no column {', '.join(map(repr, sorted(missing)))}; wanted a snapshot, "
                "or a file of `unirep encode --out`"
            )
        table = dataset.read([join_key, "vector"])
        ids = table[join_key].combine_chunks()
        # Chunk by chunk: all of them together may hold more numbers than one list column can.
        flat = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in table["vector"].chunks]
        numbers = np.concatenate([np.empty(0, np.float32), *flat])
        vectors = numbers.reshape(len(ids), -1 if len(ids) else 0).astype(np.float32, copy=False)
    except (pa.ArrowException, OSError, ValueError, AttributeError) as error:
        raise SnapshotError(f"{path} cannot be read: {one_line(error)}") from None
    return ids, vectors
