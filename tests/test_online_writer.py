"""Bytes of values and keys, against Feast's own conversion of one value after the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.infra.online_stores.helpers import extract_text_and_num
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.type_map import python_values_to_proto_values
from feast.value_type import ValueType
from hypothesis import given
from hypothesis import strategies as st

from unirep_feast.errors import StoreError
from unirep_feast.feature_store.online_writer.keys import KeyEncoder
from unirep_feast.feature_store.online_writer.values import cut, encode, join, texts

INT64 = st.integers(-(2**63), 2**63 - 1)
# In a column with nulls, Feast rounds what a double does not hold.
EXACT = st.integers(-(2**53), 2**53)
FLOAT32 = st.floats(width=32, allow_nan=False)


def lists(kind: type[pa.DataType] = pa.list_) -> Any:
    def column(rows: list[list[float] | None]) -> pa.Array:
        return pa.array(rows, kind(pa.float32()))

    rows = st.lists(st.none() | st.lists(FLOAT32, max_size=40), min_size=1, max_size=20)
    return rows.map(column)


def optional(values: Any, kind: pa.DataType) -> Any:
    rows = st.lists(st.none() | values, min_size=1, max_size=30)
    return rows.map(lambda row: pa.array(row, kind))


def check(column: pa.Array, kind: ValueType) -> None:
    """Compare messages and texts with Feast's, for the column and for a slice of it."""
    for part in (column, column.slice(len(column) // 2)):
        if len(part) == 0:
            continue
        wanted = python_values_to_proto_values(part.to_numpy(zero_copy_only=False), kind)
        encoded = encode(part, kind, "view: feature")
        assert encoded.to_pylist() == [message.SerializeToString() for message in wanted]
        assert list(map(Value.FromString, encoded.to_pylist())) == wanted
        expected = [extract_text_and_num(message, False)[0] for message in wanted]
        found = texts(part, kind, encoded)
        assert (found or [None] * len(part)) == expected


@given(lists() | lists(pa.large_list))
def test_float_lists(column: pa.Array) -> None:
    """Vectors of any length, empty and missing ones, are encoded as Feast does."""
    check(column, ValueType.FLOAT_LIST)


@pytest.mark.parametrize("width", [0, 1, 31, 32, 4096])
def test_fixed_size_lists(width: int) -> None:
    """Fixed-size lists with nulls are encoded as Feast does, around the sizes of the header too."""
    rows = [None, np.arange(width, dtype=np.float32).tolist(), [0.5] * width]
    check(pa.array(rows, pa.list_(pa.float32(), width)), ValueType.FLOAT_LIST)


@given(st.lists(INT64, min_size=1, max_size=40).map(lambda row: pa.array(row, pa.int64())))
def test_integers(column: pa.Array) -> None:
    """Integers of every size and sign are encoded as Feast does."""
    check(column, ValueType.INT64)


@given(optional(EXACT, pa.int64()))
def test_integers_with_nulls(column: pa.Array) -> None:
    """A missing integer becomes an empty message."""
    check(column, ValueType.INT64)


def test_large_integers_beside_nulls_stay_exact() -> None:
    """Feast rounds large integers of a column with nulls; here they stay what they are."""
    large = 2**53 + 1
    encoded = encode(pa.array([large, None], pa.int64()), ValueType.INT64, "view: feature")
    assert Value.FromString(encoded[0].as_py()).int64_val == large


@given(
    optional(st.integers(-(2**33), 2**33), pa.int64()),
    st.sampled_from(["s", "ms", "us", "ns"]),
    st.sampled_from([None, "UTC", "Asia/Tokyo"]),
)
def test_times(column: pa.Array, unit: str, zone: str | None) -> None:
    """Times before and after 1970, in any unit and zone, and missing ones, are encoded as Feast."""
    check(column.cast(pa.timestamp(unit, zone)), ValueType.UNIX_TIMESTAMP)


@given(
    optional(st.floats(width=32), pa.float32()).map(lambda column: (column, ValueType.FLOAT))
    | optional(st.floats(), pa.float64()).map(lambda column: (column, ValueType.DOUBLE))
    | optional(st.booleans(), pa.bool_()).map(lambda column: (column, ValueType.BOOL))
    | optional(st.text(max_size=200), pa.string()).map(lambda column: (column, ValueType.STRING))
    | optional(st.text(), pa.large_string()).map(lambda column: (column, ValueType.STRING))
    | optional(st.binary(min_size=1), pa.binary()).map(lambda column: (column, ValueType.BYTES))
    | optional(st.integers(-(2**31), 2**31 - 1), pa.int32()).map(lambda c: (c, ValueType.INT32))
)
def test_scalars(case: tuple[pa.Array, ValueType]) -> None:
    """Floats, truth values, texts and bytes, missing ones too, are encoded as Feast does."""
    check(*case)


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        (pa.array([[0.1, 1e-50], None], pa.list_(pa.float64())), ValueType.FLOAT_LIST),
        (pa.array([1, 2], pa.int64()), ValueType.UNIX_TIMESTAMP),
        (pa.array([1.5, None], pa.float64()), ValueType.FLOAT),
        (pa.array([[1, 2], [], None], pa.list_(pa.int64())), ValueType.INT64_LIST),
        (pa.nulls(3), ValueType.FLOAT_LIST),
        (pa.nulls(3), ValueType.INT64),
        (pa.nulls(3), ValueType.UNIX_TIMESTAMP),
    ],
)
def test_columns_of_other_types(column: pa.Array, kind: ValueType) -> None:
    """A column that Feast has to convert comes out as Feast converts it."""
    check(column, kind)


def test_dictionary_of_strings() -> None:
    """A dictionary-encoded column is encoded as the plain one."""
    column = pa.array(["a", None, "bb", "a"])
    plain = encode(column, ValueType.STRING, "view: feature")
    assert encode(column.dictionary_encode(), ValueType.STRING, "view: feature").equals(plain)


def test_null_within_a_vector_is_refused() -> None:
    """A vector with a hole is an error that names the feature."""
    column = pa.array([[1.0, None]], pa.list_(pa.float32()))
    with pytest.raises(StoreError, match="users: vector holds 1 nulls within vectors"):
        encode(column, ValueType.FLOAT_LIST, "users: vector")


def test_wrong_type_is_refused_in_one_line() -> None:
    """What Feast itself cannot convert is one line that names the feature and both types."""
    with pytest.raises(StoreError, match=r"users: age is string, .* as INT64") as caught:
        encode(pa.array(["old"]), ValueType.INT64, "users: age")
    assert "\n" not in str(caught.value)


TEXT = st.text(max_size=20)


@pytest.mark.parametrize(
    ("names", "kinds", "values"),
    [
        (["user_id"], [ValueType.INT64], st.tuples(INT64)),
        (["user_id"], [ValueType.STRING], st.tuples(TEXT)),
        (["user", "interest"], [ValueType.INT64, ValueType.INT64], st.tuples(INT64, INT64)),
        (["b", "a"], [ValueType.STRING, ValueType.INT64], st.tuples(TEXT, INT64)),
        (["b", "a"], [ValueType.STRING, ValueType.STRING], st.tuples(TEXT, TEXT)),
        (
            ["z", "ключ", "m"],
            [ValueType.STRING, ValueType.STRING, ValueType.INT64],
            st.tuples(TEXT, TEXT, INT64),
        ),
    ],
)
@given(data=st.data())
def test_keys(names: list[str], kinds: list[ValueType], values: Any, data: st.DataObject) -> None:
    """Entity keys of one and more parts, empty ids among them, are serialized as Feast does."""
    rows = data.draw(st.lists(values, min_size=1, max_size=20))
    columns = {
        name: pa.array([row[place] for row in rows], _arrow(kind))
        for place, (name, kind) in enumerate(zip(names, kinds, strict=True))
    }
    encoder = KeyEncoder(dict(zip(names, kinds, strict=True)), serialize_entity_key)
    wanted = [serialize_entity_key(_key(names, kinds, row)) for row in rows]
    assert encoder(columns).to_pylist() == wanted
    assert (
        encoder({name: column.slice(0, 1) for name, column in columns.items()})[0].as_py()
        == (wanted[0])
    )


def test_unknown_key_format_is_refused() -> None:
    """A serializer that does not hold ids as they are is noticed before anything is written."""
    with pytest.raises(StoreError, match="serializes entity keys in a way unknown here"):
        KeyEncoder({"user": ValueType.STRING}, lambda key: str(key).encode().hex().encode())


@given(st.lists(st.binary(max_size=5), min_size=1), st.binary(max_size=3))
def test_cut_and_join(rows: list[bytes], constant: bytes) -> None:
    """Cutting and joining are each other's undoing."""
    flat = np.frombuffer(b"".join(rows), np.uint8)
    column = cut(flat, np.array([len(row) for row in rows]))
    assert join(constant, column, column).to_pylist() == [constant + row + row for row in rows]


def _arrow(kind: ValueType) -> pa.DataType:
    return pa.int64() if kind == ValueType.INT64 else pa.string()


def _key(names: Sequence[str], kinds: Sequence[ValueType], row: Sequence[Any]) -> EntityKey:
    values = [
        Value(int64_val=value) if kind == ValueType.INT64 else Value(string_val=value)
        for kind, value in zip(kinds, row, strict=True)
    ]
    return EntityKey(join_keys=list(names), entity_values=values)
