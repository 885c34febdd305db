"""What goes wrong between a caller and Feast is one line that says what to do."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.types import Array, Float32, Int64

from unirep_feast.errors import StoreError
from unirep_feast.feature_store.entity_rows import read_entity_rows
from unirep_feast.feature_store.historical_reading import through_feast
from unirep_feast.feature_store.torch_data import online_user_vectors, user_vectors

JANUARY = "2024-01-01"
START, END = datetime(2023, 1, 1, tzinfo=UTC), datetime(2025, 1, 1, tzinfo=UTC)
NOW = pd.Timestamp("2024-06-01", tz="UTC")


def rows(**columns: Any) -> pd.DataFrame:
    return pd.DataFrame({"user_id": [1, 2], "event_timestamp": NOW} | columns)


@pytest.fixture
def repo(make_repo: Any) -> Any:
    made = make_repo()
    made.snapshot(JANUARY, range(5))
    return made


def test_an_unknown_view_lists_the_known_ones(repo: Any) -> None:
    """A misspelt name is answered with the names there are; an empty project with a command."""
    empty = repo.store(apply=False)
    with pytest.raises(StoreError, match=r"no feature view 'purchases'.*none; run `feast apply`"):
        user_vectors(empty, "purchases", rows())
    store = repo.store()

    for call in (
        lambda: user_vectors(store, "purchase", rows()),
        lambda: online_user_vectors(store, "purchase", [1]),
    ):
        with pytest.raises(StoreError, match=r"no feature view 'purchase' .*found purchases"):
            call()


def test_a_view_that_is_not_ours_is_refused(repo: Any) -> None:
    """A view without our tag, or without the feature `vector`, is named and explained."""
    store = repo.store()
    user = Entity(name="other", join_keys=["user_id"], value_type=ValueType.INT64)
    source = FileSource(name="file", path=str(repo.folder / "x.parquet"), timestamp_field="t")
    schema = [Field(name="user_id", dtype=Int64), Field(name="embedding", dtype=Array(Float32))]
    view = FeatureView(name="foreign", entities=[user], schema=schema, source=source)
    store.apply([user, source, view])
    ours = store.get_feature_view("purchases")

    with pytest.raises(StoreError, match=r"'foreign' has no tag 'unirep.spec'"):
        user_vectors(store, "foreign", rows())
    view.tags = dict(ours.tags)
    with pytest.raises(StoreError, match=r"'foreign' has no feature 'vector'; found embedding"):
        user_vectors(store, view, rows())


@pytest.mark.parametrize(
    ("entities", "message"),
    [
        (rows().rename(columns={"user_id": "uid"}), "no column 'user_id'; found uid, event_timest"),
        (rows()[["user_id"]], "no column 'event_timestamp'; found user_id"),
        (rows(event_timestamp=pd.Timestamp("2024-06-01")), "without a time zone.*take as UTC.*tz_"),
        (rows(event_timestamp="2024-06-01"), "'event_timestamp' is string; wanted a timestamp"),
        (rows(event_timestamp=[NOW, pd.NaT]), "1 rows without 'event_timestamp'"),
        (rows(user_id=["1", "2"]), "'user_id' is string; feature view 'purchases' is keyed by int"),
        (rows(user_id=[1, np.nan]), "is double.*use dtype Int64"),
        (rows(user_id=[1, "2"]), "mixed types"),
        (rows(user_id=np.array([1, 2**63], np.uint64)), "is uint64: .*wanted int64"),
    ],
)
def test_entity_rows_are_checked(repo: Any, entities: pd.DataFrame, message: str) -> None:
    """What Feast would guess, convert or fail on obscurely is refused before it is asked."""
    with pytest.raises(StoreError, match=message) as caught:
        user_vectors(repo.store(), "purchases", entities)

    assert "\n" not in str(caught.value)


def test_ids_of_another_type_are_refused(make_repo: Any, repo: Any) -> None:
    """The text "7" is not the number 7, in neither direction."""
    texts = make_repo(keys=pa.string(), folder="texts")
    texts.snapshot(JANUARY, range(5))

    with pytest.raises(StoreError, match="ids is string; feature view 'purchases' is keyed by int"):
        online_user_vectors(repo.store(), "purchases", ["1"])
    with pytest.raises(StoreError, match="ids is float"):
        online_user_vectors(repo.store(), "purchases", torch.ones(2))
    with pytest.raises(StoreError, match="ids is int64; feature view 'purchases' is keyed by stri"):
        online_user_vectors(texts.store(), "purchases", [1])
    with pytest.raises(StoreError, match=r"ids: .*wanted integers or strings"):
        online_user_vectors(texts.store(), "purchases", ["a", 1])


def test_without_snapshots_the_commands_are_named(make_repo: Any) -> None:
    """Asking before anything was trained says what has to be run."""
    repo = make_repo()
    store = repo.store()

    with pytest.raises(StoreError, match=r"has no snapshot: .*unirep train` and `unirep encode`"):
        user_vectors(store, "purchases", rows())


def test_an_empty_online_store_is_told_from_an_unknown_user(repo: Any) -> None:
    """Before the first materialize an error; afterwards an unknown user is only masked."""
    store = repo.store()

    with pytest.raises(StoreError, match=r"was never materialized; run .*`feast materialize`"):
        online_user_vectors(store, "purchases", [1])

    store.materialize(START, END)

    assert not online_user_vectors(store, "purchases", [99]).mask.any()
    assert len(online_user_vectors(store, "purchases", [])) == 0


def test_a_view_that_was_not_applied_is_explained(repo: Any) -> None:
    """Without the online table the store's own failure is passed on, with the likely reason."""
    repo.store()
    (repo.folder / "data" / "online.db").unlink()
    store = FeatureStore(repo_path=str(repo.folder))

    with pytest.raises(StoreError, match=r"the sqlite online store failed: .*`feast apply` run\?"):
        online_user_vectors(store, "purchases", [1])


def test_a_damaged_snapshot_fails_in_one_line(repo: Any) -> None:
    """A truncated file is named, whether we read it or the offline store, on one line."""
    store = repo.store()
    (repo.home / "snapshots" / "r1" / "20240201T000000Z.parquet").write_bytes(b"PAR1")

    with pytest.raises(StoreError, match=r"20240201T000000Z.parquet cannot be read: .*encode aga"):
        user_vectors(store, "purchases", rows())
    view = store.get_feature_view("purchases")
    with pytest.raises(StoreError, match="the duckdb offline store failed: ") as caught:
        through_feast(store, view, read_entity_rows(rows(), view))

    assert "\n" not in str(caught.value)


def test_a_snapshot_without_a_column_is_named(repo: Any) -> None:
    """A foreign file among the snapshots is refused with what it lacks."""
    store = repo.store()
    strange = repo.home / "snapshots" / "r1" / "strange.parquet"
    pq.write_table(pa.table({"user_id": [1], "vector": [[1.0]]}), strange)

    with pytest.raises(StoreError, match=r"strange.parquet has no column 'event_timestamp', 'crea"):
        user_vectors(store, "purchases", rows())


def test_vectors_of_two_lengths_are_refused(repo: Any) -> None:
    """Snapshots of two runs in one folder are named, with both lengths, and never mixed."""
    store = repo.store()
    repo.snapshot("2024-02-01", range(3), run="wider", dim=5)
    runs = repo.home / "snapshots"
    (runs / "r1" / "20240101T000000Z.parquet").rename(runs / "wider" / "20240101T000000Z.parquet")

    with pytest.raises(StoreError, match=r"vectors of (6|10) numbers, others of (6|10): .*two run"):
        user_vectors(store, "purchases", rows(user_id=[1, 4]))


def test_dask_failing_on_unknown_users_names_duckdb(
    make_repo: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over several snapshots dask may raise where a user has none; the line says what helps."""
    repo = make_repo(offline={"type": "dask"})
    repo.snapshot(JANUARY, range(5))
    store = repo.store()

    def fail(**_: Any) -> None:
        raise NotImplementedError("Divisions calculation failed for\nnon-numeric column 'created'.")

    monkeypatch.setattr(store, "get_historical_features", fail)
    view = store.get_feature_view("purchases")
    view.batch_source = FileSource(  # a file and no folder, so that Feast is asked
        path=str(repo.home / "snapshots/r1/20240101T000000Z.parquet"),
        timestamp_field="event_timestamp",
    )

    with (
        pytest.warns(UserWarning, match="drops entity rows"),
        pytest.raises(StoreError, match=r"dask offline store failed: Div.* for non.*type: duckdb"),
    ):
        user_vectors(store, view, rows(user_id=[1, 99]))


def test_vectors_of_an_older_run_are_not_reshaped(repo: Any) -> None:
    """What is still online of a run before the promoted one does not pass for its vectors."""
    store = repo.store()
    store.materialize(START, END)
    repo.snapshot("2024-02-01", range(5), run="wider", dim=7)

    found = online_user_vectors(store, "purchases", [1])

    assert found.vectors.shape == (1, 6)
    with pytest.raises(StoreError, match=r"K=2 vectors of D=7 but these have 6.*materialize"):
        found.reshape()
