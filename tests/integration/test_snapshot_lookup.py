"""Vectors read straight from snapshot files are those that Feast's duckdb store answers."""

from __future__ import annotations

import sys
import types
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from feast import Entity, FeatureView, Field, FileSource, ValueType
from feast.data_format import ParquetFormat
from feast.infra.offline_stores.duckdb import DuckDBOfflineStore, DuckDBOfflineStoreConfig
from feast.types import Array, Float32, Int64, String
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unirep_feast.feature_store import historical_reading, snapshot_lookup, vector_files
from unirep_feast.feature_store.entity_rows import read_entity_rows
from unirep_feast.feature_store.torch_data import UserVectors, user_vectors
from unirep_feast.snapshot import point_promoted

STAMP = pa.timestamp("us", tz="UTC")
WIDTH = 3
START = 1_700_000_000_000_000
DAY = 86_400_000_000


class ElsewhereOfflineStoreConfig(DuckDBOfflineStoreConfig):
    """Config of a store that is none we know."""

    type: str = f"{__name__}.ElsewhereOfflineStore"


class ElsewhereOfflineStore(DuckDBOfflineStore):
    """Answers as duckdb does, but could read anything."""


def same(one: UserVectors, other: UserVectors) -> bool:
    """Bit for bit, masks too."""
    return (
        torch.equal(one.mask, other.mask)
        and one.vectors.numpy().tobytes() == other.vectors.numpy().tobytes()
    )


# One row of a source: file, user, interest, quarter days, created or null, whether it has a vector.
# An entity has one row per time and created, as between equal ones Feast may take either.
SOURCE = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.integers(0, 4),
        st.integers(0, 2),
        st.integers(0, 12),
        st.none() | st.integers(0, 3),
        st.booleans(),
    ),
    min_size=1,
    max_size=40,
    unique_by=lambda row: row[1:5],
)
ASKED = st.lists(
    st.tuples(
        st.none() | st.integers(0, 6),
        st.none() | st.integers(0, 3),
        st.integers(-2, 14),
        st.sampled_from([-1, 0, 1]),
    ),
    min_size=1,
    max_size=30,
)


@pytest.mark.parametrize("ttl_days", [None, 1])
@pytest.mark.parametrize("keys", ["int64", "string", "pair"])
def test_equals_feast_bit_by_bit(make_repo: Any, keys: str, ttl_days: int | None) -> None:
    """Whatever rows lie in the files and are asked for: ties, nulls, repeats, expired, unknown."""
    repo = make_repo()
    repo.snapshot("2023-01-01", [1])
    store = repo.store()
    pair = keys == "pair"
    view = _view(repo, store, "string" if keys == "string" else "int64", pair, ttl_days)
    numbers = count()
    ids = pa.string() if keys == "string" else pa.int64()

    def user(number: int | None) -> Any:
        return number if number is None or keys != "string" else f"user-{number}"

    @settings(max_examples=15, suppress_health_check=[HealthCheck.too_slow])
    @given(source=SOURCE, asked=ASKED, constant=st.booleans(), seed=st.integers(0, 99))
    def check(source: list[Any], asked: list[Any], constant: bool, seed: int) -> None:
        if not pair:  # without the interest rows may no longer be distinct
            source = list({(r[1], r[3], r[4]): r for r in source}.values())
        run = f"run-{next(numbers)}"
        folder = repo.home / "snapshots" / run
        folder.mkdir(parents=True)
        vectors = np.random.default_rng(seed).standard_normal((len(source), WIDTH), np.float32)
        for file in sorted({row[0] for row in source}):
            rows = [(row, v) for row, v in zip(source, vectors, strict=True) if row[0] == file]
            if constant:  # as snapshots are: one time, every entity once
                rows = list({(row[1], row[2] * pair): (row, v) for row, v in rows}.values())
                when = [START + file * DAY] * len(rows)
                created = [START + file] * len(rows)
            else:
                when = [START + row[3] * DAY // 4 for row, _ in rows]
                created = [None if row[4] is None else START + row[4] for row, _ in rows]
            table = pa.table(
                {
                    "user_id": pa.array([user(row[1]) for row, _ in rows], ids),
                    "interest": pa.array([row[2] for row, _ in rows]),
                    "event_timestamp": pa.array(when, STAMP),
                    "created": pa.array(created, STAMP),
                    "vector": pa.array(
                        [v if row[5] else None for row, v in rows], pa.list_(pa.float32())
                    ),
                }
            )
            pq.write_table(table, folder / f"{file}.parquet", row_group_size=5)
        point_promoted(repo.home, run)
        entities = pa.table(
            {
                "user_id": pa.array([user(row[0]) for row in asked], ids),
                "interest": pa.array([row[1] for row in asked], pa.int64()),
                "event_timestamp": pa.array(
                    [START + row[2] * DAY // 4 + row[3] for row in asked], STAMP
                ),
            }
        )

        ours = user_vectors(store, view, entities)

        theirs = historical_reading.through_feast(store, view, read_entity_rows(entities, view))
        assert same(ours, theirs)

    check()


def _view(repo: Any, store: Any, kind: str, pair: bool, ttl_days: int | None) -> FeatureView:
    """A view of ours over the promoted folder, keyed by user, or by user and interest."""
    field = Field(name="user_id", dtype=String if kind == "string" else Int64)
    value_type = ValueType.STRING if kind == "string" else ValueType.INT64
    entities = [Entity(name="person", join_keys=["user_id"], value_type=value_type)]
    schema = [field, Field(name="vector", dtype=Array(Float32))]
    if pair:
        entities.append(Entity(name="interest", join_keys=["interest"], value_type=ValueType.INT64))
        schema.append(Field(name="interest", dtype=Int64))
    view = FeatureView(
        name="looked_up",
        entities=entities,
        ttl=timedelta(days=ttl_days or 0),
        schema=schema,
        source=FileSource(
            name="looked_up_source",
            path=str(repo.home / "snapshots" / "promoted" / "*.parquet"),
            file_format=ParquetFormat(),
            timestamp_field="event_timestamp",
            created_timestamp_column="created",
        ),
        tags={**store.get_feature_view("purchases").tags, "unirep.vectors": "1", "unirep.dim": "3"},
    )
    store.apply([*entities, view])
    return store.get_feature_view("looked_up")


@pytest.fixture
def asked() -> pd.DataFrame:
    stamps = pd.to_datetime(["2024-01-05", "2024-02-05", "2024-02-05"], utc=True)
    return pd.DataFrame({"user_id": [1, 2, 99], "event_timestamp": stamps})


def test_a_promotion_in_mid_read_changes_nothing(
    make_repo: Any, asked: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read that began on one run ends on it, though the link moves and the run's files go."""
    repo = make_repo()
    repo.snapshot("2024-01-01", range(5), run="first")
    repo.snapshot("2024-02-01", range(5), run="first")
    store = repo.store()
    before = user_vectors(store, "purchases", asked)
    expected = [repo.expected(1, "2024-01-05"), repo.expected(2, "2024-02-05")]

    def promote_meanwhile(*arguments: Any) -> Any:
        repo.snapshot("2024-01-01", range(5), run="second", dim=7)
        for file in (repo.home / "snapshots" / "first").iterdir():
            file.unlink()
        return locate(*arguments)

    locate = historical_reading.locate
    monkeypatch.setattr(historical_reading, "locate", promote_meanwhile)
    during = user_vectors(store, "purchases", asked)
    monkeypatch.undo()
    after = user_vectors(store, "purchases", asked)

    assert during.mask.tolist() == [True, True, False]
    assert during.vectors[:2].numpy().tobytes() == np.stack(expected).tobytes()
    assert same(before, during)
    assert during.reshape().shape == (3, 2, 3)
    assert after.reshape().shape == (3, 2, 7)


def test_the_link_is_resolved_once(make_repo: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between listing and opening files the link is not followed again."""
    repo = make_repo()
    repo.snapshot("2024-01-01", range(5), run="first")
    view = repo.store().get_feature_view("purchases")
    folder = snapshot_lookup.snapshot_folder(view)

    assert folder is not None
    assert [path.parent.name for path in snapshot_lookup.snapshot_paths(folder)] == ["first"]


def test_other_offline_stores_are_asked_through_feast(
    make_repo: Any, asked: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that we do not know is asked, with the same answer; one we know is not."""
    repo = make_repo(offline={"type": f"{__name__}.ElsewhereOfflineStore"})
    monkeypatch.setitem(sys.modules, __name__, _this_module())
    repo.snapshot("2024-01-01", range(5))
    store = repo.store()
    calls = []
    stock = store.get_historical_features
    monkeypatch.setattr(
        store, "get_historical_features", lambda **given: calls.append(1) or stock(**given)
    )

    elsewhere = user_vectors(store, "purchases", asked)

    assert calls == [1]
    usual = make_repo(folder="usual")
    usual.snapshot("2024-01-01", range(5))
    ours = usual.store()
    monkeypatch.setattr(ours, "get_historical_features", None)  # not needed
    assert same(elsewhere, user_vectors(ours, "purchases", asked))


def _this_module() -> Any:
    """This module, importable by name, as a dotted path in feature_store.yaml has to be."""
    module = types.ModuleType(__name__)
    module.__dict__.update(globals())
    return module


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"path": "s3://bucket/*.parquet"}, "elsewhere"),
        ({"path": "relative/*.parquet"}, "relative"),
        ({"path": "/one/file.parquet"}, "one file"),
        ({"path": "/any/*/*.parquet"}, "many folders"),
        ({"field_mapping": {"a": "b"}}, "renamed columns"),
        ({"file_format": None}, "unknown format"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_sources_that_are_no_folder_of_parquet_files_are_left_to_feast(
    make_repo: Any, change: dict[str, Any], why: str
) -> None:
    """Only a plain local folder is read here."""
    repo = make_repo()
    repo.snapshot("2024-01-01", [1])
    view = repo.store().get_feature_view("purchases")
    settings = {
        "name": "changed",
        "path": view.batch_source.path,
        "file_format": ParquetFormat(),
        "timestamp_field": "event_timestamp",
    }
    assert snapshot_lookup.snapshot_folder(view) is not None

    view.batch_source = FileSource(**{**settings, **change})

    assert snapshot_lookup.snapshot_folder(view) is None


def test_vectors_are_read_in_pieces(
    make_repo: Any, monkeypatch: pytest.MonkeyPatch, asked: pd.DataFrame
) -> None:
    """Files larger than a piece, and rows anywhere in them, give the same vectors."""
    repo = make_repo()
    repo.snapshot("2024-01-01", range(0, 60, 2))
    repo.snapshot("2024-02-01", range(40, 90))
    store = repo.store()
    rng = np.random.default_rng(3)
    rows = pd.DataFrame(
        {
            "user_id": rng.integers(0, 95, 300),
            "event_timestamp": pd.to_datetime(
                rng.choice(["2023-12-05", "2024-01-05", "2024-02-05"], 300), utc=True
            ),
        }
    )
    whole = user_vectors(store, "purchases", rows)
    monkeypatch.setattr(vector_files, "BATCH_BYTES", 5 * 4 * 6)

    assert same(user_vectors(store, "purchases", rows), whole)
    for row, vector, known in zip(rows.itertuples(), whole.vectors, whole.mask, strict=True):
        expected = repo.expected(row.user_id, row.event_timestamp.to_pydatetime())
        assert bool(known) == (expected is not None)
        assert expected is None or vector.numpy().tobytes() == expected.tobytes()


def test_other_units_and_no_statistics_change_nothing(make_repo: Any, asked: pd.DataFrame) -> None:
    """Files without statistics, in nanoseconds or with large strings, read the same."""
    repo = make_repo()
    repo.snapshot("2024-01-01", range(5))
    store = repo.store()
    before = user_vectors(store, "purchases", asked)
    for path in Path(repo.home, "snapshots", "r1").iterdir():
        table = pq.read_table(path)
        place = table.column_names.index("event_timestamp")
        nanoseconds = table["event_timestamp"].cast(pa.timestamp("ns", tz="UTC"))
        table = table.set_column(place, "event_timestamp", nanoseconds)
        pq.write_table(table, path, write_statistics=False)

    assert before.mask.any()
    assert same(user_vectors(store, "purchases", asked), before)
