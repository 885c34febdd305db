"""Vectors of an uncompressed parquet column, as they lie in the file.

A reader of lists has to undo the levels that say where each list ends. Where every vector has W
numbers there is nothing to undo: values stand one after another at the end of their page. This
finds them where a row group is one such page, as :mod:`unirep_feast.snapshot` writes it; all else
is for a parquet reader.

The page header is the struct PageHeader of the Parquet format, in Thrift's compact protocol.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from unirep_feast.snapshot import DIM, VECTORS

#: Types of Thrift's compact protocol.
_INT, _STRUCT = 5, 12

#: PageHeader: fields 1 to 3 are type and sizes, 4 a checksum that may be left out, 5 the header of
#: a data page, whose own fields 1 and 2 are number of values and encoding.
_DATA_PAGE, _PLAIN = 0, 0

#: More than all those fields take.
_HEAD = 64


class VectorPages:
    """Where the vectors of a file lie.

    Attributes:
        num_vectors: K, where the footer tells it.
        dim: D, where the footer tells it.
        row_type: of one vector, as an element that is copied whole, wherever in memory it starts.
    """

    def __init__(self, file: pq.ParquetFile, read: Callable[[int, int], bytes]) -> None:
        """Look at a footer.

        Args:
            file: the file.
            read: its bytes, from an offset, so many.
        """
        self._metadata, self._read = file.metadata, read
        footer = file.schema_arrow.metadata or {}
        self.num_vectors = int(footer[VECTORS]) if VECTORS in footer else None
        self.dim = int(footer[DIM]) if DIM in footer else None
        self._width = (self.num_vectors or 0) * (self.dim or 0)
        self.row_type = np.dtype((np.void, 4 * self._width))
        leaves = range(self._metadata.num_columns)
        paths = [self._metadata.schema.column(place).path for place in leaves]
        self._column = next((n for n, path in enumerate(paths) if path.startswith("vector.")), None)

    def start(self, group: int) -> int | None:
        """Offset of a row group's first vector; the others follow it, each 4 K D bytes.

        Returns:
            None where the group is not one plain page of whole vectors.
        """
        if self._column is None or self._width == 0:
            return None
        rows = self._metadata.row_group(group).num_rows
        chunk = self._metadata.row_group(group).column(self._column)
        if (
            chunk.physical_type != "FLOAT"
            or chunk.compression != "UNCOMPRESSED"
            or chunk.has_dictionary_page
            or chunk.num_values != rows * self._width
            or chunk.statistics is None
            or chunk.statistics.null_count != 0
        ):
            return None
        page: int = chunk.data_page_offset
        if values_of_page(self._read(page, _HEAD)) != chunk.num_values:
            return None
        return page + int(chunk.total_compressed_size) - 4 * int(chunk.num_values)


def as_lists(values: np.ndarray, column: pa.DataType) -> pa.ListArray:
    """Turn (n, W) float32 into a list column of a type."""
    offsets = np.arange(len(values) + 1, dtype=np.int32) * values.shape[1]
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values.reshape(-1)), type=column)


def values_of_page(head: bytes) -> int | None:
    """How many values a page holds, by its first bytes; None unless it is a plain data page."""
    fields = _Fields(head)
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

    def __init__(self, head: bytes) -> None:
        self._head, self._at, self._field = head, 0, 0

    def next(self, kind: int) -> int | None:
        """Number of the next field; None, and still in front of it, if it is of another type."""
        step, found = divmod(self._head[self._at], 16)
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
            byte = self._head[self._at]
            self._at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value >> 1 ^ -(value & 1)
            shift += 7
