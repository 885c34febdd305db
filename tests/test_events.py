"""Reading event and item tables: what is accepted, what is refused and in which words."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unirep_feast.config import EventsConfig, ItemsConfig, parse_instant, parse_spec
from unirep_feast.errors import EventsError
from unirep_feast.events import (
    EVENT_SCHEMA,
    TIME_TYPE,
    Events,
    normalise_events,
    normalise_items,
    now,
    read_events,
    read_items,
)

T0 = parse_instant("2011-06-01")
HOUR = 3_600_000_000


def log(**columns: object) -> pa.Table:
    """Three good rows; ``columns`` replaces or adds some (None removes)."""
    base: dict[str, object] = {
        "user_id": [1, 2, 1],
        "item_id": [10, 11, 12],
        "event_timestamp": pa.array([T0, T0 + HOUR, T0 + 2 * HOUR], TIME_TYPE),
    }
    base.update(columns)
    return pa.table({name: column for name, column in base.items() if column is not None})


def read(path: Path, before: int | None = None, **events: object) -> Events:
    spec = parse_spec({"name": "x", "plugin": "p", "events": {"path": str(path), **events}}, "test")
    return read_events(spec, before)


def refused(source: pa.Table | Path, before: int | None = None, **events: object) -> str:
    """Read a log that must be refused; returns the error, which must be one line."""
    with pytest.raises(EventsError) as caught:
        if isinstance(source, Path):
            read(source, before, **events)
        else:
            normalise_events(source, EventsConfig(path="log", **events), "log")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.parquet"


def test_a_good_log_is_read_whole(path: Path) -> None:
    """Every row of a clean file becomes an event in the one schema."""
    pq.write_table(log(), path)

    events = read(path)

    assert events.table.schema.types == EVENT_SCHEMA.types[:3]
    assert events.table["event_timestamp"].cast(pa.int64()).to_pylist() == [
        T0,
        T0 + HOUR,
        T0 + 2 * HOUR,
    ]
    assert (events.report.read, events.report.kept, events.report.dropped) == (3, 3, {})
    assert events.report.line() == "3 events of 3 rows"


@pytest.mark.parametrize("layout", ["file", "folder", "nested folder", "glob", "odd name"])
def test_files_folders_and_globs_are_read(layout: str, tmp_path: Path) -> None:
    """A log may be one file, a folder (at any depth) or a glob; ``_SUCCESS`` marks are skipped."""
    names = {
        "file": ["a.parquet"],
        "folder": ["log/a.parquet", "log/b.parquet"],
        "nested folder": ["log/1/a.parquet", "log/2/b.parquet"],
        "glob": ["log/a.parquet", "log/b.parquet", "log/c.csv"],
        "odd name": ["log[1].parquet"],
    }[layout]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("csv"):
            (tmp_path / name).write_text("not parquet")
        else:
            pq.write_table(log(), tmp_path / name)
    if "folder" in layout:
        (tmp_path / "log/_SUCCESS").write_text("")
    given_path = {"file": names[0], "glob": "log/*.parquet", "odd name": names[0]}.get(
        layout, "log"
    )

    events = read(tmp_path / given_path)

    assert events.report.kept == 3 * sum(name.endswith("parquet") for name in names)


def test_columns_can_have_any_name() -> None:
    """The spec says which column holds what; further columns are ignored."""
    table = log().rename_columns(["who", "what", "when"]).append_column("noise", [[1, 2, 3]])
    table = table.append_column("kind", [["a", None, "b"]]).append_column("paid", [[1, None, 3]])
    columns = {"user": "who", "item": "what", "time": "when", "type": "kind", "value": "paid"}

    events = normalise_events(table, EventsConfig(path="x", columns=columns), "log")

    assert events.table.schema == EVENT_SCHEMA
    assert events.table["event_type"].to_pylist() == ["a", None, "b"]
    assert events.table["value"].to_pylist() == [1.0, None, 3.0]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (pa.int32(), pa.int64()),
        (pa.uint64(), pa.int64()),
        (pa.string(), pa.string()),
        (pa.large_string(), pa.string()),
        (pa.dictionary(pa.int8(), pa.string()), pa.string()),
        (pa.dictionary(pa.int8(), pa.int64()), pa.int64()),
    ],
)
def test_ids_become_int64_or_string(kind: pa.DataType, expected: pa.DataType) -> None:
    """Integers of any width, strings and dictionaries of either are ids."""
    plain = pa.array([1, 2, 1]).cast(pa.string() if "string" in str(kind) else pa.int64())
    ids = plain.dictionary_encode() if pa.types.is_dictionary(kind) else plain.cast(kind)

    events = normalise_events(log(user_id=ids), EventsConfig(path="x"), "log")

    assert events.table["user_id"].type == expected
    assert [int(u) for u in events.table["user_id"].to_pylist()] == [1, 2, 1]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", ["UTC", "Asia/Tokyo", "+02:00"])
def test_times_of_any_unit_and_zone_become_utc_microseconds(unit: str, zone: str) -> None:
    """The instant stays the same whatever unit and zone the file uses."""
    times = log()["event_timestamp"].cast(pa.timestamp(unit, tz=zone))

    events = normalise_events(log(event_timestamp=times), EventsConfig(path="x"), "log")

    assert events.table["event_timestamp"].equals(log()["event_timestamp"])


@given(st.lists(st.integers(-(10**18), 10**18), min_size=1))
def test_nanoseconds_are_cut_downwards(nanoseconds: list[int]) -> None:
    """No time moves up when it loses its nanoseconds, before 1970 neither."""
    times = pa.array(nanoseconds, pa.timestamp("ns", tz="UTC"))
    rows = len(nanoseconds)
    table = log(user_id=[1] * rows, item_id=[1] * rows, event_timestamp=times)

    events = normalise_events(table, EventsConfig(path="x"), "log")

    found = events.table["event_timestamp"].cast(pa.int64()).to_pylist()
    assert found == [n // 1000 for n in nanoseconds]


def test_other_event_types_are_dropped_and_counted() -> None:
    """``types`` keeps the named ones; the rest, nulls included, is counted."""
    table = log(kind=["buy", "view", None])

    events = normalise_events(
        table, EventsConfig(path="x", columns={"type": "kind"}, types=("buy",)), "log"
    )

    assert events.table["event_type"].to_pylist() == ["buy"]
    assert events.report.dropped == {"of another event type": 2}
    assert events.report.line() == "1 events of 3 rows, dropped 2 (of another event type)"


# -- bad columns --------------------------------------------------------------------------------


def test_missing_columns_are_named_all_at_once(path: Path) -> None:
    """The error names what is missing, what was found and where to name the right ones."""
    pq.write_table(log().rename_columns(["user", "item", "event_timestamp"]), path)

    message = refused(path)

    assert str(path) in message
    assert "no column 'user_id', 'item_id'" in message
    assert "found user, item, event_timestamp" in message
    assert "`events.columns` in the spec" in message


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        ("user_id", pa.float64()),
        ("item_id", pa.bool_()),
        ("user_id", pa.date32()),
        ("item_id", pa.list_(pa.int64())),
        ("user_id", pa.null()),
    ],
)
def test_other_ids_are_refused(column: str, kind: pa.DataType) -> None:
    """Floats (pandas' integers with gaps), booleans, dates, lists are no ids."""
    message = refused(log(**{column: pa.nulls(3, kind)}))

    assert message == f"log: column {column!r} is {kind}; wanted an integer or a string id"


def test_ids_beyond_int64_are_refused() -> None:
    """An unsigned id that does not fit is named, not wrapped around."""
    message = refused(log(user_id=pa.array([1, 2, 2**64 - 1], pa.uint64())))

    assert "column 'user_id' is uint64; wanted int64" in message


@pytest.mark.parametrize("kind", [pa.string(), pa.int64(), pa.date32(), pa.float64()])
def test_times_that_are_no_timestamps_are_refused(kind: pa.DataType, path: Path) -> None:
    """Strings, numbers and dates are not guessed at."""
    pq.write_table(log(event_timestamp=pa.nulls(3, kind)), path)

    message = refused(path)

    assert f"column 'event_timestamp' is {pq.read_schema(path).field(2).type}" in message
    assert "wanted a timestamp with a time zone" in message
    assert "convert it where the log is written" in message


def test_times_without_a_zone_are_refused(path: Path) -> None:
    """A naive clock is not taken for UTC unless the spec says so."""
    pq.write_table(log(event_timestamp=pa.array([0, 1, 2], pa.timestamp("us"))), path)

    message = refused(path)

    assert "column 'event_timestamp' is timestamp[us] without a time zone" in message
    assert "events.assume_timezone: UTC" in message


def test_an_unknown_zone_is_refused() -> None:
    """A misspelt time zone is named with its key."""
    table = log(event_timestamp=pa.array([0, 1, 2], pa.timestamp("us")))

    message = refused(table, assume_timezone="Europe/Lundun")

    assert message.startswith("events.assume_timezone: 'Europe/Lundun' is no known time zone")


@pytest.mark.parametrize(
    ("kind", "column", "wanted"),
    [
        ("value", pa.array(["1", "2", "x"]), "wanted a number"),
        ("value", pa.array(["1", "2", "x"], pa.large_string()), "wanted a number"),
        ("value", pa.array([True, False, True]), "wanted float"),
        ("type", pa.array([[1], [2], [3]]), "wanted string"),
    ],
)
def test_types_and_values_of_another_kind_are_refused(
    kind: str, column: pa.Array, wanted: str
) -> None:
    """A type is text, a value is a number; the error says what the column is."""
    message = refused(log(extra=column), columns={kind: "extra"})

    assert f"column 'extra' is {column.type}" in message
    assert wanted in message


# -- bad rows -----------------------------------------------------------------------------------


def holey() -> pa.Table:
    return log(
        user_id=[None, 2, 1, 4, None],
        item_id=[10, None, 12, 13, None],
        event_timestamp=pa.array([T0, T0, None, T0, None], TIME_TYPE),
    )


def test_nulls_are_an_error_with_counts(path: Path) -> None:
    """By default a null user, item or time stops everything; each column's nulls are counted."""
    pq.write_table(holey(), path)

    message = refused(path)

    assert message == (
        f"{path}: rows that cannot be used: 2 with null user_id, 2 with null item_id, 2 with null "
        "event_timestamp; mend the log, or drop and count them with --drop-invalid "
        "(events.drop_invalid: true)"
    )


def test_nulls_are_dropped_and_counted_once(path: Path) -> None:
    """``drop_invalid`` keeps good rows; a row with two nulls counts once, so counts add up."""
    pq.write_table(holey(), path)

    events = read(path, drop_invalid=True)

    assert events.table.to_pydict()["user_id"] == [4]
    assert events.report.dropped == {
        "null user_id": 2,
        "null item_id": 1,
        "null event_timestamp": 1,
    }
    assert events.report.read == events.report.kept + sum(events.report.dropped.values())


def later_than_now() -> pa.Table:
    ahead = pa.array([T0, T0, now() + 30 * 24 * HOUR], TIME_TYPE)
    return log(event_timestamp=ahead)


def test_future_rows_are_an_error_with_the_latest() -> None:
    """A time later than now is a broken clock or a wrong unit: refused, with the latest shown."""
    message = refused(later_than_now(), drop_invalid=True)

    assert "log: rows that cannot be used: 1 later than now (the latest at 2" in message
    assert "drop and count them with --drop-invalid (events.drop_future: true)" in message


def test_milliseconds_taken_for_seconds_are_an_error() -> None:
    """Times far beyond the calendar are named as such, not with a traceback."""
    times = pa.array([1_300_000_000_000] * 3, pa.timestamp("s", tz="UTC"))

    message = refused(log(event_timestamp=times))

    assert "3 later than now (the latest at a time in the year 43" in message


def test_times_beyond_microseconds_are_an_error() -> None:
    """A time that overflows int64 microseconds is refused, not wrapped around."""
    times = pa.array([2**62] * 3, pa.timestamp("s", tz="UTC"))

    message = refused(log(event_timestamp=times))

    assert "column 'event_timestamp' is timestamp[s, tz=UTC]; wanted times that fit" in message


def test_future_rows_are_dropped_and_counted() -> None:
    """``drop_future`` keeps the others."""
    events = normalise_events(later_than_now(), EventsConfig(path="x", drop_future=True), "log")

    assert events.report.dropped == {"later than now": 1}
    assert events.table.num_rows == 2


def test_every_kind_of_bad_row_is_reported_at_once() -> None:
    """Nulls and future rows stand in one line with both remedies."""
    message = refused(log(user_id=[None, 2, 3], event_timestamp=later_than_now()[2]))

    assert "1 with null user_id, 1 later than now" in message
    assert "--drop-invalid (events.drop_invalid: true, events.drop_future: true)" in message


def test_a_log_without_a_good_row_is_an_error() -> None:
    """If everything was dropped, the counts say why nothing is left."""
    message = refused(log(user_id=pa.nulls(3, pa.int64())), drop_invalid=True)

    assert "log: no usable event (0 events of 3 rows, dropped 3 (null user_id))" in message
    assert "wanted at least one row with user_id, item_id and event_timestamp" in message


# -- bad files ----------------------------------------------------------------------------------


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """The path and the key of the spec that holds it."""
    message = refused(tmp_path / "none.parquet")

    assert f"events: no such file or folder {tmp_path / 'none.parquet'}" in message
    assert "`events.path`" in message


def test_a_glob_without_match_is_named(tmp_path: Path) -> None:
    """A glob that matches nothing is not an empty log."""
    message = refused(tmp_path / "*.parquet")

    assert f"events: no file matches {tmp_path / '*.parquet'}" in message


def test_a_folder_without_parquet_is_named(tmp_path: Path) -> None:
    """An empty folder says so."""
    message = refused(tmp_path)

    assert f"events: {tmp_path} holds no parquet file" in message


@pytest.mark.parametrize("where", ["file", "folder"])
def test_a_csv_is_no_parquet(where: str, tmp_path: Path) -> None:
    """A CSV with any name is refused with what is wanted, in a folder too."""
    csv = tmp_path / "log.parquet"
    pyarrow.csv.write_csv(log(), csv)

    message = refused(csv if where == "file" else tmp_path)

    assert str(csv) in message
    assert "cannot be read as parquet" in message
    assert "a CSV must be converted first" in message


def test_an_empty_file_is_no_parquet(path: Path) -> None:
    """A file of no bytes is refused with its name."""
    path.write_bytes(b"")

    message = refused(path)

    assert str(path) in message
    assert "wanted a complete parquet file" in message


@pytest.mark.parametrize("kept", [0.3, 0.9])
def test_a_truncated_parquet_is_refused(kept: float, path: Path) -> None:
    """Half a file is refused whole."""
    pq.write_table(log(), path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])

    message = refused(path)

    assert str(path) in message
    assert "wanted a complete parquet file" in message


def test_damage_within_a_parquet_is_refused(path: Path) -> None:
    """A footer without its data is found while reading, still in one line."""
    rows = 10_000
    times = pa.array(np.full(rows, T0), TIME_TYPE)
    pq.write_table(
        log(user_id=np.arange(rows), item_id=np.arange(rows), event_timestamp=times),
        path,
        compression="zstd",
    )
    content = bytearray(path.read_bytes())
    content[100 : len(content) // 2] = b"\xff" * (len(content) // 2 - 100)
    path.write_bytes(content)

    message = refused(path)

    assert f"{path}: cannot be read" in message
    assert "is it complete?" in message


def test_a_stray_file_in_a_folder_is_named(tmp_path: Path) -> None:
    """A text file among the parquet files is named, not skipped."""
    pq.write_table(log(), tmp_path / "a.parquet")
    (tmp_path / "notes.txt").write_text("hello")

    assert "notes.txt" in refused(tmp_path)


def test_a_log_without_rows_is_refused(path: Path) -> None:
    """A file with the right columns and no rows says so."""
    pq.write_table(log().slice(0, 0), path)

    assert refused(path) == f"events: {path} has no rows; give a log with at least one event"


def test_files_that_disagree_are_refused(tmp_path: Path) -> None:
    """Two files with different kinds of id are one line, not a traceback."""
    pq.write_table(log(), tmp_path / "a.parquet")
    pq.write_table(log(user_id=["a", "b", "c"]), tmp_path / "b.parquet")

    assert f"{tmp_path}: cannot be read" in refused(tmp_path)


# -- before -------------------------------------------------------------------------------------


@given(
    hours=st.lists(st.integers(0, 100), min_size=1, max_size=20),
    cut=st.integers(1, 101),
    unit=st.sampled_from(["s", "ms", "us", "ns"]),
    zone=st.sampled_from(["UTC", "America/New_York", None]),
)
def test_before_keeps_exactly_earlier_events(
    tmp_path_factory: pytest.TempPathFactory,
    hours: list[int],
    cut: int,
    unit: str,
    zone: str | None,
) -> None:
    """``before`` equals reading everything and keeping times < T, in every unit and zone."""
    path = tmp_path_factory.mktemp("log") / "events.parquet"
    rows = len(hours)
    times = pa.array([T0 + h * HOUR for h in hours], TIME_TYPE).cast(pa.timestamp(unit, tz="UTC"))
    times = times.cast(pa.timestamp(unit, tz=zone)) if zone else pc.local_timestamp(times)
    pq.write_table(log(user_id=[1] * rows, item_id=list(range(rows)), event_timestamp=times), path)
    assumed = {} if zone else {"assume_timezone": "Asia/Kolkata"}
    shift = 0 if zone else -int(5.5 * HOUR)
    before = T0 + cut * HOUR + shift
    expected = [i for i, h in enumerate(hours) if h < cut]

    if expected:
        events = read(path, before, **assumed)
        assert events.table["item_id"].to_pylist() == expected
        assert events.report.read == len(expected)
    else:
        first = min(hours) * HOUR + T0 + shift
        message = refused(path, before, **assumed)
        assert f"{path} has no event before" in message
        assert datetime.fromtimestamp(first / 1e6, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") in message


def test_before_hides_future_rows_and_keeps_null_times(path: Path) -> None:
    """Rows later than now lie behind ``before`` and do not matter; null times still do."""
    pq.write_table(later_than_now(), path)
    assert read(path, now()).report.read == 2

    pq.write_table(log(event_timestamp=pa.array([T0, None, T0 + HOUR], TIME_TYPE)), path)
    assert "1 with null event_timestamp" in refused(path, T0 + HOUR)
    kept = read(path, T0 + HOUR, drop_invalid=True)
    assert kept.report.dropped == {"null event_timestamp": 1}
    assert kept.table["item_id"].to_pylist() == [10]


def test_before_far_beyond_the_log_reads_everything(path: Path) -> None:
    """A bound that nanoseconds cannot express is no bound."""
    times = log()["event_timestamp"].cast(pa.timestamp("ns", tz="UTC"))
    pq.write_table(log(event_timestamp=times), path)

    assert read(path, parse_instant("9000-01-01")).report.kept == 3


def test_before_the_first_event_without_times_is_an_error(path: Path) -> None:
    """A log of null times has no first event to name."""
    pq.write_table(log(event_timestamp=pa.nulls(3, TIME_TYPE)), path)

    message = refused(path, T0, drop_invalid=True)

    assert "no usable event" in message
    assert "dropped 3 (null event_timestamp)" in message


def test_an_hour_shown_twice_is_read_as_the_later_one() -> None:
    """Where a clock is turned back, an event is never placed earlier than it may have been."""
    times = pa.array([datetime(2011, 10, 30, 1, 30)] * 3, pa.timestamp("us"))

    events = normalise_events(
        log(event_timestamp=times), EventsConfig(path="x", assume_timezone="Europe/London"), "log"
    )

    assert events.table["event_timestamp"][0].as_py() == datetime(2011, 10, 30, 1, 30, tzinfo=UTC)


# -- items --------------------------------------------------------------------------------------


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


# -- real logs ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "events", "users"),
    [("online-retail", 406_829, 4_372), ("ml-100k", 100_000, 943)],
)
def test_real_logs_are_read_whole(
    name: str, events: int, users: int, data_dir: Callable[[str], Path]
) -> None:
    """The counts of the published tables, nothing dropped."""
    found = read(data_dir(name) / "events.parquet")

    assert found.report.kept == events
    assert pc.count_distinct(found.table["user_id"]).as_py() == users


def test_real_null_times_are_counted(data_dir: Callable[[str], Path]) -> None:
    """MIND's click histories carry no time: an error, or dropped and counted."""
    path = data_dir("mind-small") / "events.parquet"

    assert "with null event_timestamp" in refused(path)
    report = read(path, drop_invalid=True).report
    assert report.dropped["null event_timestamp"] > 0
    assert report.kept + report.dropped["null event_timestamp"] == report.read == 328_291
