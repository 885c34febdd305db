"""An event log that a Feast repo declares, read through whatever offline store the repo uses."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from feast import FeatureStore, FileSource
from feast.data_format import ParquetFormat
from feast.data_source import DataSource
from feast.errors import DataSourceObjectNotFoundException

from unirep_feast.config import EventsConfig, RepresentationSpec
from unirep_feast.errors import EventsError, StoreError, one_line
from unirep_feast.events import TIME_TYPE, EventReport, Events, normalise_events, read_events
from unirep_feast.instants import format_instant


def read_feast_events(spec: RepresentationSpec, before: int | None = None) -> Events:
    """Read the event log of a spec whose ``events.feast`` names a data source.

    Parquet file sources are read directly, column by column and filtered by time; anything else
    goes through the repo's offline store. Those of databases hand out even times with a zone
    without one; as everywhere in Feast these are UTC, unless ``events.assume_timezone`` says more.

    Args:
        spec: ``events.columns`` are names after the source's field mapping.
        before: microseconds; read only events strictly before it.

    Raises:
        StoreError: the repo or the source is not there, or the offline store failed.
        EventsError: as for :func:`unirep_feast.events.read_events`.
    """
    feast = spec.events.feast
    assert feast is not None, "a path is read by events.read_events"  # noqa: S101
    store = _open_repo(spec.resolve(feast.repo))
    source = _find(store, feast.source)
    stamp = spec.events.columns.time
    if source.timestamp_field and source.timestamp_field != stamp:
        raise StoreError(
            f"data source {source.name!r} declares timestamp_field {source.timestamp_field!r} but "
            f"events.columns.time is {stamp!r}; set events.columns.time: {source.timestamp_field}"
        )
    if isinstance(source, FileSource) and _is_parquet(source):
        return _read_file(spec, store, source, before)
    origin = f"data source {source.name!r}"
    table = _rename(_pull(spec.events, store, source, before), source)
    if not isinstance(source, FileSource) and spec.events.assume_timezone is None:
        table = _with_zone(table, stamp)
    events = normalise_events(table, spec.events, origin)
    return _cut(events, before)


def _open_repo(folder: str) -> FeatureStore:
    try:
        return FeatureStore(repo_path=folder)
    except Exception as error:  # Feast raises what its parser, its files or its registry raise
        raise StoreError(
            f"events.feast.repo {folder}: no usable Feast repo: {one_line(error)}; give the folder "
            "that holds feature_store.yaml"
        ) from None


def _find(store: FeatureStore, name: str) -> DataSource:
    try:
        return store.get_data_source(name)
    except DataSourceObjectNotFoundException:
        known = ", ".join(sorted(each.name for each in store.list_data_sources()))
        raise StoreError(
            f"events.feast.source {name!r}: no such data source in project {store.project!r}; "
            + (f"found {known}" if known else "it has none; run `feast apply`")
        ) from None


def _is_parquet(source: FileSource) -> bool:
    if source.file_format is None:
        return bool(source.path.endswith(".parquet"))
    # Options such as an S3 endpoint are the offline store's business.
    return isinstance(source.file_format, ParquetFormat) and not source.s3_endpoint_override


def _read_file(
    spec: RepresentationSpec, store: FeatureStore, source: FileSource, before: int | None
) -> Events:
    path = source.path
    if "://" not in path:
        path = FileSource.get_uri_for_file_path(store.repo_path, path)
    original = {new: old for old, new in source.field_mapping.items()}
    columns = {
        role: None if name is None else original.get(name, name)
        for role, name in spec.events.columns.model_dump().items()
    }
    config = {**spec.events.model_dump(), "feast": None, "path": str(path), "columns": columns}
    events = EventsConfig.model_validate(config)
    return read_events(spec.model_copy(update={"events": events}), before)


def _pull(
    config: EventsConfig, store: FeatureStore, source: DataSource, before: int | None
) -> pa.Table:
    """Fetch the columns of the source; Feast speaks of the source's own names here."""
    original = {new: old for old, new in source.field_mapping.items()}
    user, item, stamp = config.columns.user, config.columns.item, config.columns.time
    others = [name for name in (item, config.columns.type, config.columns.value) if name]
    end = None
    if before is not None:
        # Inclusive in Feast. Naive times are UTC to Feast but local to us: fetch a day more and
        # cut exactly afterwards.
        end = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=before - 1)
        end += timedelta(days=1) if config.assume_timezone is not None else timedelta()
    try:
        job = store._get_provider().offline_store.pull_all_from_table_or_query(
            config=store.config,
            data_source=source,
            join_key_columns=[original.get(user, user)],
            feature_name_columns=[original.get(name, name) for name in others],
            timestamp_field=original.get(stamp, stamp),
            start_date=None,
            end_date=end,
        )
        table: pa.Table = job.to_arrow()
    except Exception as error:
        kind: Any = getattr(store.config.offline_store, "type", "offline")
        raise StoreError(
            f"data source {source.name!r}: the {kind} offline store failed: {one_line(error)}; "
            "check the source, and that events.columns names its columns"
        ) from error
    if table.num_rows == 0:
        when = "" if before is None else f" before {format_instant(before)}"
        raise EventsError(f"data source {source.name!r} has no event{when}; give a later time")
    return table


def _rename(table: pa.Table, source: DataSource) -> pa.Table:
    mapping = source.field_mapping
    return table.rename_columns([mapping.get(name, name) for name in table.column_names])


def _with_zone(table: pa.Table, stamp: str) -> pa.Table:
    """Say of naive times that they are UTC; a cast moves them nowhere."""
    kind = table.schema.field(stamp).type
    if not pa.types.is_timestamp(kind) or kind.tz is not None:
        return table
    column = table[stamp].cast(pa.timestamp(kind.unit, tz="UTC"))
    return table.set_column(table.column_names.index(stamp), stamp, column)


def _cut(events: Events, before: int | None) -> Events:
    if before is None:
        return events
    keep = pc.less(events.table["event_timestamp"], pa.scalar(before, TIME_TYPE))
    table = events.table.filter(keep)
    if table.num_rows == 0:
        raise EventsError(
            f"{events.origin} has no event before {format_instant(before)}; give a later time"
        )
    # Rows at or after `before` are as if never read: neither kept nor counted as dropped.
    later = events.table.num_rows - table.num_rows
    report = events.report
    report = EventReport(report.read - later, report.kept - later, report.dropped)
    return Events(table, report, events.origin)
