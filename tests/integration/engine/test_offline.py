"""A view whose source is not the snapshot folder: the snapshot is written there, in one step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from feast import FeatureView, Field, FileSource
from feast.types import Array, Float32, Int64

from unirep_feast.feature_store import offline_writer
from unirep_feast.feature_store.engine import EngineError
from unirep_feast.feature_store.views import representation

T0, T1 = "2020-03-01T00:00:00Z", "2020-03-10T12:00:00Z"


def over(repo: Any, source: Any) -> FeatureView:
    """A view of the shop's vectors over another source."""
    ours = representation(repo.shop.path)
    return FeatureView(
        name="shop",
        entities=[ours.entity],
        schema=[
            Field(name="user_id", dtype=Int64),
            Field(name="vector", dtype=Array(Float32)),
            Field(name="history_length", dtype=Int64),
        ],
        source=source,
        tags=ours.view.tags,
    )


def file_source(path: Path | str) -> FileSource:
    from feast.data_format import ParquetFormat

    return FileSource(
        name="elsewhere",
        path=str(path),
        file_format=ParquetFormat(),
        timestamp_field="event_timestamp",
        created_timestamp_column="created",
    )


def applied(repo: Any, source: Any) -> Any:
    from feast import FeatureStore

    repo.write()
    store = FeatureStore(repo_path=str(repo.folder))
    store.apply([representation(repo.shop.path).entity, over(repo, source)])
    return store


def rows_at(path: Path, time: str) -> list[Any]:
    """User ids that a source has at a time, sorted."""
    table = pq.read_table(path)
    stamp = pa.scalar(pd.Timestamp(time), table.schema.field("event_timestamp").type)
    return sorted(table.filter(pc.equal(table["event_timestamp"], stamp))["user_id"].to_pylist())


@pytest.mark.parametrize("kind", ["file", "folder", "glob"])
def test_local_parquet_gets_every_snapshot_once(
    engine_repo: Any, tmp_path: Path, kind: str
) -> None:
    """Whatever was there stays; materializing again, or another run, leaves no row twice."""
    repo = engine_repo()
    run = repo.train()
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    old = pa.table(
        {
            "user_id": pa.array([10**6]),
            "event_timestamp": pa.array([0], pa.timestamp("us", "UTC")),
            "created": pa.array([0], pa.timestamp("us", "UTC")),
            "vector": pa.array([[0.5] * 8], pa.list_(pa.float32())),
            "history_length": pa.array([1]),
        }
    )
    pq.write_table(old, folder / "old.parquet")
    path = {"file": folder / "old.parquet", "folder": folder, "glob": folder / "*.parquet"}[kind]
    store = applied(repo, file_source(path))

    for time in (T0, T1, T1):
        repo.materialize(store, time)

    repo.expect(store, run, T1)
    ids, vectors = repo.snapshot(run, T1)
    assert rows_at(folder, T1) == ids
    assert rows_at(folder, T0) == repo.snapshot(run, T0)[0]
    assert rows_at(folder, "1970-01-01T00:00:00Z") == [10**6]
    found = store.get_historical_features(
        pd.DataFrame({"user_id": ids, "event_timestamp": pd.Timestamp("2020-04-01", tz="UTC")}),
        ["shop:vector"],
    ).to_df()
    stacked = np.stack(found.set_index("user_id").loc[ids]["vector"].to_numpy())
    assert np.array_equal(stacked.astype(np.float32), vectors)

    second = repo.train()
    store = applied(repo, file_source(path))
    repo.materialize(store, T1)

    assert rows_at(folder, T1) == repo.snapshot(second, T1)[0]
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_a_file_that_is_not_there_yet_is_made(engine_repo: Any, tmp_path: Path) -> None:
    """With the columns that the view reads, under the names of the snapshot."""
    repo = engine_repo()
    run = repo.train()
    path = tmp_path / "deep" / "new.parquet"
    store = applied(repo, file_source(path))

    repo.materialize(store, T1)

    names = ["user_id", "vector", "history_length", "event_timestamp", "created"]
    assert pq.read_schema(path).names == names
    assert rows_at(path, T1) == repo.snapshot(run, T1)[0]


def test_a_failing_write_leaves_the_file_as_it_was(
    engine_repo: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What stock Feast would have cut off is whole: the new file takes the old one's place."""
    repo = engine_repo()
    repo.train()
    path = tmp_path / "history.parquet"
    store = applied(repo, file_source(path))
    repo.materialize(store, T0)
    before = path.read_bytes()
    run = repo.catalog().promoted("shop").id

    def full(*_: Any) -> Any:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(offline_writer, "_others", full)
        with pytest.raises(EngineError, match=r"source 'elsewhere' cannot be written: .*No space"):
            repo.materialize(store, T1)

    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.glob(".*")] == []
    assert repo.recorded()[-1][0] == T0
    repo.materialize(store, T1)
    assert rows_at(path, T1) == repo.snapshot(run, T1)[0]


def test_columns_that_no_snapshot_has_are_named(engine_repo: Any, tmp_path: Path) -> None:
    """A source with a column of its own cannot be added to."""
    repo = engine_repo()
    repo.train()
    path = tmp_path / "history.parquet"
    pq.write_table(
        pa.table(
            {
                "user_id": pa.array([], pa.int64()),
                "event_timestamp": pa.array([], pa.timestamp("us", "UTC")),
                "mood": pa.array([], pa.float32()),
            }
        ),
        path,
    )
    store = applied(repo, file_source(path))

    with pytest.raises(EngineError, match="'elsewhere' has columns 'mood' that a snapshot has not"):
        repo.materialize(store, T1)


class Answer:
    def __init__(self, table: pa.Table) -> None:
        self.table = table

    def to_arrow(self) -> pa.Table:
        return self.table


class Warehouse:
    """An offline store of another kind, in memory."""

    def __init__(self) -> None:
        self.rows: list[pa.Table] = []
        self.calls = 0

    def pull_all_from_table_or_query(self, **asked: Any) -> Answer:
        assert asked["start_date"] == asked["end_date"]
        assert asked["join_key_columns"] == ["user_id"]
        names = pa.schema([("user_id", pa.int64()), ("event_timestamp", pa.timestamp("us", "UTC"))])
        tables = [table.select(names.names) for table in self.rows]
        table = pa.concat_tables([names.empty_table(), *tables])
        stamp = pa.scalar(asked["start_date"], pa.timestamp("us", "UTC"))
        return Answer(table.filter(pc.equal(table["event_timestamp"], stamp)))

    def offline_write_batch(self, config: Any, view: Any, table: pa.Table, progress: Any) -> None:
        assert all(column.num_chunks == 1 for column in table.columns)
        assert table.column_names == ["event_timestamp", "vector", "user_id"]
        self.calls += 1
        self.rows.append(table)


class Table:
    """Its source: a table that exists."""

    name = "warehouse"
    timestamp_field = "event_timestamp"
    created_timestamp_column = ""
    field_mapping: dict[str, str] = {}  # noqa: RUF012

    def get_table_column_names_and_types(self, config: Any) -> list[tuple[str, str]]:
        return [("event_timestamp", "timestamp"), ("vector", "float[]"), ("user_id", "bigint")]


def test_other_stores_get_what_they_lack(engine_repo: Any) -> None:
    """One call with the columns in the store's order; a rerun after a crash adds only the rest."""
    repo = engine_repo()
    run = repo.train()
    repo.materialize(repo.store(), T1)
    path = repo.shop.home / "snapshots" / run / "20200310T120000Z.parquet"
    ids, _ = repo.snapshot(run, T1)
    view = over(repo, file_source("none.parquet"))
    view.batch_source = Table()
    warehouse = Warehouse()
    as_of = int(pd.Timestamp(T1).value // 1000)

    def write() -> None:
        offline_writer.write_offline(None, warehouse, view, path, as_of)

    write()
    write()

    assert warehouse.calls == 1
    assert warehouse.rows[0]["user_id"].to_pylist() == ids

    warehouse.rows = [warehouse.rows[0].slice(0, 7)]
    write()

    assert pa.concat_tables(warehouse.rows)["user_id"].to_pylist() == ids


def test_a_store_that_feast_cannot_write_is_named(engine_repo: Any) -> None:
    """Feast's PostgreSQL offline store has no offline_write_batch: one line says what to do."""
    pytest.importorskip("psycopg_pool")
    from feast.infra.offline_stores.contrib.postgres_offline_store.postgres import (
        PostgreSQLOfflineStore,
    )

    repo = engine_repo()
    run = repo.train()
    store = repo.store()
    repo.materialize(store, T1)
    path = repo.shop.home / "snapshots" / run / "20200310T120000Z.parquet"
    view = over(repo, file_source("none.parquet"))
    view.batch_source = Table()

    class Postgres(PostgreSQLOfflineStore):
        @staticmethod
        def pull_all_from_table_or_query(**asked: Any) -> Answer:
            return Answer(pa.table({"user_id": pa.array([], pa.int64())}))

    with pytest.raises(Exception, match="Postgres cannot be written through Feast"):
        offline_writer.write_offline(store.config, Postgres(), view, path, 0)
