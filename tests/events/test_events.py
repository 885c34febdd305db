"""Reading event tables: which files, columns, ids and times are accepted."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unirep_feast.config import EventsConfig
from unirep_feast.events import EVENT_SCHEMA, TIME_TYPE, normalise_events, now
from unirep_feast.instants import parse_instant

T0 = parse_instant("2011-06-01")
HOUR = 3_600_000_000


def test_a_good_log_is_read_whole(path: Path, log: Any, read: Any) -> None:
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
def test_files_folders_and_globs_are_read(layout: str, tmp_path: Path, log: Any, read: Any) -> None:
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


def test_columns_can_have_any_name(log: Any) -> None:
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
def test_ids_become_int64_or_string(kind: pa.DataType, expected: pa.DataType, log: Any) -> None:
    """Integers of any width, strings and dictionaries of either are ids."""
    plain = pa.array([1, 2, 1]).cast(pa.string() if "string" in str(kind) else pa.int64())
    ids = plain.dictionary_encode() if pa.types.is_dictionary(kind) else plain.cast(kind)

    events = normalise_events(log(user_id=ids), EventsConfig(path="x"), "log")

    assert events.table["user_id"].type == expected
    assert [int(u) for u in events.table["user_id"].to_pylist()] == [1, 2, 1]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", ["UTC", "Asia/Tokyo", "+02:00"])
def test_times_of_any_unit_and_zone_become_utc_microseconds(unit: str, zone: str, log: Any) -> None:
    """The instant stays the same whatever unit and zone the file uses."""
    times = log()["event_timestamp"].cast(pa.timestamp(unit, tz=zone))

    events = normalise_events(log(event_timestamp=times), EventsConfig(path="x"), "log")

    assert events.table["event_timestamp"].equals(log()["event_timestamp"])


@given(st.lists(st.integers(-(10**18), 10**18), min_size=1))
def test_nanoseconds_are_cut_downwards(log: Any, nanoseconds: list[int]) -> None:
    """No time moves up when it loses its nanoseconds, before 1970 neither."""
    times = pa.array(nanoseconds, pa.timestamp("ns", tz="UTC"))
    rows = len(nanoseconds)
    table = log(user_id=[1] * rows, item_id=[1] * rows, event_timestamp=times)

    events = normalise_events(table, EventsConfig(path="x"), "log")

    found = events.table["event_timestamp"].cast(pa.int64()).to_pylist()
    assert found == [n // 1000 for n in nanoseconds]


def test_other_event_types_are_dropped_and_counted(log: Any) -> None:
    """``types`` keeps the named ones; the rest, nulls included, is counted."""
    table = log(kind=["buy", "view", None])

    events = normalise_events(
        table, EventsConfig(path="x", columns={"type": "kind"}, types=("buy",)), "log"
    )

    assert events.table["event_type"].to_pylist() == ["buy"]
    assert events.report.dropped == {"of another event type": 2}
    assert events.report.line() == "1 events of 3 rows, dropped 2 (of another event type)"


# -- before ----------------------------------------------------------------------------------------


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
    log: Any,
    read: Any,
    refused: Any,
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


def test_before_hides_future_rows_and_keeps_null_times(
    path: Path, log: Any, read: Any, refused: Any, later_than_now: Any
) -> None:
    """Rows later than now lie behind ``before`` and do not matter; null times still do."""
    pq.write_table(later_than_now(), path)
    assert read(path, now()).report.read == 2

    pq.write_table(log(event_timestamp=pa.array([T0, None, T0 + HOUR], TIME_TYPE)), path)
    assert "1 with null event_timestamp" in refused(path, T0 + HOUR)
    kept = read(path, T0 + HOUR, drop_invalid=True)
    assert kept.report.dropped == {"null event_timestamp": 1}
    assert kept.table["item_id"].to_pylist() == [10]


def test_before_far_beyond_the_log_reads_everything(path: Path, log: Any, read: Any) -> None:
    """A bound that nanoseconds cannot express is no bound."""
    times = log()["event_timestamp"].cast(pa.timestamp("ns", tz="UTC"))
    pq.write_table(log(event_timestamp=times), path)

    assert read(path, parse_instant("9000-01-01")).report.kept == 3


def test_before_the_first_event_without_times_is_an_error(
    path: Path, log: Any, refused: Any
) -> None:
    """A log of null times has no first event to name."""
    pq.write_table(log(event_timestamp=pa.nulls(3, TIME_TYPE)), path)

    message = refused(path, T0, drop_invalid=True)

    assert "no usable event" in message
    assert "dropped 3 (null event_timestamp)" in message


def test_an_hour_shown_twice_is_read_as_the_later_one(log: Any) -> None:
    """Where a clock is turned back, an event is never placed earlier than it may have been."""
    times = pa.array([datetime(2011, 10, 30, 1, 30)] * 3, pa.timestamp("us"))

    events = normalise_events(
        log(event_timestamp=times), EventsConfig(path="x", assume_timezone="Europe/London"), "log"
    )

    assert events.table["event_timestamp"][0].as_py() == datetime(2011, 10, 30, 1, 30, tzinfo=UTC)


# -- real logs -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "events", "users"),
    [("online-retail", 406_829, 4_372), ("ml-100k", 100_000, 943)],
)
def test_real_logs_are_read_whole(
    name: str, events: int, users: int, data_dir: Callable[[str], Path], read: Any
) -> None:
    """The counts of the published tables, nothing dropped."""
    found = read(data_dir(name) / "events.parquet")

    assert found.report.kept == events
    assert pc.count_distinct(found.table["user_id"]).as_py() == users


def test_real_null_times_are_counted(
    data_dir: Callable[[str], Path], read: Any, refused: Any
) -> None:
    """MIND's click histories carry no time: an error, or dropped and counted."""
    path = data_dir("mind-small") / "events.parquet"

    assert "with null event_timestamp" in refused(path)
    report = read(path, drop_invalid=True).report
    assert report.dropped["null event_timestamp"] > 0
    assert report.kept + report.dropped["null event_timestamp"] == report.read == 328_291
