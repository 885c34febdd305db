"""Vectors of an uncompressed parquet column, as they lie in the mapped file.

A reader of lists has to undo the levels that say where each list ends. Where every vector has W
numbers there is nothing to undo: values stand one after another at the end of their page. This
finds them where a row group is one such page, as :mod:`unirep_feast.snapshot` writes it; all else
is for a parquet reader (:mod:`unirep_feast.feature_store.vector_files`).

The page header is the struct PageHeader of the Parquet format, in Thrift's compact protocol.
"""

from __future__ import annotations

import mmap

import numpy as np
import pyarrow.parquet as pq

#: Types of Thrift's compact protocol.
_INT, _STRUCT = 5, 12

#: PageHeader: fields 1 to 3 are type and sizes, 4 a checksum that may be left out, 5 the header of
#: a data page, whose own fields 1 and 2 are number of values and encoding.
_DATA_PAGE, _PLAIN = 0, 0


def vectors_of(
    mapped: mmap.mmap, metadata: pq.FileMetaData, group: int, column: int, width: int
) -> np.ndarray | None:
    """The vectors of a row group, not copied.

    Args:
        mapped: the file.
        metadata: its footer.
        group: number of a row group.
        column: number of the leaf column that the vectors' values are in.
        width: W numbers of each vector.

    Returns:
        (rows,) of ``row_type(width)``; None where the group is not one plain page of whole vectors.
    """
    chunk = metadata.row_group(group).column(column)
    rows = metadata.row_group(group).num_rows
    if (
        chunk.physical_type != "FLOAT"
        or chunk.compression != "UNCOMPRESSED"
        or chunk.has_dictionary_page
        or chunk.num_values != rows * width
        or chunk.statistics is None
        or chunk.statistics.null_count != 0
    ):
        return None
    start = chunk.data_page_offset
    if values_of_page(mapped, start) != chunk.num_values:
        return None
    values = start + chunk.total_compressed_size - 4 * chunk.num_values
    return np.ndarray((rows,), row_type(width), mapped, values)


def row_type(width: int) -> np.dtype:
    """A vector as one element of an array: copied whole, wherever in memory it starts."""
    return np.dtype((np.void, 4 * width))


def values_of_page(mapped: mmap.mmap, start: int) -> int | None:
    """How many values the page at an offset holds; None unless it is a plain data page."""
    fields = _Fields(mapped, start)
    if fields.next(_INT) != 1 or fields.integer() != _DATA_PAGE:
        return None
    while (field := fields.next(_INT)) in (2, 3, 4):
        fields.integer()
    if field is not None or fields.next(_STRUCT) != 5:
        return None
    fields.enter()
    if fields.next(_INT) != 1:
        return None
    values = fields.integer()
    if fields.next(_INT) != 2 or fields.integer() != _PLAIN:
        return None
    return values


class _Fields:
    """Reads a struct of Thrift's compact protocol from its beginning, a field at a time."""

    def __init__(self, mapped: mmap.mmap, start: int) -> None:
        self._mapped, self._at, self._field = mapped, start, 0

    def next(self, kind: int) -> int | None:
        """Number of the next field; None, and still in front of it, if it is of another type."""
        step, found = divmod(self._mapped[self._at], 16)
        if found != kind or step == 0:
            return None
        self._at += 1
        self._field += step
        return self._field

    def enter(self) -> None:
        """Go into the struct that the field just met is."""
        self._field = 0

    def integer(self) -> int:
        """The integer that the field just met is: seven bits a byte, the sign in the lowest."""
        value = shift = 0
        while True:
            byte = self._mapped[self._at]
            self._at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value >> 1 ^ -(value & 1)
            shift += 7
