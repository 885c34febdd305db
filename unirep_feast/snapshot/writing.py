"""Tables into one parquet file that appears whole or not at all."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from unirep_feast.errors import SnapshotError
from unirep_feast.events import TIME_TYPE
from unirep_feast.files import atomic_path, sha256
from unirep_feast.instants import format_instant
from unirep_feast.snapshot.layout import AS_OF, DIM, VECTORS

#: A list column holds fewer numbers than this, since its offsets are 32 bits wide.
MOST_NUMBERS = 2**31 - 1

#: Most bytes and rows of a row group, whose vectors are one page: a reader finds them in one place.
#: More than so many rows Arrow would not put on a page.
GROUP_BYTES, GROUP_ROWS = 32 << 20, 20_000

#: What a snapshot would be without; see :func:`write_tables`.
NO_USER = "no user has an event{when} in the encoder's window"
NO_ITEM = "no item that the run knows has an event{when}"


@dataclass(frozen=True)
class SnapshotFile:
    """A snapshot on disk."""

    path: Path
    rows: int
    checksum: str


def write_tables(
    path: Path,
    tables: Iterable[pa.Table],
    footer: Mapping[bytes, bytes],
    expected: str | None,
    nothing: str,
) -> SnapshotFile:
    """Write tables of one schema into a file, or leave no file.

    Each table is a row group, or some if it is large.

    Args:
        path: a file; one that is there is replaced.
        tables: drawn once.
        footer: keys of the parquet footer.
        expected: checksum of the snapshot that was lost and is made again.
        nothing: which rows there are none of, should there be none.

    Raises:
        SnapshotError: there is no row, the disk refuses, or the content is not the expected one.
    """
    rows = 0
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        with atomic_path(path) as temporary:
            temporary.touch()  # a folder that refuses says so before anything is encoded
            writer: pq.ParquetWriter | None = None
            try:
                for table in tables:
                    if writer is None:
                        schema = table.schema.with_metadata(dict(footer))
                        # Floats of a trained vector hardly compress, and are read faster as they
                        # are; dictionaries only cost time.
                        writer = pq.ParquetWriter(
                            temporary,
                            schema,
                            compression={
                                field.name: "zstd"
                                for field in schema
                                if not pa.types.is_nested(field.type)
                            },
                            use_dictionary=False,
                            data_page_size=2 * GROUP_BYTES,
                        )
                    writer.write_table(table.cast(writer.schema), _rows_per_group(table))
                    rows += table.num_rows
            finally:
                if writer is not None:
                    writer.close()
            if rows == 0:
                when = ""
                if AS_OF in footer:
                    when = f" before {format_instant(int(footer[AS_OF]))}"
                raise SnapshotError(f"{path}: {nothing.format(when=when)}; give another time")
            checksum = sha256(temporary)
            if expected is not None and checksum != expected:
                raise SnapshotError(
                    f"{path} was recorded with checksum {expected[:12]} and is lost; what is made "
                    f"now has {checksum[:12]}: the events before it or the machine changed; "
                    "restore the file, or train anew"
                )
    except OSError as error:
        raise SnapshotError(
            f"{path} cannot be written: {error.strerror or error}; free space or name another "
            "folder (`storage` in the spec, or --out)"
        ) from None
    return SnapshotFile(path, rows, checksum)


def vector_column(ids: pa.Array, vectors: np.ndarray, width: int, what: str) -> pa.ListArray:
    """Turn (n, W) float32 into a list column.

    Args:
        ids: (n,) whose vectors they are, named where one is not finite.
        vectors: the numbers.
        width: W they should have.
        what: plural of what the ids are, for errors.

    Raises:
        SnapshotError: another shape or type, NaN or infinity.
    """
    if vectors.shape != (len(ids), width) or vectors.dtype != np.float32:
        raise SnapshotError(
            f"vectors are {vectors.shape} {vectors.dtype}; wanted ({len(ids)}, {width}) float32"
        )
    bad = ~np.isfinite(vectors).all(axis=1)
    if bad.any():
        named = ids.filter(pa.array(bad)).slice(0, 5).to_pylist()
        raise SnapshotError(
            f"{int(bad.sum()):,} vectors hold NaN or infinity ({what} {', '.join(map(str, named))}"
            f"{', …' if bad.sum() > 5 else ''}); the model diverged, train with a lower "
            "training.learning_rate"
        )
    offsets = np.arange(len(vectors) + 1, dtype=np.int32) * width
    return pa.ListArray.from_arrays(offsets, np.ascontiguousarray(vectors).reshape(-1))


def constant(microseconds: int, rows: int) -> pa.Array:
    """One time, (n,) times over."""
    return pa.array(np.full(rows, microseconds, np.int64), TIME_TYPE)


def rows_per_table(width: int) -> int:
    """How many vectors of so many numbers fit the 32-bit offsets of a list column."""
    return max(MOST_NUMBERS // max(width, 1), 1)


def _rows_per_group(table: pa.Table) -> int:
    fitting: int = GROUP_BYTES * table.num_rows // max(table.nbytes, 1)
    return min(max(fitting, 1), GROUP_ROWS)


def footer_of(
    num_vectors: int, dim: int, as_of: int, metadata: Mapping[bytes, bytes]
) -> dict[bytes, bytes]:
    """Keys of the footer that every snapshot has, and further ones."""
    return {
        VECTORS: str(num_vectors).encode(),
        DIM: str(dim).encode(),
        AS_OF: str(as_of).encode(),
        **metadata,
    }
