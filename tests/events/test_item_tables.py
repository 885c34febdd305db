"""Reading item tables: what is accepted, what is refused and in which words."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from unirep_feast.catalogue import normalise_items, read_items
from unirep_feast.config import ItemsConfig
from unirep_feast.errors import EventsError
from unirep_feast.spec_file import parse_spec


def goods(**columns: object) -> pa.Table:
    base: dict[str, object] = {
        "item_id": [3, 1, 2],
        "title": ["c", None, "b"],
        "category": [["x", "y"], ["x"], None],
    }
    base.update(columns)
    return pa.table({name: column for name, column in base.items() if column is not None})


def items_refused(table: pa.Table, **config: object) -> str:
    with pytest.raises(EventsError) as caught:
        normalise_items(table, ItemsConfig(path="x", **config), "items.parquet")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_items_are_sorted_by_id() -> None:
    """One row per item in the order of ids, titles and categories beside them."""
    items = normalise_items(goods(), ItemsConfig(path="x"), "items")

    assert items.to_pydict() == {
        "item_id": [1, 2, 3],
        "title": [None, "b", "c"],
        "category": [["x"], None, ["x", "y"]],
    }


def test_a_single_category_becomes_a_list() -> None:
    """A string column gives lists of one; an unknown category stays unknown."""
    items = normalise_items(goods(category=["x", None, "y"]), ItemsConfig(path="x"), "items")

    assert items["category"].to_pylist() == [None, ["y"], ["x"]]


def test_items_may_have_neither_title_nor_category() -> None:
    """Both columns can be switched off."""
    config = ItemsConfig(path="x", title=None, category=None)

    items = normalise_items(goods(title=None, category=None), config, "items")

    assert items.schema.types == [pa.int64(), pa.string(), pa.list_(pa.string())]
    assert items["title"].null_count == items["category"].null_count == 3


def test_bad_items_are_refused() -> None:
    """Null ids, ids that stand twice and columns of another kind each give one line."""
    assert items_refused(goods(item_id=[1, None, None])) == (
        "items.parquet: 2 items without 'item_id'; remove them"
    )
    assert items_refused(goods(item_id=[1, 1, 2])) == (
        "items.parquet: 1 item ids stand more than once; keep one row per 'item_id'"
    )
    assert "column 'title' is list" in items_refused(goods(title=[["a"], ["b"], ["c"]]))
    assert "column 'category' is list" in items_refused(goods(category=[[{"a": 1}]] * 3))


def test_items_are_read_from_parquet(tmp_path: Path) -> None:
    """The spec names the file; missing columns and files name the key ``items``."""
    pq.write_table(goods(), tmp_path / "items.parquet")

    def spec(**items: object) -> object:
        return read_items(
            parse_spec(
                {
                    "name": "x",
                    "plugin": "p",
                    "events": {"path": "e"},
                    "items": items or None,
                    "folder": str(tmp_path),
                },
                "test",
            )
        )

    assert spec(path="items.parquet").num_rows == 3
    assert spec() is None
    with pytest.raises(EventsError, match="no column 'name'; found item_id, title, category"):
        spec(path="items.parquet", title="name")
    with pytest.raises(EventsError, match=re.escape("items: no such file")):
        spec(path="none.parquet")
