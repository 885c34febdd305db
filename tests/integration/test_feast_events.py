"""Event logs declared in a Feast repo, read through its offline store."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from feast import FeatureStore, FileSource
from feast.data_format import ParquetFormat

from unirep_feast.config import RepresentationSpec
from unirep_feast.errors import EventsError, StoreError
from unirep_feast.events import read_events
from unirep_feast.feature_store import source_events
from unirep_feast.feature_store.source_events import read_feast_events
from unirep_feast.instants import parse_instant
from unirep_feast.spec_file import load_spec

TIMES = [dt.datetime(2024, 1, 1 + day, 12, tzinfo=dt.UTC) for day in range(20)]
COLUMNS = {"user": "who", "item": "what", "time": "at", "type": "kind", "value": "price"}
BEFORE = parse_instant("2024-01-08T12:00:00Z")  # the time of an event, which is not before it


def log() -> pa.Table:
    return pa.table(
        {
            "who": pa.array([number % 3 for number in range(20)]),
            "what": pa.array([f"item-{number}" for number in range(20)]),
            "at": pa.array(TIMES, pa.timestamp("us", tz="UTC")),
            "kind": pa.array(["view", "buy"] * 10),
            "price": pa.array([float(number) for number in range(20)]),
            "page": pa.array(["x"] * 20),
        }
    )


@pytest.fixture
def declare(tmp_path: Path) -> Any:
    """Apply a data source named `log` in a repo, and give a spec that reads it."""

    def apply(source: Any, offline: dict[str, Any], **events: Any) -> RepresentationSpec:
        config = {
            "project": "logs",
            "provider": "local",
            "registry": "registry.db",
            "offline_store": offline,
            "online_store": {"type": "sqlite", "path": "online.db"},
            "entity_key_serialization_version": 3,
        }
        (tmp_path / "repo").mkdir()
        (tmp_path / "repo" / "feature_store.yaml").write_text(yaml.safe_dump(config))
        if source is not None:
            FeatureStore(repo_path=str(tmp_path / "repo")).apply([source])
        spec = {
            "name": "r",
            "plugin": "clue",
            "events": {"feast": {"repo": "repo", "source": "log"}, "columns": COLUMNS, **events},
        }
        (tmp_path / "spec.yaml").write_text(yaml.safe_dump(spec))
        return load_spec(tmp_path / "spec.yaml")

    return apply


def file_source(path: str, **options: Any) -> FileSource:
    return FileSource(name="log", path=path, timestamp_field="at", **options)


def assert_same_as_file(spec: RepresentationSpec, path: Path, before: int | None) -> None:
    """Reading the source gives what reading the file itself gives."""
    changed = {**spec.events.model_dump(), "feast": None, "path": str(path)}
    plain = spec.model_copy(update={"events": type(spec.events).model_validate(changed)})
    expected = read_events(plain, before)

    found = read_feast_events(spec, before)

    assert found.table.schema == expected.table.schema
    assert found.table.sort_by("value").equals(expected.table.sort_by("value"))
    assert found.report == expected.report


@pytest.mark.parametrize("before", [None, BEFORE])
def test_a_file_source_is_read_relative_to_its_repo(
    declare: Any, tmp_path: Path, before: int | None
) -> None:
    """A parquet source is read directly, and events at or after the bound are not there."""
    spec = declare(file_source("log.parquet"), {"type": "duckdb"})
    pq.write_table(log(), tmp_path / "repo" / "log.parquet")

    assert_same_as_file(spec, tmp_path / "repo" / "log.parquet", before)
    assert read_feast_events(spec, before).table.num_rows == (20 if before is None else 7)


@pytest.mark.parametrize("offline", ["duckdb", "dask"])
@pytest.mark.parametrize("before", [None, BEFORE])
def test_the_offline_store_gives_the_same_events(
    declare: Any, tmp_path: Path, offline: str, before: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through pull_all of either local store, the events are those of the file."""
    monkeypatch.setattr(source_events, "_is_parquet", lambda source: False)
    path = tmp_path / "log.parquet"
    spec = declare(file_source(str(path), file_format=ParquetFormat()), {"type": offline})
    pq.write_table(log(), path, row_group_size=6)

    assert_same_as_file(spec, path, before)


@pytest.mark.parametrize("direct", [True, False])
def test_mapped_columns_go_by_their_new_names(
    declare: Any, tmp_path: Path, direct: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A source that renames columns is read by the names it gives them."""
    monkeypatch.setattr(source_events, "_is_parquet", lambda source: direct)
    path = tmp_path / "log.parquet"
    mapping = {"customer": "who", "sku": "what"}
    source = file_source(str(path), file_format=ParquetFormat(), field_mapping=mapping)
    spec = declare(source, {"type": "duckdb"})
    old = {new: old for old, new in mapping.items()}
    pq.write_table(log().rename_columns([old.get(n, n) for n in log().column_names]), path)

    found = read_feast_events(spec, BEFORE).table

    assert found["item_id"].to_pylist() == [f"item-{number}" for number in range(7)]


def test_naive_times_are_cut_in_their_own_zone(
    declare: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Times without a zone, said to be Tokyo's, are bounded as such, not as UTC."""
    monkeypatch.setattr(source_events, "_is_parquet", lambda source: False)
    path = tmp_path / "log.parquet"
    source = file_source(str(path), file_format=ParquetFormat())
    spec = declare(source, {"type": "duckdb"}, assume_timezone="Asia/Tokyo")
    place = log().column_names.index("at")
    naive = pa.array([time.replace(tzinfo=None) for time in TIMES], pa.timestamp("us"))
    pq.write_table(log().set_column(place, "at", naive), path)

    for hours, rows in ((3, 7), (4, 8)):  # noon in Tokyo is three in the morning in UTC
        before = parse_instant(dt.datetime(2024, 1, 8, hours, tzinfo=dt.UTC))
        assert read_feast_events(spec, before).table.num_rows == rows
        assert_same_as_file(spec, path, before)


def test_a_postgres_table_is_read(declare: Any, postgres_url: str) -> None:
    """A log in PostgreSQL comes through Feast's own offline store."""
    pytest.importorskip("psycopg_pool")
    import psycopg
    from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import (
        PostgreSQLSource,
    )

    url = urlsplit(postgres_url)
    with psycopg.connect(postgres_url) as connection:
        connection.execute(
            "CREATE TABLE log (who bigint, what text, at timestamptz, kind text, price float8)"
        )
        with connection.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO log VALUES (%s, %s, %s, %s, %s)",
                [tuple(row[name] for name in COLUMNS.values()) for row in log().to_pylist()],
            )
    offline = {
        "type": "postgres",
        "host": url.hostname,
        "port": url.port or 5432,
        "database": url.path.lstrip("/"),
        "user": url.username or "postgres",
        "password": url.password or "",
        "sslmode": "prefer",
    }
    source = PostgreSQLSource(name="log", table="log", timestamp_field="at")
    spec = declare(source, offline, types=["buy"])

    found = read_feast_events(spec, BEFORE)

    assert found.table.sort_by("value")["item_id"].to_pylist() == ["item-1", "item-3", "item-5"]
    assert found.table["event_timestamp"].to_pylist() == [TIMES[1], TIMES[3], TIMES[5]]
    assert found.report.dropped == {"of another event type": 4}


def test_what_is_missing_is_named(declare: Any, tmp_path: Path) -> None:
    """No repo, no such source, another time column, no file, no event: each is one line."""
    source = file_source("log.parquet")
    spec = declare(source, {"type": "duckdb"})

    def change(**events: Any) -> RepresentationSpec:
        changed = {**spec.events.model_dump(), **events}
        return spec.model_copy(update={"events": type(spec.events).model_validate(changed)})

    with pytest.raises(StoreError, match=r"nowhere: no usable Feast repo: .*feature_store.yaml"):
        read_feast_events(change(feast={"repo": "nowhere", "source": "log"}))
    with pytest.raises(
        StoreError, match=r"'lug': no such data source in project 'logs'; found log"
    ):
        read_feast_events(change(feast={"repo": "repo", "source": "lug"}))
    with pytest.raises(
        StoreError, match=r"timestamp_field 'at' but .* set events.columns.time: at"
    ):
        read_feast_events(change(columns={**COLUMNS, "time": "when"}))
    with pytest.raises(EventsError, match=r"no such file or folder .*log.parquet"):
        read_feast_events(spec)
    pq.write_table(log(), tmp_path / "repo" / "log.parquet")
    with pytest.raises(EventsError, match="no event before 2020-01-01"):
        read_feast_events(spec, parse_instant("2020-01-01"))


def test_a_failing_offline_store_is_one_line(
    declare: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the offline store raises is passed on with the source's name; too early: no event."""
    monkeypatch.setattr(source_events, "_is_parquet", lambda source: False)
    path = tmp_path / "log.parquet"
    spec = declare(file_source(str(path), file_format=ParquetFormat()), {"type": "duckdb"})

    with pytest.raises(StoreError, match=r"'log': the duckdb offline store failed: ") as caught:
        read_feast_events(spec)

    assert "\n" not in str(caught.value)
    pq.write_table(log(), path)
    with pytest.raises(EventsError, match="no event before 2020-01-01"):
        read_feast_events(spec, parse_instant("2020-01-01"))
