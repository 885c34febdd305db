"""Arrow columns to the bytes of Feast's ``Value`` messages, a column at a time.

Nothing of the encoding is written down here: headers, tags and what a null becomes are asked of the
protobuf library and of Feast, with probe values. Only two facts are relied on, and checked on the
probes: a float list, float, double or string stands behind a header that depends on its length
alone, and an integer behind a tag that is constant.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from feast.infra.online_stores.helpers import extract_text_and_num
from feast.protos.feast.types.Value_pb2 import FloatList, Value
from feast.type_map import python_values_to_proto_values
from feast.value_type import ValueType

from unirep_feast.errors import StoreError

#: Bytes of different lengths; 64-bit offsets, as a chunk may pass 2 GiB.
BYTES = pa.large_binary()

_VARINT_BYTES = 10
_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


def encode(column: pa.Array, kind: ValueType, name: str) -> pa.LargeBinaryArray:
    """Encode a column as Feast would value by value.

    Columns of a type that Feast has to convert on the way, such as doubles for a view of floats, go
    through Feast's own conversion. One difference is meant: Feast turns an integer column that
    holds a null into doubles and so rounds integers beyond 2^53; here they stay what they are.

    Args:
        column: n rows, sliced or not, nulls allowed.
        kind: the feature's type in the view.
        name: named in errors.

    Returns:
        (n,) serialized ``Value`` messages; an empty one for a null, unless Feast writes something.

    Raises:
        StoreError: the column does not hold what the view says.
    """
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_null(column.type):
        return _empty(len(column))
    if kind == ValueType.FLOAT_LIST and _is_float32_list(column.type):
        return _float_lists(column, name)
    if kind == ValueType.UNIX_TIMESTAMP and pa.types.is_timestamp(column.type):
        return _timestamps(column)
    encoder = _SCALARS.get((kind, str(column.type)))
    if encoder is not None:
        return encoder(column)
    return _as_feast(column, kind, name)


def texts(
    column: pa.Array, kind: ValueType, encoded: pa.LargeBinaryArray
) -> list[str | None] | None:
    """Texts that SQL stores keep beside a value: (n,), or None for types without any.

    Args:
        column: as for :func:`encode`.
        kind: the feature's type in the view.
        encoded: what :func:`encode` made of it.
    """
    if kind in (ValueType.FLOAT_LIST, ValueType.UNIX_TIMESTAMP):
        return None
    if kind in (ValueType.INT64, ValueType.INT32) and pa.types.is_integer(column.type):
        decimal: list[str | None] = column.cast(pa.string()).to_pylist()
        return decimal
    messages = map(Value.FromString, encoded.to_pylist())
    return [extract_text_and_num(message, False)[0] for message in messages]


def join(*pieces: pa.LargeBinaryArray | bytes) -> pa.LargeBinaryArray:
    """Concatenate row by row: (n,) arrays, and constants that stand in every row."""
    separated = [pa.scalar(piece, BYTES) if isinstance(piece, bytes) else piece for piece in pieces]
    return pc.binary_join_element_wise(*separated, pa.scalar(b"", BYTES))


def cut(flat: np.ndarray | pa.Buffer, lengths: np.ndarray) -> pa.LargeBinaryArray:
    """Cut bytes into rows without copying them.

    Args:
        flat: the bytes of all rows.
        lengths: (n,) bytes of each row.
    """
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    data = flat if isinstance(flat, pa.Buffer) else pa.py_buffer(np.ascontiguousarray(flat))
    return pa.LargeBinaryArray.from_buffers(
        BYTES, len(lengths), [None, pa.py_buffer(offsets), data]
    )


def microseconds(column: pa.Array) -> np.ndarray:
    """Times of a column without nulls: (n,) int64 microseconds since 1970 UTC, rounded down."""
    return _in_unit(column, "us")


def _float_lists(column: pa.Array, name: str) -> pa.LargeBinaryArray:
    valid = column.is_valid().to_numpy(zero_copy_only=False)
    sizes = pc.fill_null(pc.list_value_length(column), 0)
    sizes = sizes.to_numpy(zero_copy_only=False).astype(np.int64, copy=False)
    # Unlike .values, .flatten() heeds slices and skips what lies behind a null.
    numbers = column.flatten()
    if numbers.null_count:
        raise StoreError(f"{name} holds {numbers.null_count:,} nulls within vectors; encode again")
    flat = numbers.to_numpy().astype("<f4", copy=False)
    found, which = np.unique(np.where(valid, sizes, -1), return_inverse=True)
    headers = pa.array([_list_header(int(size)) if size >= 0 else b"" for size in found], BYTES)
    return join(headers.take(which), cut(flat, sizes * flat.itemsize))


@cache
def _list_header(size: int) -> bytes:
    probe = np.arange(size, dtype="<f4")
    return _header(Value(float_list_val=FloatList(val=probe.tolist())), probe.tobytes())


def _fixed(field: str, probe: np.ndarray, column: pa.Array) -> pa.LargeBinaryArray:
    """Floats: a constant header and the raw number. Feast takes a NaN for a null."""
    numbers = column.fill_null(np.nan).to_numpy(zero_copy_only=False)
    header = _header(_message(field, probe.item()), probe.tobytes())
    raw = numbers.astype(probe.dtype, copy=False).reshape(-1, 1).view(np.uint8)
    head = np.broadcast_to(np.frombuffer(header, np.uint8), (len(numbers), len(header)))
    rows = np.hstack([head, raw])
    kept = ~np.isnan(numbers)
    return cut(rows[kept], np.where(kept, rows.shape[1], 0))


def _strings(column: pa.Array) -> pa.LargeBinaryArray:
    raw = column.cast(BYTES)
    sizes = pc.fill_null(pc.binary_length(raw), -1).to_numpy(zero_copy_only=False)
    found, which = np.unique(sizes, return_inverse=True)
    headers = [
        _header(Value(string_val="a" * size), b"a" * size) if size >= 0 else b"" for size in found
    ]
    return join(pa.array(headers, BYTES).take(which), raw.fill_null(b""))


def _integers(field: str, column: pa.Array) -> pa.LargeBinaryArray:
    numbers = column.cast(pa.int64())
    encoded = _varints(field, numbers.fill_null(0).to_numpy(zero_copy_only=False))
    return _where_valid(column, encoded, b"")


def _timestamps(column: pa.Array) -> pa.LargeBinaryArray:
    encoded = _varints("unix_timestamp_val", _in_unit(column.fill_null(0), "s"))
    return _where_valid(column, encoded, _null_timestamp(column.type))


@cache
def _null_timestamp(kind: pa.DataType) -> bytes:
    """What Feast writes for a null in a column of times: the smallest int64, not a null."""
    probe = pa.array([None, 0], kind).to_numpy(zero_copy_only=False)
    message: bytes = python_values_to_proto_values(probe, ValueType.UNIX_TIMESTAMP)[
        0
    ].SerializeToString()
    return message


def _where_valid(
    column: pa.Array, encoded: pa.LargeBinaryArray, null: bytes
) -> pa.LargeBinaryArray:
    if column.null_count == 0:
        return encoded
    return pc.if_else(column.is_valid(), encoded, pa.scalar(null, BYTES))


def _varints(field: str, numbers: np.ndarray) -> pa.LargeBinaryArray:
    """Encode (n,) int64: seven bits per byte, low ones first, negatives as 64-bit complement."""
    tag = _header(_message(field, 1), b"\x01")
    unsigned = numbers.astype(np.int64, copy=False).view(np.uint64)
    shifts = np.arange(_VARINT_BYTES, dtype=np.uint64) * np.uint64(7)
    groups = unsigned[:, None] >> shifts
    lengths = np.maximum((groups != 0).sum(axis=1), 1)
    places = np.arange(_VARINT_BYTES)
    more = places < lengths[:, None] - 1
    digits = (groups & np.uint64(0x7F)).astype(np.uint8) | (more.astype(np.uint8) << 7)
    rows = np.empty((len(numbers), len(tag) + _VARINT_BYTES), np.uint8)
    rows[:, : len(tag)] = np.frombuffer(tag, np.uint8)
    rows[:, len(tag) :] = digits
    lengths = lengths + len(tag)
    return cut(rows[np.arange(rows.shape[1]) < lengths[:, None]], lengths)


def _as_feast(column: pa.Array, kind: ValueType, name: str) -> pa.LargeBinaryArray:
    try:
        messages = python_values_to_proto_values(column.to_numpy(zero_copy_only=False), kind)
    except Exception as error:  # assertions, ValueError, TypeError, OverflowError, bare Exception
        raise StoreError(
            f"{name} is {column.type}, which Feast does not take as {kind.name}: "
            f"{' '.join(str(error).split())[:200]}; correct the view's schema or the column"
        ) from None
    return pa.array([message.SerializeToString() for message in messages], BYTES)


def _message(field: str, value: float) -> Any:
    message = Value()
    setattr(message, field, value)
    return message


def _header(message: Any, raw: bytes) -> bytes:
    """What stands before the raw value in a probe message."""
    probe: bytes = message.SerializeToString()
    if not probe.endswith(raw):
        raise StoreError(
            "this protobuf library encodes values in a way unknown here; install protobuf>=4.24"
        )
    return probe[: len(probe) - len(raw)]


def _in_unit(column: pa.Array, unit: str) -> np.ndarray:
    count = column.cast(pa.int64()).to_numpy(zero_copy_only=False)
    has, wanted = _PER_SECOND[column.type.unit], _PER_SECOND[unit]
    # Floor division rounds times before 1970 down too, as numpy's own conversion does.
    numbers: np.ndarray = count // (has // wanted) if has > wanted else count * (wanted // has)
    return numbers


def _empty(rows: int) -> pa.LargeBinaryArray:
    return cut(np.zeros(0, np.uint8), np.zeros(rows, np.int64))


def _is_float32_list(kind: pa.DataType) -> bool:
    is_list = (
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )
    return bool(is_list and kind.value_type == pa.float32())


def _scalars() -> dict[tuple[ValueType, str], Callable[[pa.Array], pa.LargeBinaryArray]]:
    """Encoders by the view's type and the Arrow types that need no conversion."""
    table: dict[tuple[ValueType, str], Callable[[pa.Array], pa.LargeBinaryArray]] = {
        (ValueType.FLOAT, "float"): lambda c: _fixed("float_val", np.array([1.5], "<f4"), c),
        (ValueType.DOUBLE, "double"): lambda c: _fixed("double_val", np.array([1.5], "<f8"), c),
        (ValueType.BOOL, "bool"): lambda c: _integers("bool_val", c),
        (ValueType.STRING, "string"): _strings,
        (ValueType.STRING, "large_string"): _strings,
    }
    for kind in ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32"):
        table[(ValueType.INT64, kind)] = lambda c: _integers("int64_val", c)
    for kind in ("int8", "int16", "int32"):
        table[(ValueType.INT32, kind)] = lambda c: _integers("int32_val", c)
    return table


_SCALARS = _scalars()
