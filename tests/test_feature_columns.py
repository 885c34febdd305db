from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from feast.protos.feast.types.Value_pb2 import DoubleList, FloatList, Null, Value
from hypothesis import given
from hypothesis import strategies as st

from unirep_feast.errors import StoreError
from unirep_feast.feature_store.columns import from_arrow, from_messages, from_values

WIDTH = 3
ROWS = st.lists(
    st.none() | st.lists(st.floats(width=32), min_size=WIDTH, max_size=WIDTH), max_size=12
)
TYPES = {
    "list": pa.list_(pa.float32()),
    "large_list": pa.large_list(pa.float32()),
    "fixed_size_list": pa.list_(pa.float32(), WIDTH),
    "doubles": pa.list_(pa.float64()),
}


def same(found: tuple[np.ndarray, np.ndarray], rows: list[Any]) -> bool:
    """Compare with the rows, bit for bit."""
    vectors, mask = found
    wanted = np.array([row for row in rows if row], np.float32)
    return mask.tolist() == [bool(row) for row in rows] and vectors.tobytes() == wanted.tobytes()


@pytest.mark.parametrize("kind", TYPES)
@given(rows=ROWS, cuts=st.lists(st.integers(0, 12), max_size=3), drop=st.integers(0, 3))
def test_arrow_columns_decode_exactly(kind: str, rows: Any, cuts: list[int], drop: int) -> None:
    """Any list type, chunked and sliced at any place, with nulls, gives the numbers it holds."""
    whole = pa.array(rows, TYPES[kind])
    bounds = [0, *sorted(min(cut, len(rows)) for cut in cuts), len(rows)]
    chunks = [whole.slice(start, stop - start) for start, stop in pairwise(bounds)]
    column = pa.chunked_array(chunks, TYPES[kind]).slice(drop)

    assert same(from_arrow(column, "x"), rows[drop:])


def test_numbers_behind_a_null_are_not_read() -> None:
    """A null row may cover numbers in the buffer; they belong to nobody."""
    values = pa.array(range(6), pa.float32())
    column = pa.ListArray.from_arrays(
        pa.array([0, 2, 4, 6]), values, mask=pa.array([False, True, False])
    )

    vectors, mask = from_arrow(pa.chunked_array([column]), "x")

    assert vectors.tolist() == [[0, 1], [4, 5]]
    assert mask.tolist() == [True, False, True]


@pytest.mark.parametrize("kind", [pa.null(), *TYPES.values()], ids=str)
def test_a_column_of_nulls_has_no_vector(kind: pa.DataType) -> None:
    """All null, of null type, or without rows: no vector and no error."""
    for rows in (0, 4):
        vectors, mask = from_arrow(pa.chunked_array([pa.nulls(rows, kind)]), "x")

        assert len(vectors) == 0
        assert mask.tolist() == [False] * rows
    assert from_arrow(pa.chunked_array([], kind), "x")[1].tolist() == []


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pa.array([[1.0], [1.0, 2.0]]), "mixes vectors of 1, 2 numbers"),
        (pa.array([[1.0, None]]), "1 nulls within vectors"),
        (pa.array([1.0]), "x is double; wanted a list"),
        (pa.array([["a"]]), "lists of string"),
    ],
)
def test_columns_that_are_no_vectors_are_refused(column: pa.Array, message: str) -> None:
    """What is no rectangle of numbers is an error that says what it is."""
    with pytest.raises(StoreError, match=message):
        from_arrow(pa.chunked_array([column]), "x")


@given(rows=ROWS)
def test_feast_values_decode_exactly(rows: Any) -> None:
    """Messages of an online store give the numbers they hold, nothing more for a missing user."""
    values = [Value() if row is None else Value(float_list_val=FloatList(val=row)) for row in rows]

    assert same(from_values(values, "x"), rows)


def test_a_null_and_an_empty_list_are_missing() -> None:
    """Stores that write a null say it in different ways; all of them mean no vector."""
    values = [
        Value(null_val=Null.NULL),
        Value(float_list_val=FloatList()),
        Value(float_list_val=FloatList(val=[0.0] * 1280)),
        Value(),
    ]

    vectors, mask = from_values(values, "x")

    assert vectors.shape == (1, 1280)
    assert mask.tolist() == [False, False, True, False]


def test_values_that_are_no_vectors_are_refused() -> None:
    """Another kind of value, or vectors of two lengths, is an error and never a guess."""
    one, two = Value(float_list_val=FloatList(val=[1])), Value(float_list_val=FloatList(val=[1, 2]))
    double = Value(double_list_val=DoubleList(val=[1]))

    with pytest.raises(StoreError, match="mixes vectors of 1, 2 numbers: snapshots of two runs"):
        from_values([one, two], "x")
    with pytest.raises(StoreError, match=r"double_list_val.*wanted float_list_val"):
        from_values([one, double], "x")


def test_messages_of_another_form_are_parsed() -> None:
    """Lists that are not packed, or unlike the first in form, give the numbers they hold."""
    numbers = np.array([[1.5, -2.0], [0.25, 3.0]], np.float32)
    packed = [Value(float_list_val=FloatList(val=row)).SerializeToString() for row in numbers]
    inner = FloatList(val=numbers[0]).SerializeToString()
    tag = packed[0][: -len(inner) - 1]
    one_by_one = b"".join(b"\x0d" + row.tobytes() for row in numbers[0])  # field 1, 32 bits, twice
    loose = tag + bytes([len(one_by_one)]) + one_by_one
    assert Value.FromString(loose).float_list_val.val == numbers[0].tolist()

    for messages in ([loose, packed[1]], [packed[0], packed[1]]):
        vectors, mask = from_messages([None, *messages, b""], "x")

        assert vectors.tolist() == numbers.tolist()
        assert mask.tolist() == [False, True, True, False]


def test_one_vector_is_a_tensor_of_its_own() -> None:
    """The array of a single message can be written to and is no window into bytes."""
    vectors, _ = from_messages(
        [Value(float_list_val=FloatList(val=[1, 2])).SerializeToString()], ""
    )

    vectors += 1

    assert vectors.tolist() == [[2, 3]]
    assert vectors.strides == (8, 4)
