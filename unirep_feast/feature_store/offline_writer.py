"""A snapshot into the offline store of a view whose source is not the snapshot folder itself."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from feast import FeatureView, FileSource, RepoConfig
from feast.data_format import ParquetFormat
from feast.infra.offline_stores.offline_store import OfflineStore

from unirep_feast.errors import StoreError, one_line
from unirep_feast.events import TIME_TYPE
from unirep_feast.feature_store.snapshot_rows import as_one
from unirep_feast.files import atomic_path, locked

_POSTGRES = (
    "feast.infra.offline_stores.contrib.postgres_offline_store.postgres.PostgreSQLOfflineStore"
)


def write_offline(
    config: RepoConfig, store: OfflineStore, view: FeatureView, snapshot: Path, as_of: int
) -> None:
    """Bring a snapshot into a view's batch source; doing it again changes nothing.

    A local parquet source is changed in one step, so that whoever reads meanwhile, or after a
    crash, finds all of the snapshot or nothing of it: a folder or a glob gets another file, a
    single file is written anew. Everything else goes through the store's ``offline_write_batch`` in
    one call, which is as much of a step as the store makes of it; keys that are there already are
    left out.

    A table in PostgreSQL, which Feast itself only reads, gets it in one transaction.

    Args:
        config: of the repo.
        store: its offline store.
        view: has a batch source.
        snapshot: what to write.
        as_of: its time, microseconds.

    Raises:
        StoreError: the source lacks a column, cannot be written, or the store failed.
    """
    try:
        path = _local_parquet(config, view.batch_source)
        if path is not None:
            _write_file(path, view, snapshot, as_of)
        elif f"{type(store).__module__}.{type(store).__qualname__}" == _POSTGRES:
            _write_postgres(config, view, snapshot, as_of)
        else:
            _write_batch(config, store, view, snapshot, as_of)
    except StoreError:
        raise
    except NotImplementedError:
        kind = type(store).__name__
        raise StoreError(
            f"feature view {view.name!r}: {kind} cannot be written through Feast; let "
            "representation(...) declare the source, or load snapshots into it yourself and take "
            "the batch_engine line away"
        ) from None
    except Exception as error:  # whatever the store's driver or the file system raises
        raise StoreError(
            f"feature view {view.name!r}: source {view.batch_source.name!r} cannot be written: "
            f"{one_line(error)}; nothing is recorded, mend it and materialize again"
        ) from error


def _local_parquet(config: RepoConfig, source: Any) -> Path | None:
    if not isinstance(source, FileSource) or source.s3_endpoint_override:
        return None
    if source.file_format is not None and not isinstance(source.file_format, ParquetFormat):
        return None
    where = str(FileSource.get_uri_for_file_path(config.repo_path, source.path))
    return None if "://" in where else Path(where)


def _columns(view: FeatureView) -> list[str]:
    """Columns of the source that the view reads, under the source's own names."""
    source = view.batch_source
    original = {new: old for old, new in source.field_mapping.items()}
    names = [each.name for each in (*view.entity_columns, *view.features)]
    names += [source.timestamp_field, source.created_timestamp_column]
    return list(dict.fromkeys(original.get(name, name) for name in names if name))


def _select(view: FeatureView, snapshot: Path, wanted: list[str]) -> list[str]:
    """Names of a snapshot's columns for columns of the source; mostly they are the same."""
    mapping = view.batch_source.field_mapping
    there = set(pq.read_schema(snapshot).names)
    names = [name if name in there else mapping.get(name, name) for name in wanted]
    missing = sorted(set(names) - there)
    if missing:
        raise StoreError(
            f"feature view {view.name!r}: source {view.batch_source.name!r} has columns "
            f"{', '.join(map(repr, missing))} that a snapshot has not; found "
            f"{', '.join(sorted(there))}; drop them from the source, or map them in field_mapping"
        )
    return names


def _write_file(path: Path, view: FeatureView, snapshot: Path, as_of: int) -> None:
    if path.is_dir() or any(sign in path.name for sign in "*?["):
        folder = path if path.is_dir() else path.parent
        wanted = _columns(view)
        _rewrite(folder / f"{view.name}-{snapshot.name}", view, snapshot, wanted, None, as_of)
        return
    with locked(path):
        old = pq.ParquetFile(path) if path.exists() else None
        wanted = _columns(view) if old is None else old.schema_arrow.names
        _rewrite(path, view, snapshot, wanted, old, as_of)


def _rewrite(
    target: Path,
    view: FeatureView,
    snapshot: Path,
    wanted: list[str],
    old: pq.ParquetFile | None,
    as_of: int,
) -> None:
    names = _select(view, snapshot, wanted)
    full = pq.read_schema(snapshot)
    schema = pa.schema(
        [(name, full.field(source).type) for name, source in zip(wanted, names, strict=True)]
    )
    schema = schema if old is None else old.schema_arrow
    stamp = view.batch_source.timestamp_field
    with atomic_path(target) as temporary, pq.ParquetWriter(temporary, schema) as writer:
        for batch in _others(old, stamp, as_of):
            writer.write_batch(batch)
        with pq.ParquetFile(snapshot) as new:
            for batch in new.iter_batches(columns=names):
                table = pa.Table.from_batches([batch]).select(names).rename_columns(wanted)
                writer.write_table(table.cast(schema))


def _others(old: pq.ParquetFile | None, stamp: str, as_of: int) -> Iterator[pa.RecordBatch]:
    """Rows of other times: those of this time are of a write before, or of another run."""
    if old is None:
        return
    for batch in old.iter_batches():
        times = batch.column(batch.schema.get_field_index(stamp))
        moment = pa.scalar(as_of, TIME_TYPE)
        if times.type.tz is None:
            moment = moment.cast(pa.timestamp("us"))
        kept = batch.filter(pc.not_equal(times, moment))
        if kept.num_rows:
            yield kept


def _write_postgres(config: RepoConfig, view: FeatureView, snapshot: Path, as_of: int) -> None:
    # Not at the top: the driver is an extra.
    from unirep_feast.feature_store.postgres_offline import table_columns, write_postgres

    types = table_columns(config, view)
    wanted = list(types) or _columns(view)
    names = dict(zip(wanted, _select(view, snapshot, wanted), strict=True))
    write_postgres(config, view, snapshot, names, types, as_of)


def _write_batch(
    config: RepoConfig, store: OfflineStore, view: FeatureView, snapshot: Path, as_of: int
) -> None:
    source = view.batch_source
    wanted = [name for name, _ in source.get_table_column_names_and_types(config)]
    table = pq.read_table(snapshot, columns=(names := _select(view, snapshot, wanted)))
    table = table.select(names).rename_columns(wanted)
    original = {new: old for old, new in source.field_mapping.items()}
    keys = [original.get(each.name, each.name) for each in view.entity_columns]
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=as_of)
    there = store.pull_all_from_table_or_query(
        config=config,
        data_source=source,
        join_key_columns=keys,
        feature_name_columns=[],
        timestamp_field=source.timestamp_field,
        start_date=moment,
        end_date=moment,
    ).to_arrow()
    if there.num_rows:
        types = pa.schema([(key, table.schema.field(key).type) for key in keys])
        known = as_one(there.select(keys).cast(types))
        table = table.filter(pc.invert(pc.is_in(as_one(table.select(keys)), value_set=known)))
    if table.num_rows:
        # One chunk: some of Feast's writers look at no other.
        store.offline_write_batch(config, view, table.combine_chunks(), lambda rows: None)
