"""Event tables that are refused, and in which words: bad columns, rows and files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from unirep_feast.config import EventsConfig
from unirep_feast.events import TIME_TYPE, normalise_events
from unirep_feast.instants import parse_instant

T0 = parse_instant("2011-06-01")


# -- bad columns -----------------------------------------------------------------------------------


def test_missing_columns_are_named_all_at_once(path: Path, log: Any, refused: Any) -> None:
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
def test_other_ids_are_refused(column: str, kind: pa.DataType, log: Any, refused: Any) -> None:
    """Floats (pandas' integers with gaps), booleans, dates, lists are no ids."""
    message = refused(log(**{column: pa.nulls(3, kind)}))

    assert message == f"log: column {column!r} is {kind}; wanted an integer or a string id"


def test_ids_beyond_int64_are_refused(log: Any, refused: Any) -> None:
    """An unsigned id that does not fit is named, not wrapped around."""
    message = refused(log(user_id=pa.array([1, 2, 2**64 - 1], pa.uint64())))

    assert "column 'user_id' is uint64; wanted int64" in message


@pytest.mark.parametrize("kind", [pa.string(), pa.int64(), pa.date32(), pa.float64()])
def test_times_that_are_no_timestamps_are_refused(
    kind: pa.DataType, path: Path, log: Any, refused: Any
) -> None:
    """Strings, numbers and dates are not guessed at."""
    pq.write_table(log(event_timestamp=pa.nulls(3, kind)), path)

    message = refused(path)

    assert f"column 'event_timestamp' is {pq.read_schema(path).field(2).type}" in message
    assert "wanted a timestamp with a time zone" in message
    assert "convert it where the log is written" in message


def test_times_without_a_zone_are_refused(path: Path, log: Any, refused: Any) -> None:
    """A naive clock is not taken for UTC unless the spec says so."""
    pq.write_table(log(event_timestamp=pa.array([0, 1, 2], pa.timestamp("us"))), path)

    message = refused(path)

    assert "column 'event_timestamp' is timestamp[us] without a time zone" in message
    assert "events.assume_timezone: UTC" in message


def test_an_unknown_zone_is_refused(log: Any, refused: Any) -> None:
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
    kind: str, column: pa.Array, wanted: str, log: Any, refused: Any
) -> None:
    """A type is text, a value is a number; the error says what the column is."""
    message = refused(log(extra=column), columns={kind: "extra"})

    assert f"column 'extra' is {column.type}" in message
    assert wanted in message


# -- bad rows --------------------------------------------------------------------------------------


@pytest.fixture
def holey(log: Any) -> Callable[[], pa.Table]:
    def make() -> pa.Table:
        return log(
            user_id=[None, 2, 1, 4, None],
            item_id=[10, None, 12, 13, None],
            event_timestamp=pa.array([T0, T0, None, T0, None], TIME_TYPE),
        )

    return make


def test_nulls_are_an_error_with_counts(path: Path, refused: Any, holey: Any) -> None:
    """By default a null user, item or time stops everything; each column's nulls are counted."""
    pq.write_table(holey(), path)

    message = refused(path)

    assert message == (
        f"{path}: rows that cannot be used: 2 with null user_id, 2 with null item_id, 2 with null "
        "event_timestamp; mend the log, or drop and count them with --drop-invalid "
        "(events.drop_invalid: true)"
    )


def test_nulls_are_dropped_and_counted_once(path: Path, read: Any, holey: Any) -> None:
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


def test_future_rows_are_an_error_with_the_latest(refused: Any, later_than_now: Any) -> None:
    """A time later than now is a broken clock or a wrong unit: refused, with the latest shown."""
    message = refused(later_than_now(), drop_invalid=True)

    assert "log: rows that cannot be used: 1 later than now (the latest at 2" in message
    assert "drop and count them with --drop-invalid (events.drop_future: true)" in message


def test_milliseconds_taken_for_seconds_are_an_error(log: Any, refused: Any) -> None:
    """Times far beyond the calendar are named as such, not with a traceback."""
    times = pa.array([1_300_000_000_000] * 3, pa.timestamp("s", tz="UTC"))

    message = refused(log(event_timestamp=times))

    assert "3 later than now (the latest at a time in the year 43" in message


def test_times_beyond_microseconds_are_an_error(log: Any, refused: Any) -> None:
    """A time that overflows int64 microseconds is refused, not wrapped around."""
    times = pa.array([2**62] * 3, pa.timestamp("s", tz="UTC"))

    message = refused(log(event_timestamp=times))

    assert "column 'event_timestamp' is timestamp[s, tz=UTC]; wanted times that fit" in message


def test_future_rows_are_dropped_and_counted(later_than_now: Any) -> None:
    """``drop_future`` keeps the others."""
    events = normalise_events(later_than_now(), EventsConfig(path="x", drop_future=True), "log")

    assert events.report.dropped == {"later than now": 1}
    assert events.table.num_rows == 2


def test_every_kind_of_bad_row_is_reported_at_once(
    log: Any, refused: Any, later_than_now: Any
) -> None:
    """Nulls and future rows stand in one line with both remedies."""
    message = refused(log(user_id=[None, 2, 3], event_timestamp=later_than_now()[2]))

    assert "1 with null user_id, 1 later than now" in message
    assert "--drop-invalid (events.drop_invalid: true, events.drop_future: true)" in message


def test_a_log_without_a_good_row_is_an_error(log: Any, refused: Any) -> None:
    """If everything was dropped, the counts say why nothing is left."""
    message = refused(log(user_id=pa.nulls(3, pa.int64())), drop_invalid=True)

    assert "log: no usable event (0 events of 3 rows, dropped 3 (null user_id))" in message
    assert "wanted at least one row with user_id, item_id and event_timestamp" in message


# -- bad files -------------------------------------------------------------------------------------


def test_a_missing_file_is_named(tmp_path: Path, refused: Any) -> None:
    """The path and the key of the spec that holds it."""
    message = refused(tmp_path / "none.parquet")

    assert f"events: no such file or folder {tmp_path / 'none.parquet'}" in message
    assert "`events.path`" in message


def test_a_glob_without_match_is_named(tmp_path: Path, refused: Any) -> None:
    """A glob that matches nothing is not an empty log."""
    message = refused(tmp_path / "*.parquet")

    assert f"events: no file matches {tmp_path / '*.parquet'}" in message


def test_a_folder_without_parquet_is_named(tmp_path: Path, refused: Any) -> None:
    """An empty folder says so."""
    message = refused(tmp_path)

    assert f"events: {tmp_path} holds no parquet file" in message


@pytest.mark.parametrize("where", ["file", "folder"])
def test_a_csv_is_no_parquet(where: str, tmp_path: Path, log: Any, refused: Any) -> None:
    """A CSV with any name is refused with what is wanted, in a folder too."""
    csv = tmp_path / "log.parquet"
    pyarrow.csv.write_csv(log(), csv)

    message = refused(csv if where == "file" else tmp_path)

    assert str(csv) in message
    assert "cannot be read as parquet" in message
    assert "a CSV must be converted first" in message


def test_an_empty_file_is_no_parquet(path: Path, refused: Any) -> None:
    """A file of no bytes is refused with its name."""
    path.write_bytes(b"")

    message = refused(path)

    assert str(path) in message
    assert "wanted a complete parquet file" in message


@pytest.mark.parametrize("kept", [0.3, 0.9])
def test_a_truncated_parquet_is_refused(kept: float, path: Path, log: Any, refused: Any) -> None:
    """Half a file is refused whole."""
    pq.write_table(log(), path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])

    message = refused(path)

    assert str(path) in message
    assert "wanted a complete parquet file" in message


def test_damage_within_a_parquet_is_refused(path: Path, log: Any, refused: Any) -> None:
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


def test_a_stray_file_in_a_folder_is_named(tmp_path: Path, log: Any, refused: Any) -> None:
    """A text file among the parquet files is named, not skipped."""
    pq.write_table(log(), tmp_path / "a.parquet")
    (tmp_path / "notes.txt").write_text("hello")

    assert "notes.txt" in refused(tmp_path)


def test_a_log_without_rows_is_refused(path: Path, log: Any, refused: Any) -> None:
    """A file with the right columns and no rows says so."""
    pq.write_table(log().slice(0, 0), path)

    assert refused(path) == f"events: {path} has no rows; give a log with at least one event"


def test_files_that_disagree_are_refused(tmp_path: Path, log: Any, refused: Any) -> None:
    """Two files with different kinds of id are one line, not a traceback."""
    pq.write_table(log(), tmp_path / "a.parquet")
    pq.write_table(log(user_id=["a", "b", "c"]), tmp_path / "b.parquet")

    assert f"{tmp_path}: cannot be read" in refused(tmp_path)
