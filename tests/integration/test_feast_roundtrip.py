"""Snapshots through real Feast: offline, online, and back as tensors."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from unirep_feast.feature_store.torch_data import UserVectors, online_user_vectors, user_vectors

JANUARY, MARCH = "2024-01-01", "2024-03-01"
START, END = datetime(2023, 1, 1, tzinfo=UTC), datetime(2025, 1, 1, tzinfo=UTC)


def feast(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = Path(sys.executable).with_name("feast")
    return subprocess.run(
        [command, *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        env={**os.environ, "FEAST_USAGE": "False"},
        timeout=300,
    )


def entity_rows(repo: Any, times: list[str], numbers: Any) -> pd.DataFrame:
    """Every user at every time, shuffled, some rows twice."""
    pairs = [(user, time) for time in times for user in repo.ids(numbers)]
    order = np.random.default_rng(0).permutation(len(pairs) + 5) % len(pairs)
    users, when = zip(*(pairs[place] for place in order), strict=True)
    stamps = pd.to_datetime(list(when), utc=True, format="ISO8601")
    return pd.DataFrame({"user_id": list(users), "label": 1, "event_timestamp": stamps})


def assert_equals_snapshots(repo: Any, rows: pd.DataFrame, found: UserVectors) -> None:
    """Each row holds the latest vector at or before it, or is masked."""
    wanted = [
        repo.expected(user, time.to_pydatetime())
        for user, time in zip(rows.user_id, rows.event_timestamp, strict=True)
    ]

    assert found.mask.tolist() == [vector is not None for vector in wanted]
    assert 0 < found.mask.sum() < len(rows)
    for row, vector in enumerate(wanted):
        stored = found.vectors[row].numpy()
        assert stored.tobytes() == (np.zeros_like(stored) if vector is None else vector).tobytes()


def test_commands_of_feast_work_before_and_after_training(
    make_repo: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`feast apply` needs no snapshot; with two, materialize and fetch work from any folder."""
    repo = make_repo()
    second = yaml.safe_load(repo.spec_path.read_text()) | {"name": "returns"}
    (repo.folder / "returns.yaml").write_text(yaml.safe_dump(second))
    with (repo.folder / "representations.py").open("a") as file:
        file.write('_, source2, view2, service2 = representation("returns.yaml")\n')

    applied = feast("apply", cwd=repo.folder)

    assert applied.returncode == 0, applied.stderr
    assert "Created feature view purchases" in applied.stdout
    assert "Created feature view returns" in applied.stdout
    assert "WARNING" not in applied.stderr

    repo.snapshot(JANUARY, range(20))
    repo.snapshot(MARCH, range(5, 25))
    interval = ("2023-01-01T00:00:00", "2024-03-01T00:00:00")
    done = feast("-c", str(repo.folder), "materialize", *interval, "-v", "purchases", cwd=tmp_path)

    assert done.returncode == 0, done.stderr

    applied = feast("apply", cwd=repo.folder)

    assert applied.returncode == 0, applied.stderr
    monkeypatch.chdir("/")
    store = repo.store(apply=False)
    view = store.get_feature_view("purchases")
    assert view.tags["unirep.run"] == "r1"
    assert len(view.materialization_intervals) == 1

    found = online_user_vectors(store, "purchases", repo.ids([3, 24, 99]))

    assert found.mask.tolist() == [True, True, False]
    rows = entity_rows(repo, ["2024-02-01"], range(30))
    assert_equals_snapshots(repo, rows, user_vectors(store, "purchases", rows))


@pytest.mark.parametrize("keys", [pa.int64(), pa.string()], ids=str)
def test_rows_get_the_latest_vector_at_or_before_their_time(make_repo: Any, keys: Any) -> None:
    """Feast and user_vectors agree with a plain loop over snapshots, to the last bit."""
    repo = make_repo(keys=keys)
    repo.snapshot(JANUARY, range(40))
    repo.snapshot("2024-02-01T12:00:00.000001Z", range(20, 60))
    repo.snapshot(MARCH, range(10, 30))
    store = repo.store()
    times = [
        "2023-12-31T23:59:59.999999Z",  # before the first
        "2024-01-01T00:00:00Z",  # at it
        "2024-02-01T12:00:00Z",  # a microsecond before the second
        "2024-02-01T12:00:00.000001Z",
        "2024-06-01T00:00:00Z",
    ]
    rows = entity_rows(repo, times, range(65))

    found = user_vectors(store, "purchases", rows)

    assert_equals_snapshots(repo, rows, found)
    assert found.reshape().shape == (len(rows), 2, 3)

    rows["row"] = range(len(rows))
    table = store.get_historical_features(rows, ["purchases:vector"]).to_arrow().sort_by("row")

    assert table.num_rows == len(rows)
    for row, vector in enumerate(table["vector"].to_pylist()):
        assert (vector is not None) == bool(found.mask[row])
        assert vector is None or found.vectors[row].tolist() == vector


def test_entity_rows_may_be_arrow_in_chunks_with_nulls(make_repo: Any) -> None:
    """Chunks, slices, another time unit and zone, dictionaries and null users change nothing."""
    repo = make_repo(keys=pa.string())
    repo.snapshot(JANUARY, range(10))
    store = repo.store()
    rows = entity_rows(repo, ["2023-12-01", "2024-01-05"], range(12))
    plain = user_vectors(store, "purchases", rows)
    table = pa.Table.from_pandas(rows, preserve_index=False)
    stamps = table["event_timestamp"].cast(pa.timestamp("s", tz="Asia/Tokyo"))
    users = table["user_id"].dictionary_encode()
    table = pa.table({"event_timestamp": stamps, "user_id": users})
    pieces = pa.concat_tables([table.slice(0, 3), table.slice(0, 9).slice(3), table.slice(9)])

    found = user_vectors(store, "purchases", pieces)

    assert torch.equal(found.vectors, plain.vectors)
    assert torch.equal(found.mask, plain.mask)

    nobody = pa.table(
        {
            "user_id": pa.array([None, "user-3", None], pa.string()),
            "event_timestamp": pa.array([1_704_500_000] * 3, pa.timestamp("s", tz="UTC")),
        }
    )

    found = user_vectors(store, "purchases", nobody)

    assert found.mask.tolist() == [False, True, False]
    none = user_vectors(store, "purchases", nobody.slice(0, 1))
    assert none.mask.tolist() == [False]
    assert none.vectors.shape == (1, 6)
    empty = user_vectors(store, "purchases", nobody.slice(0, 0))
    assert empty.vectors.shape == (0, 6)


def test_expired_vectors_are_masked(make_repo: Any) -> None:
    """With ttl_days, a vector counts for that long after its as-of time and no longer."""
    repo = make_repo(view={"ttl_days": 10})
    repo.snapshot(JANUARY, range(3))
    store = repo.store()
    rows = pd.DataFrame(
        {
            "user_id": [1, 1, 1],
            "event_timestamp": pd.to_datetime(["2024-01-11", "2024-01-12", "2024-01-01"], utc=True),
        }
    )

    found = user_vectors(store, "purchases", rows)

    assert found.mask.tolist() == [True, False, True]


@pytest.mark.parametrize("kind", ["list", "large_list", "fixed_size_list"])
def test_every_arrow_list_type_reads_back_equal(make_repo: Any, kind: str) -> None:
    """A snapshot rewritten with another list type gives the same bits, offline and online."""
    repo = make_repo()
    repo.snapshot(JANUARY, range(30))
    for path in repo.home.glob("snapshots/r1/*.parquet"):
        table = pq.read_table(path)
        types = {
            "list": pa.list_(pa.float32()),
            "large_list": pa.large_list(pa.float32()),
            "fixed_size_list": pa.list_(pa.float32(), 6),
        }
        place = table.column_names.index("vector")
        column = table["vector"].combine_chunks().cast(types[kind])
        table = table.set_column(place, "vector", column)
        pq.write_table(table, path, row_group_size=4)
    store = repo.store()
    rows = entity_rows(repo, ["2023-12-01", "2024-01-05"], range(32))

    found = user_vectors(store, "purchases", rows)

    assert_equals_snapshots(repo, rows, found)
    store.materialize(START, END, disable_event_timestamp=False)
    online = online_user_vectors(store, "purchases", range(30))
    assert np.array_equal(online.vectors.numpy(), [repo.expected(n, MARCH) for n in range(30)])


def test_promoting_needs_no_second_apply(make_repo: Any) -> None:
    """After another run is promoted, the same view reads its snapshots and none of the old run."""
    repo = make_repo()
    repo.snapshot(JANUARY, range(10), run="first")
    store = repo.store()
    rows = entity_rows(repo, ["2024-01-05"], range(12))
    before = user_vectors(store, "purchases", rows)
    repo.snapshots.clear()
    repo.snapshot(JANUARY, range(3, 12), run="second", dim=5)

    after = user_vectors(store, "purchases", rows)

    assert before.vectors.shape[1] == 6
    assert after.reshape().shape == (len(rows), 2, 5)
    assert_equals_snapshots(repo, rows, after)


def test_half_written_snapshots_are_not_read(make_repo: Any) -> None:
    """A file under a temporary name in the snapshot folder is as if it were not there."""
    repo = make_repo()
    repo.snapshot(JANUARY, range(10))
    (repo.home / "snapshots" / "r1" / ".20240201T000000Z.parquet.abc.tmp").write_bytes(b"PAR1")
    store = repo.store()
    rows = entity_rows(repo, ["2023-12-01", "2024-02-05"], range(10))

    assert_equals_snapshots(repo, rows, user_vectors(store, "purchases", rows))


def test_folders_may_have_any_name(make_repo: Any) -> None:
    """Characters that mean something in a glob mean nothing in the name of a folder."""
    repo = make_repo(folder="my [old] repo's * é?")
    repo.snapshot(JANUARY, range(10))
    rows = entity_rows(repo, ["2023-12-01", "2024-02-05"], range(10))

    assert_equals_snapshots(repo, rows, user_vectors(repo.store(), "purchases", rows))


@pytest.fixture(params=["sqlite", "redis", "postgres"])
def online(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Settings of an online store that is there."""
    if request.param == "redis":
        url = urlsplit(request.getfixturevalue("redis_url"))
        connection = f"{url.hostname}:{url.port or 6379}"
        if url.password:
            connection += f",password={url.password}"
        return {"type": "redis", "connection_string": connection}
    if request.param == "postgres":
        pytest.importorskip("psycopg_pool")
        url = urlsplit(request.getfixturevalue("postgres_url"))
        return {
            "type": "postgres",
            "host": url.hostname,
            "port": url.port or 5432,
            "database": url.path.lstrip("/"),
            "db_schema": "public",
            "user": url.username or "postgres",
            "password": url.password or "",
            "sslmode": "prefer",
        }
    return {"type": "sqlite", "path": "data/online.db"}


@pytest.mark.parametrize("keys", [pa.int64(), pa.string()], ids=str)
def test_online_vectors_are_those_of_the_latest_snapshot(
    make_repo: Any, online: dict[str, Any], keys: Any
) -> None:
    """What is served equals the latest snapshot and what Feast says as numbers; unknown: masked."""
    project = f"unirep_test_{os.getpid()}_{'s' if pa.types.is_string(keys) else 'i'}"
    repo = make_repo(keys=keys, online=online, project=project)
    repo.snapshot(JANUARY, range(30))
    repo.snapshot(MARCH, range(10, 40))
    store = repo.store()
    try:
        store.materialize(START, END)
        ids = repo.ids([35, 3, 99, 12, 3, 40])

        found = online_user_vectors(store, "purchases", ids)

        assert found.mask.tolist() == [True, True, False, True, True, False]
        for row, user in enumerate(ids):
            vector = repo.expected(user, END)
            stored = found.vectors[row].numpy()
            assert (
                stored.tobytes() == (np.zeros_like(stored) if vector is None else vector).tobytes()
            )

        service = store.get_feature_service("purchases")
        said = store.get_online_features(service, {"user_id": ids}).to_dict()

        assert [None if v is None else np.float32(v).tolist() for v in said["vector"]] == [
            row.tolist() if known else None
            for row, known in zip(found.vectors, found.mask, strict=True)
        ]
        assert said["history_length"] == [36, 4, None, 13, 4, None]
        for same in (np.asarray(ids), pa.array(ids), pd.Series(ids)):
            assert torch.equal(online_user_vectors(store, "purchases", same).vectors, found.vectors)
        alone = online_user_vectors(store, "purchases", repo.ids([99]))
        assert alone.vectors.shape == (1, 6)
        assert not alone.mask.any()
    finally:
        store.teardown()


def test_dask_drops_rows_but_tensors_keep_them(make_repo: Any) -> None:
    """The dask store loses future and repeated rows; user_vectors warns, and returns them all."""
    repo = make_repo(offline={"type": "dask"})
    repo.snapshot(JANUARY, range(20))
    store = repo.store()
    rows = entity_rows(repo, ["2023-12-01", "2024-01-05"], range(20))
    direct = store.get_historical_features(rows.copy(), ["purchases:vector"]).to_arrow()

    assert direct.num_rows < len(rows)

    with pytest.warns(UserWarning, match="drops entity rows.*duckdb"):
        found = user_vectors(store, "purchases", rows)

    assert_equals_snapshots(repo, rows, found)
