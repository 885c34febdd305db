"""Vector columns to float32 matrices, without a Python float on the way."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from feast.protos.feast.types.Value_pb2 import FloatList, Value

from unirep_feast.errors import StoreError

_LISTS = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)


def from_arrow(column: pa.ChunkedArray, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Decode an Arrow column of vectors.

    Args:
        column: as for :func:`matrix`, of floats.
        name: named in errors.

    Returns:
        (m, W) float32 vectors of the rows that have one, in order, and (n,) bool, which rows those
        are.

    Raises:
        StoreError: the column holds something else, or as for :func:`matrix`.
    """
    kind = column.type
    if is_list(kind) and not pa.types.is_floating(kind.value_type):
        raise StoreError(f"{name} holds lists of {kind.value_type}; wanted float32")
    found, mask = matrix(column, name)
    return found.astype(np.float32, copy=False), mask


def matrix(column: pa.ChunkedArray, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Decode an Arrow column of number lists of one length.

    Args:
        column: n rows of list, large_list or fixed_size_list of numbers, in any number of chunks,
            sliced or not; or of null type.
        name: named in errors.

    Returns:
        (m, W) lists of the rows that have one, in order and in their own type, and (n,) bool, which
        rows those are. A null and an empty list both mean no list. W is 0 if m is.

    Raises:
        StoreError: the column holds no lists, nulls within a list, or lists of different lengths.
    """
    kind = column.type
    if pa.types.is_null(kind):
        return np.zeros((0, 0), np.float32), np.zeros(len(column), bool)
    if not is_list(kind):
        raise StoreError(f"{name} is {kind}; wanted a list of float32")
    flats: list[np.ndarray] = []
    lengths = [np.zeros(0, np.int64)]
    for chunk in column.chunks:
        length = pc.fill_null(pc.list_value_length(chunk), 0)
        lengths.append(length.to_numpy(zero_copy_only=False).astype(np.int64, copy=False))
        # Unlike .values, .flatten() heeds slices and skips what lies behind a null.
        flat = chunk.flatten()
        if flat.null_count:
            raise StoreError(f"{name} holds {flat.null_count:,} nulls within vectors; encode again")
        flats.append(flat.to_numpy(zero_copy_only=False))
    length = np.concatenate(lengths)
    mask = length > 0
    flat = flats[0] if len(flats) == 1 else np.concatenate([*flats, np.zeros(0, _numpy(kind))])
    return flat.reshape(int(mask.sum()), _width(length[mask], name)), mask


def is_list(kind: pa.DataType) -> bool:
    """Whether an Arrow type is a list of any kind."""
    return any(check(kind) for check in _LISTS)


def from_values(values: Iterable[Value], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Decode Feast values that hold float lists, as ``get_online_features`` returns them.

    Args:
        values: n of them; an empty one means no vector.
        name: named in errors.

    Returns:
        (m, W) float32 vectors and (n,) bool, as for :func:`from_arrow`.

    Raises:
        StoreError: the values hold something else, or vectors of different lengths.
    """
    return from_messages([value.SerializeToString() for value in values], name)


def from_messages(messages: Sequence[bytes | None], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Decode serialized Feast values that hold float lists, as an online store keeps them.

    The numbers of a float list stand in the message as they stand in memory, behind a header that
    is the same for all lists of one length; so the messages are cut, not parsed. What the header is
    is asked of protobuf. A message of another form is parsed.

    Args:
        messages: n of them; None and an empty one mean no vector.
        name: named in errors.

    Returns:
        (m, W) float32 vectors and (n,) bool, as for :func:`from_arrow`.

    Raises:
        StoreError: the values hold something else, or vectors of different lengths.
    """
    sizes = np.fromiter(map(len, (message or b"" for message in messages)), np.int64, len(messages))
    mask = sizes > 0
    if not mask.any():
        return np.zeros((0, 0), np.float32), mask
    filled = [message for message in messages if message] if not mask.all() else list(messages)
    cut = _cut(filled, sizes[mask])
    if cut is not None:
        return cut, mask
    values = [Value.FromString(message) for message in filled]
    other = sorted(
        {str(value.WhichOneof("val")) for value in values} - {"None", "null_val", "float_list_val"}
    )
    if other:
        raise StoreError(f"{name} is {other[0]} in the online store; wanted float_list_val")
    lists = [value.float_list_val.val for value in values]
    lengths = np.fromiter(map(len, lists), np.int64, len(lists))
    width = _width(lengths[lengths > 0], name)
    mask[mask] = lengths > 0
    packed = b"".join(_packed(each) for each in lists if each)
    return np.frombuffer(packed, "<f4").astype(np.float32).reshape(int(mask.sum()), width), mask


def _cut(messages: Sequence[bytes | None], sizes: np.ndarray) -> np.ndarray | None:
    """Cut messages that are equally long float lists as Feast writes them; None if they are not."""
    first = messages[0] or b""
    if (sizes != len(first)).any():
        return None
    width = len(Value.FromString(first).float_list_val.val)
    header = _list_header(width)
    if width == 0 or len(first) != len(header) + 4 * width:
        return None
    rows = np.frombuffer(b"".join(message or b"" for message in messages), np.uint8)
    rows = rows.reshape(len(messages), len(first))
    if (rows[:, : len(header)] != np.frombuffer(header, np.uint8)).any():
        return None
    floats = np.empty((len(messages), width), "<f4")
    floats.view(np.uint8)[:] = rows[:, len(header) :]
    return floats.astype(np.float32, copy=False)


@cache
def _list_header(width: int) -> bytes:
    """What stands before the numbers of a float list of some length."""
    probe: bytes = Value(float_list_val=FloatList(val=[0.0] * width)).SerializeToString()
    return probe[: len(probe) - 4 * width]


def _packed(numbers: Any) -> bytes:
    """The numbers of a float list as bytes, without making Python floats of them."""
    message: bytes = FloatList(val=numbers).SerializeToString()
    return message[-4 * len(numbers) :]


def _numpy(kind: pa.DataType) -> np.dtype:
    dtype: np.dtype = np.dtype(kind.value_type.to_pandas_dtype())
    return dtype


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
