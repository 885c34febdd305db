"""Vector columns to float32 matrices, without a Python float on the way."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from feast.protos.feast.types.Value_pb2 import Value

from unirep_feast.errors import StoreError

_LISTS = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)


def from_arrow(column: pa.ChunkedArray, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Decode an Arrow column of number lists.

    Args:
        column: n rows of list, large_list or fixed_size_list of floats, in any number of chunks,
            sliced or not; or of null type.
        name: named in errors.

    Returns:
        (m, W) float32 vectors of the rows that have one, in order, and (n,) bool, which rows those
        are. A null and an empty list both mean no vector. W is 0 if m is.

    Raises:
        StoreError: the column holds something else, nulls within a vector, or vectors of different
            lengths.
    """
    flats: list[np.ndarray] = []
    lengths: list[np.ndarray] = []
    for chunk in column.chunks:
        if pa.types.is_null(chunk.type):
            lengths.append(np.zeros(len(chunk), np.int64))
            continue
        if not any(is_list(chunk.type) for is_list in _LISTS):
            raise StoreError(f"{name} is {chunk.type}; wanted a list of float32")
        length = pc.fill_null(pc.list_value_length(chunk), 0)
        lengths.append(length.to_numpy(zero_copy_only=False).astype(np.int64, copy=False))
        # Unlike .values, .flatten() heeds slices and skips what lies behind a null.
        flats.append(_numbers(chunk.flatten(), name))
    length = np.concatenate(lengths) if lengths else np.zeros(0, np.int64)
    mask = length > 0
    flat = np.concatenate(flats) if flats else np.zeros(0, np.float32)
    return flat.reshape(int(mask.sum()), _width(length[mask], name)), mask


def from_values(values: Iterable[Value], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Decode Feast values that hold float lists, as an online store returns them.

    The numbers of a float list stand in the message as they stand in memory, behind a header that
    is the same for all lists of one length; so the messages are cut, not parsed.

    Args:
        values: n of them; an empty one means no vector.
        name: named in errors.

    Returns:
        (m, W) float32 vectors and (n,) bool, as for :func:`from_arrow`.

    Raises:
        StoreError: the values hold something else, or vectors of different lengths.
    """
    values = list(values)
    lengths = np.fromiter((len(value.float_list_val.val) for value in values), np.int64)
    mask = lengths > 0
    without = {str(values[row].WhichOneof("val")) for row in np.flatnonzero(~mask)}
    other = sorted(without - {"None", "null_val", "float_list_val"})
    if other:
        raise StoreError(f"{name} is {other[0]} in the online store; wanted float_list_val")
    width = _width(lengths[mask], name)
    if width == 0:
        return np.zeros((0, 0), np.float32), mask
    messages = [values[row].SerializeToString() for row in np.flatnonzero(mask)]
    rows = np.frombuffer(b"".join(messages), np.uint8).reshape(len(messages), -1)
    floats = np.ascontiguousarray(rows[:, -4 * width :]).view("<f4")
    return floats.astype(np.float32, copy=False), mask


def _numbers(flat: pa.Array, name: str) -> np.ndarray:
    if not pa.types.is_floating(flat.type):
        raise StoreError(f"{name} holds lists of {flat.type}; wanted float32")
    if flat.null_count:
        raise StoreError(f"{name} holds {flat.null_count:,} nulls within vectors; encode again")
    numbers: np.ndarray = flat.to_numpy(zero_copy_only=False)
    return numbers.astype(np.float32, copy=False)


def _width(lengths: np.ndarray, name: str) -> int:
    """Return the one length that all vectors have; 0 if there is no vector."""
    found = np.unique(lengths)
    if len(found) > 1:
        listed = ", ".join(map(str, found[:5]))
        raise StoreError(
            f"{name} mixes vectors of {listed} numbers: snapshots of two runs; materialize the "
            "promoted run again, or move foreign files out of its snapshot folder"
        )
    return int(found[0]) if len(found) else 0
