"""Parquet files of vectors: some rows of theirs, put into an array that is there.

As they lie in the mapped file where a row group is a plain page, else read in pieces.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from unirep_feast.errors import StoreError, one_line
from unirep_feast.feature_store.columns import from_arrow
from unirep_feast.feature_store.vector_pages import VectorPages

#: Of vectors held beside the result, per file that is read at a time.
BATCH_BYTES = 8 << 20


class VectorFile:
    """An open file with a column ``vector``.

    Attributes:
        path: where it was found.
        identity: inode, size and time: whether the path still names the same file.
        starts: (groups + 1,) int64 first row of each row group; the last is the number of rows.
        num_vectors: K, where the footer tells it.
        dim: D, where the footer tells it.
    """

    def __init__(self, path: Path) -> None:
        """Open a file.

        Raises:
            StoreError: it cannot be read.
        """
        self.path = path
        with readable(path), path.open("rb") as file:
            self._file = pq.ParquetFile(path, memory_map=True)
            self._mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            status = path.stat()
        self.identity = (status.st_ino, status.st_size, status.st_mtime_ns)
        metadata = self._file.metadata
        counts = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        self.starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        self._pages = VectorPages(self._file, lambda at, size: self._mapped[at : at + size])
        self.num_vectors, self.dim = self._pages.num_vectors, self._pages.dim

    def width(self) -> int:
        """Numbers of a vector; 0 if no row has one."""
        if self.num_vectors and self.dim:
            return self.num_vectors * self.dim
        for batch in self._batches(range(len(self.starts) - 1), 1024):
            found, _ = from_arrow(pa.chunked_array([batch]), f"{self.path}: vector")
            if len(found):
                return int(found.shape[1])
        return 0

    def fill(
        self, rows: np.ndarray, places: np.ndarray, vectors: np.ndarray, mask: np.ndarray
    ) -> None:
        """Copy some rows' vectors.

        Args:
            rows: (m,) of this file, in any order, repeated or not.
            places: (m,) rows of the result, each once.
            vectors: (n, W) float32, written at ``places`` where there is a vector.
            mask: (n,) bool, likewise set.

        Raises:
            StoreError: it cannot be read, or holds vectors of another length than W.
        """
        if len(rows) == 0:
            return
        order = np.argsort(rows, kind="stable")
        rows, places = rows[order], places[order]
        ends = np.searchsorted(rows, self.starts[1:])
        pieces: list[int] = []
        for group in np.unique(np.searchsorted(self.starts, rows, side="right") - 1).tolist():
            plain = self._plain(group, vectors.shape[1])
            if plain is None:
                pieces.append(group)
                continue
            some = slice(0 if group == 0 else ends[group - 1], ends[group])
            vectors.view(plain.dtype)[:, 0][places[some]] = plain[rows[some] - self.starts[group]]
            mask[places[some]] = True
        self._fill_in_pieces(pieces, rows, places, vectors, mask)

    def _plain(self, group: int, width: int) -> np.ndarray | None:
        """The (rows,) vectors of a row group as they lie in the file, if they do."""
        start = self._pages.start(group)
        if start is None or self._pages.row_type.itemsize != 4 * width:
            return None
        rows = int(self.starts[group + 1] - self.starts[group])
        return np.ndarray((rows,), self._pages.row_type, self._mapped, start)

    def _fill_in_pieces(
        self,
        groups: list[int],
        rows: np.ndarray,
        places: np.ndarray,
        vectors: np.ndarray,
        mask: np.ndarray,
    ) -> None:
        """As :meth:`fill`, of the rows that are in some row groups, in order."""
        group = np.searchsorted(self.starts, rows, side="right") - 1
        some = np.isin(group, groups)
        rows, places, group = rows[some], places[some], group[some]
        sizes = np.diff(self.starts)[groups]
        # Where each row stands in the run of needed row groups, which is read in pieces.
        position = rows - self.starts[group]
        position += (np.cumsum(sizes) - sizes)[np.searchsorted(groups, group)]
        width = vectors.shape[1]
        start = done = 0
        for batch in self._batches(groups, max(1, BATCH_BYTES // max(4 * width, 1))):
            upto = int(np.searchsorted(position, start + len(batch)))
            if done < upto:
                chosen, place = position[done:upto] - start, places[done:upto]
                found, present = from_arrow(pa.chunked_array([batch]), f"{self.path}: vector")
                if not present.all():
                    has = present[chosen]
                    chosen, place = (np.cumsum(present) - 1)[chosen[has]], place[has]
                if len(place):
                    if found.shape[1] != width:
                        raise mixed(self.path, int(found.shape[1]), width)
                    vectors[place] = found[chosen]
                    mask[place] = True
            start, done = start + len(batch), upto
            if done == len(position):
                break

    def _batches(self, groups: range | list[int], rows: int) -> Iterator[pa.Array]:
        with readable(self.path):
            for batch in self._file.iter_batches(
                rows, row_groups=list(groups), columns=["vector"], use_threads=False
            ):
                yield batch.column(0)


def mixed(path: Path, found: int, wanted: int) -> StoreError:
    """The error for vectors of different lengths."""
    return StoreError(
        f"snapshot {path} holds vectors of {found} numbers, others of {wanted}: snapshots of two "
        "runs; move foreign files out of its folder"
    )


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn a failure to read into one line."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise StoreError(
            f"snapshot {path} cannot be read: {one_line(error)}; remove it and encode again"
        ) from None
