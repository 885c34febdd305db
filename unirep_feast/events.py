"""The event log: one Arrow schema, read and checked, with every dropped row counted."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from unirep_feast.config import EventsConfig, RepresentationSpec
from unirep_feast.errors import EventsError, one_line
from unirep_feast.instants import MICROSECONDS_PER_DAY, format_instant
from unirep_feast.tables import cast_column, check_columns, id_column, open_dataset

TIME_TYPE = pa.timestamp("us", tz="UTC")
_LATER = "later than now"

#: The normalised event table; ``event_type`` and ``value`` only where the spec names them.
EVENT_SCHEMA = pa.schema(
    [
        ("user_id", pa.int64()),  # or string
        ("item_id", pa.int64()),  # or string
        ("event_timestamp", TIME_TYPE),
        ("event_type", pa.string()),
        ("value", pa.float32()),
    ]
)


@dataclass(frozen=True)
class EventReport:
    """What reading found: rows kept, and rows dropped by reason.

    Attributes:
        read: rows of the source (before ``before``, where given).
        kept: rows that became events.
        dropped: number of dropped rows by reason, reasons without rows left out.
    """

    read: int
    kept: int
    dropped: dict[str, int] = field(default_factory=dict)

    def with_dropped(self, reason: str, rows: int) -> EventReport:
        """Return a report with ``rows`` more dropped."""
        if rows == 0:
            return self
        dropped = {**self.dropped, reason: self.dropped.get(reason, 0) + rows}
        return EventReport(self.read, self.kept - rows, dropped)

    def line(self) -> str:
        """One line for people."""
        text = f"{self.kept:,} events of {self.read:,} rows"
        if self.dropped:
            text += ", dropped " + ", ".join(f"{n:,} ({why})" for why, n in self.dropped.items())
        return text


@dataclass(frozen=True)
class Events:
    """A checked event table and the report of how it came to be."""

    table: pa.Table
    report: EventReport
    origin: str


def read_events(spec: RepresentationSpec, before: int | None = None) -> Events:
    """Read the event log of a spec from parquet.

    Args:
        spec: ``spec.events.path`` is a file, a folder or a glob.
        before: microseconds; read only events strictly before it, so that what follows cannot see
            later ones whatever it does.

    Raises:
        EventsError: the source is missing, unreadable, empty, has wrong columns, or has rows that
            cannot be used while ``drop_invalid`` is off.
    """
    config = spec.events
    assert config.path is not None, "a Feast source is read by feature_store"  # noqa: S101
    path = spec.resolve(config.path)
    dataset = open_dataset(path, "events")
    wanted = [name for name in _wanted(config).values() if name is not None]
    check_columns(dataset.schema, wanted, path, "events.columns")
    kind = dataset.schema.field(config.columns.time).type
    _check_time(kind, config, path)
    condition = None
    if before is not None:
        column = ds.field(config.columns.time)
        # Rows without a time are kept here, so that they are counted and not silently filtered.
        condition = (column < _bound(before, kind)) | column.is_null()
    try:
        table = dataset.to_table(columns=wanted, filter=condition)
    except (pa.ArrowException, OSError) as error:
        raise EventsError(f"{path}: cannot be read: {one_line(error)}; is it complete?") from None
    if before is not None and kind.tz is None:
        times = _times(table[config.columns.time], config, path)
        earlier = pc.less(times, pa.scalar(before, TIME_TYPE))
        table = table.filter(pc.fill_null(earlier, True))
    if table.num_rows == 0:
        raise EventsError(_empty(dataset, config, path, before))
    return normalise_events(table, config, path)


def normalise_events(table: pa.Table, config: EventsConfig, origin: str) -> Events:
    """Bring any table to the event schema and check every row.

    Args:
        table: has at least the columns the config names.
        config: column names and strictness.
        origin: named in errors.

    Raises:
        EventsError: see :func:`read_events`.
    """
    wanted = _wanted(config)
    check_columns(table.schema, [n for n in wanted.values() if n], origin, "events.columns")
    _check_time(table.schema.field(config.columns.time).type, config, origin)
    read = table.num_rows
    columns: dict[str, pa.ChunkedArray] = {
        "user_id": id_column(
            table[config.columns.user], f"{origin}: column {config.columns.user!r}"
        ),
        "item_id": id_column(
            table[config.columns.item], f"{origin}: column {config.columns.item!r}"
        ),
        "event_timestamp": _times(table[config.columns.time], config, origin),
    }
    if config.columns.type is not None:
        columns["event_type"] = cast_column(
            table[config.columns.type], pa.string(), f"{origin}: column {config.columns.type!r}"
        )
    if config.columns.value is not None:
        columns["value"] = cast_column(
            table[config.columns.value], pa.float32(), f"{origin}: column {config.columns.value!r}"
        )
    clean = pa.table(columns)
    report = EventReport(read, read)
    if config.types is not None:
        before = clean.num_rows
        chosen = pc.is_in(clean["event_type"], value_set=pa.array(config.types, pa.string()))
        clean = clean.filter(chosen)
        report = report.with_dropped("of another event type", before - clean.num_rows)
    clean, report = _drop_unusable(clean, config, origin, report)
    if clean.num_rows == 0:
        raise EventsError(
            f"{origin}: no usable event ({report.line()}); wanted at least one row with "
            f"{config.columns.user}, {config.columns.item} and {config.columns.time}"
        )
    return Events(clean, report, origin)


def _wanted(config: EventsConfig) -> dict[str, str | None]:
    return config.columns.model_dump()


def _check_time(kind: pa.DataType, config: EventsConfig, origin: str) -> None:
    name = config.columns.time
    if not pa.types.is_timestamp(kind):
        raise EventsError(
            f"{origin}: column {name!r} is {kind}; wanted a timestamp with a time zone, such as "
            "timestamp[us, tz=UTC]; convert it where the log is written"
        )
    if kind.tz is None and config.assume_timezone is None:
        raise EventsError(
            f"{origin}: column {name!r} is {kind} without a time zone; write it with one, or say "
            "which it is: events.assume_timezone: UTC"
        )
    if kind.tz is None:
        try:
            pc.assume_timezone(pa.scalar(0, pa.timestamp("us")), config.assume_timezone)
        except pa.ArrowException:
            raise EventsError(
                f"events.assume_timezone: {config.assume_timezone!r} is no known time zone; wanted "
                "UTC or a name such as Europe/London"
            ) from None


def _times(column: pa.ChunkedArray, config: EventsConfig, origin: str) -> pa.ChunkedArray:
    """Bring times to UTC microseconds."""
    if column.type.tz is None:
        # A clock turned back shows an hour twice: the later reading never shows an event too early.
        column = pc.assume_timezone(
            column, config.assume_timezone, ambiguous="latest", nonexistent="latest"
        )
    if column.type.unit == "ns":
        # Cut off what is finer, downwards (a cast would round up before 1970): it can only make
        # two events tie, never swap them.
        column = pc.floor_temporal(column, unit="microsecond")
    try:
        return column.cast(TIME_TYPE)
    except pa.ArrowException as error:
        raise EventsError(
            f"{origin}: column {config.columns.time!r} is {column.type}; wanted times that fit "
            f"{TIME_TYPE}: {one_line(error)}"
        ) from None


def _bound(before: int, kind: pa.DataType) -> pa.Scalar:
    """A filter bound in the type of the time column."""
    if kind.tz is None:
        # A day of slack, more than any zone's offset; rows are cut exactly once they are converted.
        before += MICROSECONDS_PER_DAY
    if kind.unit == "ns":  # they end in 2262
        before = min(before, (2**63 - 1) // 1000)
    return pa.scalar(before, pa.timestamp("us", tz=kind.tz))


def _drop_unusable(
    table: pa.Table, config: EventsConfig, origin: str, report: EventReport
) -> tuple[pa.Table, EventReport]:
    """Drop rows with nulls or times in the future, or refuse them."""
    named = {
        "user_id": config.columns.user,
        "item_id": config.columns.item,
        "event_timestamp": config.columns.time,
    }
    counts = {f"null {source}": table[name].null_count for name, source in named.items()}
    future = pc.greater(table["event_timestamp"], pa.scalar(now(), TIME_TYPE))
    counts[_LATER] = pc.sum(future).as_py() or 0
    found = {why: rows for why, rows in counts.items() if rows}
    if not found:
        return table, report
    refused: list[str] = []
    remedies: list[str] = []
    nulls = [f"{rows:,} with {why}" for why, rows in found.items() if why != _LATER]
    if nulls and not config.drop_invalid:
        refused += nulls
        remedies.append("events.drop_invalid: true")
    if _LATER in found and not config.drop_future:
        latest = format_instant(pc.max(table["event_timestamp"]).value)
        refused.append(f"{found[_LATER]:,} {_LATER} (the latest at {latest})")
        remedies.append("events.drop_future: true")
    if refused:
        raise EventsError(
            f"{origin}: rows that cannot be used: {', '.join(refused)}; mend the log, or drop and "
            f"count them with --drop-invalid ({', '.join(remedies)})"
        )
    keep = pc.fill_null(pc.invert(future), False)
    reasons: dict[str, pa.ChunkedArray] = {}
    for name, source in named.items():
        reasons[f"null {source}"] = pc.is_null(table[name])
        keep = pc.and_(keep, pc.is_valid(table[name]))
    # A row is counted once, under its first reason, so that the counts add up.
    blamed: pa.ChunkedArray | None = None
    for why, bad in (*reasons.items(), (_LATER, pc.fill_null(future, False))):
        fresh = bad if blamed is None else pc.and_not(bad, blamed)
        report = report.with_dropped(why, pc.sum(fresh).as_py() or 0)
        blamed = bad if blamed is None else pc.or_(blamed, bad)
    return table.filter(keep), report


def _empty(dataset: ds.Dataset, config: EventsConfig, path: str, before: int | None) -> str:
    if before is None or dataset.count_rows() == 0:
        return f"events: {path} has no rows; give a log with at least one event"
    times = dataset.to_table(columns=[config.columns.time])[config.columns.time]
    times = _times(times, config, path)
    earliest = pc.min(times)
    first = format_instant(earliest.value) if earliest.is_valid else "none with a time"
    return (
        f"events: {path} has no event before {format_instant(before)}; the first is at {first}; "
        "give a later time"
    )


def now() -> int:
    """The current time in microseconds since 1970 UTC."""
    return time.time_ns() // 1000
