"""Event and item tables: one Arrow schema, read and checked, with every dropped row counted."""

from __future__ import annotations

import glob
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from unirep_feast.config import EventsConfig, ItemsConfig, RepresentationSpec
from unirep_feast.errors import EventsError
from unirep_feast.instants import MICROSECONDS_PER_DAY, format_instant

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
    _check_columns(dataset.schema, wanted, path, "events.columns")
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
        raise EventsError(f"{path}: cannot be read: {_one_line(error)}; is it complete?") from None
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
    _check_columns(table.schema, [n for n in wanted.values() if n], origin, "events.columns")
    _check_time(table.schema.field(config.columns.time).type, config, origin)
    read = table.num_rows
    columns: dict[str, pa.ChunkedArray] = {
        "user_id": _ids(table[config.columns.user], f"{origin}: column {config.columns.user!r}"),
        "item_id": _ids(table[config.columns.item], f"{origin}: column {config.columns.item!r}"),
        "event_timestamp": _times(table[config.columns.time], config, origin),
    }
    if config.columns.type is not None:
        columns["event_type"] = _cast(
            table[config.columns.type], pa.string(), f"{origin}: column {config.columns.type!r}"
        )
    if config.columns.value is not None:
        columns["value"] = _cast(
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


def read_items(spec: RepresentationSpec) -> pa.Table | None:
    """Read item titles and categories.

    Returns:
        A table item_id (int64 or string), title (string), category (list<string>), one row per
        item, sorted by item id; None if the spec names no item table.

    Raises:
        EventsError: as for :func:`read_events`; also if an item id stands twice or is null.
    """
    config = spec.items
    if config is None:
        return None
    path = spec.resolve(config.path)
    dataset = open_dataset(path, "items")
    wanted = [name for name in (config.item, config.title, config.category) if name is not None]
    _check_columns(dataset.schema, wanted, path, "items")
    try:
        table = dataset.to_table(columns=wanted)
    except (pa.ArrowException, OSError) as error:
        raise EventsError(f"{path}: cannot be read: {_one_line(error)}; is it complete?") from None
    return normalise_items(table, config, path)


def normalise_items(table: pa.Table, config: ItemsConfig, origin: str) -> pa.Table:
    """Bring any table to the item schema; see :func:`read_items`."""
    ids = _ids(table[config.item], f"{origin}: column {config.item!r}").combine_chunks()
    if ids.null_count:
        raise EventsError(
            f"{origin}: {ids.null_count:,} items without {config.item!r}; remove them"
        )
    rows = table.num_rows
    doubles = rows - pc.count_distinct(ids).as_py()
    if doubles:
        raise EventsError(
            f"{origin}: {doubles:,} item ids stand more than once; keep one row per {config.item!r}"
        )
    titles = pa.nulls(rows, pa.string())
    if config.title is not None:
        titles = _cast(table[config.title], pa.string(), f"{origin}: column {config.title!r}")
    categories: pa.Array | pa.ChunkedArray = pa.nulls(rows, pa.list_(pa.string()))
    if config.category is not None:
        categories = table[config.category]
        if not pa.types.is_list(categories.type) and not pa.types.is_large_list(categories.type):
            single = _cast(categories, pa.string(), f"{origin}: column {config.category!r}")
            flat = pa.chunked_array([single]) if isinstance(single, pa.Array) else single
            flat = flat.combine_chunks()
            offsets = pa.array(np.arange(rows + 1, dtype=np.int32))
            categories = pa.ListArray.from_arrays(offsets, flat, mask=flat.is_null())
        else:
            try:
                categories = categories.cast(pa.list_(pa.string()))
            except pa.ArrowException:
                raise EventsError(
                    f"{origin}: column {config.category!r} is {categories.type}; wanted string or "
                    "list<string>"
                ) from None
    items = pa.table({"item_id": ids, "title": titles, "category": categories})
    return items.sort_by("item_id")


def open_dataset(path: str, what: str) -> ds.Dataset:
    """Open a parquet file, a folder or a glob, or say in one line why not."""
    files: str | list[str] = path
    if glob.has_magic(path) and not Path(path).exists():
        files = sorted(glob.glob(path, recursive=True))  # noqa: PTH207
        if not files:
            raise EventsError(f"{what}: no file matches {path}; check `{what}.path` in the spec")
    elif "://" not in path and not Path(path).exists():
        raise EventsError(f"{what}: no such file or folder {path}; check `{what}.path` in the spec")
    try:
        dataset = ds.dataset(files, format="parquet", exclude_invalid_files=False)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise EventsError(
            f"{what}: {path} cannot be read as parquet: {_one_line(error)}; "
            "wanted a complete parquet file (a CSV must be converted first)"
        ) from None
    if not dataset.schema.names:
        raise EventsError(f"{what}: {path} holds no parquet file; check `{what}.path` in the spec")
    return dataset


def _wanted(config: EventsConfig) -> dict[str, str | None]:
    return config.columns.model_dump()


def _check_columns(schema: pa.Schema, wanted: list[str], origin: str, where: str) -> None:
    missing = [name for name in wanted if name not in schema.names]
    if missing:
        raise EventsError(
            f"{origin}: no column {', '.join(map(repr, missing))}; found "
            f"{', '.join(schema.names)}; name the right ones under `{where}` in the spec"
        )


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
            f"{TIME_TYPE}: {_one_line(error)}"
        ) from None


def _bound(before: int, kind: pa.DataType) -> pa.Scalar:
    """A filter bound in the type of the time column."""
    if kind.tz is None:
        # A day of slack, more than any zone's offset; rows are cut exactly once they are converted.
        before += MICROSECONDS_PER_DAY
    if kind.unit == "ns":  # they end in 2262
        before = min(before, (2**63 - 1) // 1000)
    return pa.scalar(before, pa.timestamp("us", tz=kind.tz))


def _ids(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    kind = column.type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_integer(kind):
        return _cast(column, pa.int64(), name)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _cast(column, pa.string(), name)
    raise EventsError(f"{name} is {column.type}; wanted an integer or a string id")


def _cast(column: pa.ChunkedArray, kind: pa.DataType, name: str) -> pa.ChunkedArray:
    if column.type == kind:
        return column
    if pa.types.is_boolean(column.type) or pa.types.is_nested(column.type):
        raise EventsError(f"{name} is {column.type}; wanted {kind}")
    text = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
    if pa.types.is_floating(kind) and text:
        raise EventsError(f"{name} is {column.type}; wanted a number")
    try:
        return column.cast(kind, safe=not pa.types.is_floating(kind))
    except pa.ArrowException as error:
        raise EventsError(f"{name} is {column.type}; wanted {kind}: {_one_line(error)}") from None


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


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
