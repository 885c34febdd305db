"""Packing: any order of events to the one order of histories."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unirep_feast import packing
from unirep_feast.errors import EventsError
from unirep_feast.events import TIME_TYPE, EventReport, Events, read_events
from unirep_feast.packing import PackedEvents, pack
from unirep_feast.spec_file import parse_spec
from unirep_feast.testing.world import make_world, pack_table

Row = tuple[object, object, int, str | None, float | None]

#: Few distinct values, so that ties and duplicates are common.
TYPES = st.sampled_from([None, "buy", "view", ""])
VALUES = st.sampled_from([None, 0.0, -0.0, 1.5, -2.0, math.inf])
TIMES = st.one_of(
    st.integers(0, 5),
    st.integers(-3, 3).map(lambda s: s * 1_000_000),
    st.integers(-(2**62), 2**62),
)


def rows_of(ids: st.SearchStrategy[object]) -> st.SearchStrategy[list[Row]]:
    return st.lists(st.tuples(ids, ids, TIMES, TYPES, VALUES), min_size=1, max_size=40)


INT_IDS = st.one_of(st.integers(0, 4), st.integers(-(2**63), 2**63 - 1))
STRING_IDS = st.one_of(st.sampled_from(["", "a", "b", "aa", "é", "日本"]), st.text(max_size=5))
ROWS = st.one_of(rows_of(INT_IDS), rows_of(STRING_IDS))


def table_of(rows: Sequence[Row], chunks: int = 1) -> pa.Table:
    kind = pa.string() if isinstance(rows[0][0], str) else pa.int64()
    user, item, when, what, value = zip(*rows, strict=True)
    table = pa.table(
        {
            "user_id": pa.array(user, kind),
            "item_id": pa.array(item, kind),
            "event_timestamp": pa.array(when, pa.int64()).cast(TIME_TYPE),
            "event_type": pa.array(what, pa.string()),
            "value": pa.array(value, pa.float32()),
        }
    )
    size = -(-len(rows) // chunks)
    return pa.concat_tables([table.slice(at, size) for at in range(0, len(rows), size)])


def key(row: Row) -> tuple[object, ...]:
    """The promised order: user, time, item id, type (null first), value (null last)."""
    user, item, when, what, value = row
    return (
        user if not isinstance(user, str) else user.encode(),
        when,
        item if not isinstance(item, str) else item.encode(),
        "" if what is None else "x" + what,
        math.inf if value is None else value,
        value is None,
    )


def rows_from(packed: PackedEvents) -> list[Row]:
    """Read packed events back as rows."""
    users, items = packed.users.to_pylist(), packed.item_ids.to_pylist()
    types = packed.columns.get("event_type")
    values = packed.columns.get("value")
    found: list[Row] = []
    for user, (start, end) in enumerate(zip(packed.offsets, packed.offsets[1:], strict=False)):
        for at in range(start, end):
            what = None if types is None or types[at] == 0 else packed.event_types[types[at] - 1]
            value = None if values is None or np.isnan(values[at]) else float(values[at])
            found.append((users[user], items[packed.items[at]], int(packed.times[at]), what, value))
    return found


@given(ROWS, st.integers(1, 4))
def test_packing_equals_a_plain_sort(rows: list[Row], chunks: int) -> None:
    """Histories are the rows sorted by user, time, item id, type and value."""
    packed = pack_table(table_of(rows, chunks), duplicates="keep")

    assert rows_from(packed) == sorted(rows, key=key)
    assert packed.offsets[-1] == len(rows)


@given(ROWS, st.randoms(use_true_random=False))
def test_file_order_changes_nothing(rows: list[Row], order: random.Random) -> None:
    """Shuffled rows pack to equal arrays, bit for bit."""
    shuffled = rows.copy()
    order.shuffle(shuffled)

    first, second = (pack_table(table_of(some)) for some in (rows, shuffled))

    assert first.users.equals(second.users)
    assert first.item_ids.equals(second.item_ids)
    assert first.event_types == second.event_types
    for name in ("offsets", "times", "items"):
        assert getattr(first, name).tobytes() == getattr(second, name).tobytes()
    for name, column in first.columns.items():
        assert column.tobytes() == second.columns[name].tobytes()


@given(ROWS)
def test_duplicates_are_dropped_and_counted(rows: list[Row]) -> None:
    """One of each set of equal rows stays, missing values are equal, and the rest is counted."""
    packed = pack_table(table_of(rows))

    expected = sorted(set(rows), key=key)
    assert rows_from(packed) == expected
    assert packed.report.kept == len(expected)
    lost = len(rows) - len(expected)
    assert packed.report.dropped == ({"duplicate": lost} if lost else {})


@given(ROWS)
def test_duplicates_can_be_an_error(rows: list[Row]) -> None:
    """``error`` refuses a log with duplicates, saying how many, and takes one without."""
    lost = len(rows) - len(set(rows))

    if lost == 0:
        assert rows_from(pack_table(table_of(rows), "error")) == sorted(rows, key=key)
    else:
        with pytest.raises(EventsError) as caught:
            pack_table(table_of(rows), "error")
        assert str(caught.value) == (
            f"made: {lost:,} duplicate rows (equal in user, item, time, type and value); mend the "
            "log, or set events.duplicates to drop or keep"
        )


@given(rows=ROWS, bits=st.integers(0, 63))
def test_wide_keys_sort_alike(rows: list[Row], bits: int) -> None:
    """Whether one composite key fits or not, the histories are the same."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "_KEY_BITS", bits)
        narrow = rows_from(pack_table(table_of(rows), "keep"))

    assert narrow == sorted(rows, key=key)


def test_a_span_beyond_63_bits_is_sorted() -> None:
    """The first and the last time that int64 can hold may stand in one log."""
    rows: list[Row] = [
        (1, 1, 2**63 - 1, None, None),
        (1, 1, -(2**63), None, None),
        (1, 1, 0, None, None),
    ]

    assert rows_from(pack_table(table_of(rows))) == sorted(rows, key=key)


def test_a_single_row_is_a_history() -> None:
    """One event makes one user with one item."""
    packed = pack_table(table_of([("u", "i", 5, None, None)]))

    assert packed.users.to_pylist() == ["u"]
    assert packed.offsets.tolist() == [0, 1]
    assert (packed.items.tolist(), packed.item_ids.to_pylist()) == ([0], ["i"])
    assert packed.event_types == ()


def test_optional_columns_may_be_absent() -> None:
    """A log of user, item and time alone has no further columns."""
    table = table_of([(2, 1, 5, None, None), (1, 1, 5, None, None)]).select(range(3))

    packed = pack_table(table)

    assert dict(packed.columns) == {}
    assert packed.users.to_pylist() == [1, 2]


def test_arrays_have_the_promised_types() -> None:
    """Offsets are int64 (no overflow at scale), items int32, types int16, values float32."""
    packed = make_world().packed

    assert packed.offsets.dtype == packed.times.dtype == np.int64
    assert packed.items.dtype == np.int32
    assert packed.columns["event_type"].dtype == np.int16
    assert packed.columns["value"].dtype == np.float32
    assert all(a.flags.writeable for a in (packed.times, packed.items, *packed.columns.values()))


def test_too_many_event_types_are_an_error() -> None:
    """A column of ids taken for the event type is refused before its codes overflow."""
    rows: list[Row] = [(1, 1, 5, str(n), None) for n in range(32_767)]

    with pytest.raises(EventsError, match="32,767 event types, at most 32,766") as caught:
        pack_table(table_of(rows))

    assert "`events.columns.type`" in str(caught.value)


def test_dropped_rows_add_to_what_reading_dropped() -> None:
    """The report goes on from where reading left it."""
    table = table_of([(1, 1, 5, None, None)] * 3)
    events = Events(table, EventReport(5, 3, {"null user_id": 2}), "log")

    report = pack(events).report

    assert report.line() == "1 events of 5 rows, dropped 2 (null user_id), 2 (duplicate)"


@pytest.mark.parametrize("name", ["online-retail", "ml-100k", "amazon-grocery"])
def test_real_logs_equal_a_plain_sort(name: str, data_dir: Callable[[str], Path]) -> None:
    """A real log, full of ties, packs to what a sort of its rows gives."""
    path = data_dir(name) / "events.parquet"
    spec = parse_spec({"name": "x", "plugin": "p", "events": {"path": str(path)}}, "test")
    table = read_events(spec).table

    packed = pack_table(table, "keep")

    expected = table.sort_by([(c, "ascending") for c in ("user_id", "event_timestamp", "item_id")])
    of_event = np.repeat(np.arange(len(packed.users)), np.diff(packed.offsets))
    assert packed.users.take(pa.array(of_event)).equals(expected["user_id"].combine_chunks())
    assert (
        pa.array(packed.times).cast(TIME_TYPE).equals(expected["event_timestamp"].combine_chunks())
    )
    assert packed.item_ids.take(pa.array(packed.items)).equals(expected["item_id"].combine_chunks())
    assert pq.read_metadata(path).num_rows == packed.times.size
