"""Training sets of vectors that do not fit into memory: streamed, shuffled, dealt to workers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from feast import FeatureStore, FeatureView
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from unirep_feast.errors import StoreError
from unirep_feast.feature_store.entity_rows import read_entity_rows
from unirep_feast.feature_store.found_vectors import shape_of, view_of
from unirep_feast.feature_store.historical_reading import open_snapshots, shape_in, warn_of_dask
from unirep_feast.feature_store.snapshot_lookup import Located, Snapshot, locate
from unirep_feast.feature_store.torch_datasets import label_tensors
from unirep_feast.feature_store.vector_files import VectorFile


class UserVectorStream(IterableDataset[dict[str, Tensor]]):
    """A training set whose vectors stay in the snapshot files until their batch comes.

    Every entity row is looked up when it is made, which takes 24 bytes a row beside the labels. The
    files are then read a row group at a time: the row groups come in a random order, and the rows
    of about ``buffer_rows`` of them in a random order among each other. The larger the buffer, the
    better the shuffle; memory is that of two buffers. Every worker process reads row groups of its
    own, so that each row comes once an epoch, from one of them::

        stream = UserVectorStream(store, "purchases", rows, labels=["bought"], seed=7)
        loader = DataLoader(stream, batch_size=None, num_workers=2, pin_memory=True)
        for epoch in range(10):
            stream.set_epoch(epoch)
            for batch in loader:
                ...

    A batch is a dict of ``vector`` (B, W) float32, ``mask`` (B,) bool, False where the user had no
    vector, ``row`` (B,) int64, the place in ``entity_df``, and the labels. The last batch of a
    worker may be smaller.

    Attributes:
        num_vectors: K, where the snapshots tell it.
        dim: D, where the snapshots tell it.
    """

    def __init__(
        self,
        store: FeatureStore,
        view: str | FeatureView,
        entity_df: pd.DataFrame | pa.Table,
        labels: Sequence[str] = (),
        *,
        batch_size: int = 1024,
        shuffle: bool = True,
        seed: int = 0,
        buffer_rows: int = 65_536,
        shard: tuple[int, int] = (0, 1),
    ) -> None:
        """Look every row up.

        Args:
            store: the feature store; not kept.
            view: a feature view made by ``representation(...)``, or its name.
            entity_df: as for ``user_vectors``.
            labels: as for ``UserVectorDataset``.
            batch_size: rows of a batch, B.
            shuffle: False gives the rows in the order of the files.
            seed: of the order; together with the epoch it decides it.
            buffer_rows: how many rows are shuffled among each other.
            shard: (i, m): this process gets the i-th of m parts, as in (rank, world size).

        Raises:
            StoreError: as for ``UserVectorDataset``, or the view's vectors do not come from local
                snapshot files.
        """
        if batch_size < 1 or buffer_rows < 1 or not 0 <= shard[0] < shard[1]:
            raise StoreError(
                f"batch_size {batch_size}, buffer_rows {buffer_rows}, shard {shard}: wanted at "
                "least 1, at least 1, and (i, m) with 0 <= i < m"
            )
        self._labels = label_tensors(entity_df, labels)
        view = view_of(store, view)
        rows = read_entity_rows(entity_df, view)
        warn_of_dask(store)
        snapshots = open_snapshots(store, view)
        if snapshots is None:
            raise StoreError(
                f"feature view {view.name!r}: only local snapshot files can be streamed; use "
                "UserVectorDataset, which asks Feast"
            )
        located = locate(snapshots, rows, view.ttl)
        self.num_vectors, self.dim = shape_in(snapshots, located)
        self._width = _width(snapshots, view)
        self._files = [(snapshot.path, snapshot.identity) for snapshot in snapshots]
        self._batch_size, self._shuffle, self._seed = batch_size, shuffle, seed
        self._buffer_rows, self._shard = buffer_rows, shard
        order, blocks = _blocks(snapshots, located, buffer_rows)
        # Tensors, since worker processes share those and would get copies of arrays.
        self._order = torch.from_numpy(order)
        self._row_in_file = torch.from_numpy(located.row[order])
        self._blocks = torch.from_numpy(blocks)
        self._epoch = torch.zeros(1, dtype=torch.int64)
        self._epoch.share_memory_()  # type: ignore[no-untyped-call]

    @property
    def rows(self) -> int:
        """How many rows all workers and shards give together."""
        return len(self._order)

    def set_epoch(self, epoch: int) -> None:
        """Choose another order; heard by workers too, persistent ones at their next epoch."""
        self._epoch[0] = epoch

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """Yield the batches of this worker."""
        worker = get_worker_info()
        workers, number = (worker.num_workers, worker.id) if worker else (1, 0)
        place, places = self._shard[0] * workers + number, self._shard[1] * workers
        epoch = int(self._epoch[0])
        blocks = self._blocks.numpy()
        if self._shuffle:
            blocks = blocks[np.random.default_rng([self._seed, epoch]).permutation(len(blocks))]
        mixing = np.random.default_rng([self._seed, epoch, place])
        left: tuple[Tensor, ...] = ()
        for columns in self._buffers(blocks[place::places]):
            if self._shuffle:
                mixed = torch.from_numpy(mixing.permutation(len(columns[0])))
                columns = tuple(column[mixed] for column in columns)
            if left:
                columns = tuple(map(torch.cat, zip(left, columns, strict=True)))
            whole = len(columns[0]) // self._batch_size * self._batch_size
            for start in range(0, whole, self._batch_size):
                yield self._batch(
                    *(column[start : start + self._batch_size].clone() for column in columns)
                )
            left = tuple(column[whole:].clone() for column in columns)
        if left and len(left[0]):
            yield self._batch(*left)

    def _batch(self, rows: Tensor, vectors: Tensor, mask: Tensor) -> dict[str, Tensor]:
        labels = {name: column[rows] for name, column in self._labels.items()}
        return {"vector": vectors, "mask": mask, "row": rows, **labels}

    def _buffers(self, blocks: np.ndarray) -> Iterator[tuple[Tensor, ...]]:
        """Read blocks until a buffer is full: (m,) rows, (m, W) vectors, (m,) mask."""
        files: dict[int, VectorFile] = {}
        sizes = blocks[:, 2] - blocks[:, 1]
        # A buffer ends where the next block would overfill it.
        start = 0
        while start < len(blocks):
            filled = np.cumsum(sizes[start:])
            end = start + max(1, int(np.searchsorted(filled, self._buffer_rows, side="right")))
            yield self._read(blocks[start:end], files)
            start = end

    def _read(self, blocks: np.ndarray, files: dict[int, VectorFile]) -> tuple[Tensor, ...]:
        spans = [np.arange(first, end) for _, first, end in blocks]
        file = np.repeat(blocks[:, 0], [len(span) for span in spans])
        chosen = torch.from_numpy(np.concatenate(spans))
        in_file = self._row_in_file[chosen].numpy()
        vectors = np.zeros((len(file), self._width), np.float32)
        mask = np.zeros(len(file), bool)
        for number in np.unique(file[file >= 0]).tolist():
            if number not in files:
                files[number] = self._open(*self._files[number])
            places = np.flatnonzero(file == number)
            files[number].fill(in_file[places], places, vectors, mask)
        return self._order[chosen], torch.from_numpy(vectors), torch.from_numpy(mask)

    def _open(self, path: Path, identity: tuple[int, int, int]) -> VectorFile:
        file = VectorFile(path)
        if file.identity != identity:
            raise StoreError(
                f"snapshot {path} was replaced since its rows were looked up; make the stream anew"
            )
        return file


def _width(snapshots: list[Snapshot], view: FeatureView) -> int:
    """Numbers of a vector."""
    for snapshot in reversed(snapshots):
        if width := snapshot.width():
            return width
    vectors, dim = shape_of(view)
    return (vectors or 0) * (dim or 0)


def _blocks(
    snapshots: list[Snapshot], located: Located, most: int
) -> tuple[np.ndarray, np.ndarray]:
    """Cut the rows into what is read together: the rows of one row group, ``most`` at most.

    Returns:
        (n,) int64 rows in the order of the files, those without a vector first; and (b, 3) int64
        file, or -1, first and end in that order.
    """
    order = np.lexsort((located.row, located.file))
    file, row = located.file[order], located.row[order]
    group = np.zeros(len(order), np.int64)
    for number, snapshot in enumerate(snapshots):
        of_file = slice(*np.searchsorted(file, [number, number + 1]))
        group[of_file] = np.searchsorted(snapshot.starts, row[of_file], side="right")
    fresh = np.ones(len(order), bool)
    fresh[1:] = (np.diff(file) != 0) | (np.diff(group) != 0)
    first = np.flatnonzero(fresh)
    sizes = np.diff(np.append(first, len(order)))
    pieces = -(-sizes // most)
    offset = np.arange(pieces.sum()) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    start = np.repeat(first, pieces) + offset * most
    end = np.minimum(start + most, np.repeat(first + sizes, pieces))
    return order.astype(np.int64), np.stack([file[start].astype(np.int64), start, end], axis=1)
