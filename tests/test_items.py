"""Item codes: fitted once by frequency, persisted, and never shifted by new items."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unirep_feast.batch import FIRST_ITEM, UNK
from unirep_feast.errors import CheckpointError, EventsError
from unirep_feast.items import ItemTable, Vocabulary

IDS = st.one_of(
    st.lists(st.integers(-(2**63), 2**63 - 1), unique=True, max_size=20),
    st.lists(st.text(max_size=6), unique=True, max_size=20),
)
TYPES = st.lists(st.text(max_size=4), unique=True, max_size=4).map(lambda t: tuple(sorted(t)))


def ids_of(values: list[object]) -> pa.Array:
    kind = pa.string() if values and isinstance(values[0], str) else pa.int64()
    array = pa.array(values, kind)
    return array.take(pa.compute.sort_indices(array))


@st.composite
def vocabularies(draw: st.DrawFn) -> Vocabulary:
    ids = ids_of(draw(IDS))
    counts = draw(st.lists(st.integers(0, 4), min_size=len(ids), max_size=len(ids)))
    return Vocabulary.fit(ids, np.array(counts, np.int64), draw(TYPES))


def catalogue(ids: list[object], kind: pa.DataType) -> pa.Table:
    return pa.table(
        {
            "item_id": pa.array(ids, kind),
            "title": pa.array([f"title {i}" for i in ids], pa.string()),
            "category": pa.array([[f"c {i}"] for i in ids], pa.list_(pa.string())),
        }
    ).sort_by("item_id")


@given(
    counts=st.dictionaries(st.integers(-50, 50), st.integers(0, 5), min_size=1, max_size=20),
    min_count=st.integers(1, 4),
    max_items=st.one_of(st.none(), st.integers(1, 10)),
)
def test_codes_are_by_frequency_then_id(
    counts: dict[int, int], min_count: int, max_items: int | None
) -> None:
    """The most frequent item comes first, ties by id; rare items and a surplus get no code."""
    ids = sorted(counts)

    vocabulary = Vocabulary.fit(
        pa.array(ids), np.array([counts[i] for i in ids]), (), min_count, max_items
    )

    frequent = [i for i, n in Counter(counts).items() if n >= min_count]
    expected = sorted(frequent, key=lambda i: (-counts[i], i))[:max_items]
    assert vocabulary.item_ids.to_pylist() == expected
    assert vocabulary.counts.to_pylist() == [counts[i] for i in expected]
    assert len(vocabulary) == len(expected) + FIRST_ITEM


@given(vocabularies())
def test_a_vocabulary_survives_its_table(vocabulary: Vocabulary) -> None:
    """Table and back, through memory and parquet, gives equal codes, types and hash."""
    buffer = pa.BufferOutputStream()
    pq.write_table(vocabulary.to_table(), buffer)

    for table in (vocabulary.to_table(), pq.read_table(pa.BufferReader(buffer.getvalue()))):
        again = Vocabulary.from_table(table)
        assert again.item_ids.equals(vocabulary.item_ids)
        assert again.counts.equals(vocabulary.counts)
        assert again.event_types == vocabulary.event_types
        assert again.hash == vocabulary.hash


def test_the_table_survives_a_file_in_pieces(tmp_path: Path) -> None:
    """Row groups and slices do not show in the hash."""
    ids = pa.array([f"i{n:03}" for n in range(100)])
    vocabulary = Vocabulary.fit(ids, np.arange(1, 101))
    pq.write_table(vocabulary.to_table(), tmp_path / "v.parquet", row_group_size=7)

    again = Vocabulary.from_table(pq.read_table(tmp_path / "v.parquet"))
    sliced = Vocabulary(pa.concat_arrays([ids, vocabulary.item_ids])[100:], vocabulary.counts)

    assert again.hash == sliced.hash == vocabulary.hash


def test_the_hash_tells_vocabularies_apart() -> None:
    """Another id, order, kind of id or event type is another hash; counts are not part of it."""
    one = Vocabulary(pa.array([1, 2]), pa.array([5, 4]), ("a",))
    others = [
        Vocabulary(pa.array([1, 3]), one.counts, ("a",)),
        Vocabulary(pa.array([2, 1]), one.counts, ("a",)),
        Vocabulary(pa.array(["1", "2"]), one.counts, ("a",)),
        Vocabulary(pa.array([1, 2]), one.counts, ("b",)),
        Vocabulary(pa.array([1, 2]), one.counts, ()),
        Vocabulary(pa.array([1, 2]), one.counts, ("",)),
        Vocabulary(pa.array([1, 2, 3]), pa.array([5, 4, 3]), ("a",)),
    ]

    assert len({one.hash, *(other.hash for other in others)}) == len(others) + 1
    assert Vocabulary(one.item_ids, pa.array([9, 8]), ("a",)).hash == one.hash


def test_another_table_is_no_vocabulary() -> None:
    """A table with other columns is refused with what was found and wanted."""
    with pytest.raises(CheckpointError, match="columns \\['x'\\], wanted item_id and count"):
        Vocabulary.from_table(pa.table({"x": [1]}))


@given(vocabularies(), st.data())
def test_codes_never_shift(vocabulary: Vocabulary, data: st.DataObject) -> None:
    """Whatever the catalogue holds, coded items keep code, title and category beside them."""
    kind = vocabulary.item_ids.type
    known = vocabulary.item_ids.to_pylist()
    values = st.text(max_size=6) if kind == pa.string() else st.integers(-(2**63), 2**63 - 1)
    extra = data.draw(st.lists(values, unique=True, max_size=8))
    listed = sorted({*known[::2], *extra}, key=lambda i: i.encode() if isinstance(i, str) else i)

    items = ItemTable.build(vocabulary, catalogue(listed, kind))

    appended = [i for i in listed if i not in known]
    assert items.item_ids.to_pylist() == known + appended
    assert items.known == len(vocabulary)
    assert len(items) == len(known) + len(appended) + FIRST_ITEM
    expected = [f"title {i}" if i in listed else None for i in known + appended]
    assert items.titles.to_pylist() == expected
    assert items.categories.to_pylist() == [
        [f"c {i}"] if i in listed else None for i in known + appended
    ]
    codes = items.codes(pa.array(known + appended, kind))
    assert codes.tolist() == list(range(FIRST_ITEM, len(items)))


def test_a_growing_catalogue_keeps_codes_of_the_vocabulary() -> None:
    """New items are appended behind; those of the vocabulary stay where they were."""
    vocabulary = Vocabulary(pa.array([7, 5]), pa.array([2, 1]))

    before = ItemTable.build(vocabulary, catalogue([5, 7, 9], pa.int64()))
    after = ItemTable.build(vocabulary, catalogue([1, 5, 7, 9], pa.int64()))

    assert before.item_ids.to_pylist() == [7, 5, 9]
    assert after.item_ids.to_pylist() == [7, 5, 1, 9]
    assert before.codes(pa.array([5, 7])).tolist() == after.codes(pa.array([5, 7])).tolist()


def test_without_a_catalogue_only_coded_items_are_known() -> None:
    """Titles and categories are null, and other ids are UNK."""
    vocabulary = Vocabulary(pa.array(["b", "a"]), pa.array([2, 1]))

    items = ItemTable.build(vocabulary, None)

    assert items.titles.null_count == items.categories.null_count == 2
    assert items.codes(pa.array(["a", "b", "c", None])).tolist() == [4, 3, UNK, UNK]
    assert items.codes(pa.array(["a"])).dtype == np.int32
    assert items.codes(pa.array([1])).tolist() == [UNK]


def test_catalogue_ids_may_be_of_the_other_kind_if_they_mean_the_same() -> None:
    """Numbers in a string column still match integer ids; words do not and are named."""
    vocabulary = Vocabulary(pa.array([2, 1]), pa.array([2, 1]))

    items = ItemTable.build(vocabulary, catalogue(["1", "2"], pa.string()))

    assert items.titles.to_pylist() == ["title 2", "title 1"]
    with pytest.raises(EventsError, match="ids are string, such as 'lamp', but those of the event"):
        ItemTable.build(vocabulary, catalogue(["lamp"], pa.string()))
