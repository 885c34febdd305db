"""Training sets for torch: every row once, with its own vector and label, whoever loads it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Subset, random_split

from unirep_feast.errors import StoreError
from unirep_feast.feature_store.torch_data import (
    UserVectorDataset,
    UserVectorStream,
    to_torch,
    user_vectors,
)

USERS = 50


@pytest.fixture
def repo(make_repo: Any) -> Any:
    """Three snapshots of some of the users, seven to a row group."""
    made = make_repo()
    made.snapshot("2024-01-01", range(40))
    made.snapshot("2024-02-01", range(10, USERS, 2))
    made.snapshot("2024-03-01", range(5, 45, 3))
    return made


@pytest.fixture
def rows() -> pd.DataFrame:
    """200 rows, repeated users, some before every snapshot and some of nobody."""
    rng = np.random.default_rng(5)
    days = ["2023-12-20", "2024-01-20", "2024-02-20", "2024-03-20"]
    return pd.DataFrame(
        {
            "user_id": rng.integers(0, USERS + 5, 200),
            "event_timestamp": pd.to_datetime(rng.choice(days, 200), utc=True),
            "bought": rng.random(200) < 0.3,
            "amount": rng.random(200),
        }
    )


def assert_whole(batches: list[dict[str, torch.Tensor]], store: Any, rows: pd.DataFrame) -> None:
    """All rows, each once, with what ``user_vectors`` says and its own labels."""
    wanted = user_vectors(store, "purchases", rows)
    assert 0 < int(wanted.mask.sum()) < len(rows)
    together = {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
    row = together["row"]

    assert sorted(row.tolist()) == list(range(len(rows)))
    assert torch.equal(together["vector"], wanted.vectors[row])
    assert torch.equal(together["mask"], wanted.mask[row])
    assert together["bought"].tolist() == rows.bought.to_numpy()[row.numpy()].tolist()
    assert together["amount"].tolist() == rows.amount.to_numpy()[row.numpy()].tolist()


@pytest.mark.parametrize("context", [None, "fork", "spawn"])
def test_a_dataset_gives_every_row_once(repo: Any, rows: pd.DataFrame, context: Any) -> None:
    """Shuffled batches, in this process and in workers of either kind."""
    store = repo.store()
    data = UserVectorDataset(store, "purchases", rows, labels=["bought", "amount"])
    loader = DataLoader(
        data,
        batch_size=32,
        shuffle=True,
        num_workers=2 if context else 0,
        multiprocessing_context=context,
        generator=torch.Generator().manual_seed(1),
    )

    batches = list(loader)

    assert [len(batch["mask"]) for batch in batches] == [32] * 6 + [8]
    assert batches[0]["row"].tolist() != sorted(batches[0]["row"].tolist())
    assert_whole(batches, store, rows)
    assert (data.num_vectors, data.dim, len(data)) == (2, 3, 200)


def test_a_dataset_reads_a_batch_in_one_piece(repo: Any, rows: pd.DataFrame) -> None:
    """A DataLoader asks for rows by the batch, also of a part of the set; one row works too."""
    store = repo.store()
    data = UserVectorDataset(store, "purchases", rows, labels=["bought", "amount"])
    whole = next(iter(DataLoader(data, batch_size=len(data))))
    one_by_one = torch.utils.data.default_collate([data[row] for row in range(len(data))])

    assert whole.keys() == one_by_one.keys()
    assert all(torch.equal(whole[name], one_by_one[name]) for name in whole)
    data.__class__.__getitem__, single = None, data.__class__.__getitem__  # type: ignore
    try:
        parts = random_split(data, [150, 50], torch.Generator().manual_seed(0))
        assert_whole([b for part in parts for b in DataLoader(part, 64)], store, rows)
        subset = next(iter(DataLoader(Subset(data, [7, 3]), 2)))
    finally:
        data.__class__.__getitem__ = single  # type: ignore
    assert subset["row"].tolist() == [7, 3]


@pytest.mark.parametrize(
    ("context", "shuffle"), [(None, True), (None, False), ("fork", True), ("spawn", True)]
)
def test_a_stream_gives_every_row_once(
    repo: Any, rows: pd.DataFrame, context: Any, shuffle: bool
) -> None:
    """Row groups are dealt to workers without loss and without duplicates."""
    store = repo.store()
    stream = UserVectorStream(
        store,
        "purchases",
        rows,
        labels=["bought", "amount"],
        batch_size=16,
        shuffle=shuffle,
        buffer_rows=40,
    )
    loader = DataLoader(
        stream,
        batch_size=None,
        num_workers=2 if context else 0,
        multiprocessing_context=context,
    )

    batches = list(loader)

    assert_whole(batches, store, rows)
    sizes = [len(batch["mask"]) for batch in batches]
    assert max(sizes) == 16
    assert sum(size < 16 for size in sizes) <= (2 if context else 1)
    assert (stream.num_vectors, stream.dim, stream.rows) == (2, 3, 200)


def test_the_order_of_a_stream_is_its_seed_and_epoch(repo: Any, rows: pd.DataFrame) -> None:
    """The same seed and epoch repeat the order, with persistent workers too; others change it."""
    store = repo.store()

    def make(seed: int) -> UserVectorStream:
        return UserVectorStream(store, "purchases", rows, batch_size=16, seed=seed, buffer_rows=60)

    def order(loader: Any) -> list[int]:
        return [row for batch in loader for row in batch["row"].tolist()]

    stream = make(seed=1)
    loader = DataLoader(stream, batch_size=None, num_workers=2, persistent_workers=True)
    first = order(loader)
    stream.set_epoch(1)
    second = order(loader)
    stream.set_epoch(0)

    assert order(loader) == first
    assert first != second
    assert sorted(first) == sorted(second)
    one_process = order(make(seed=1))
    assert one_process == order(make(seed=1)) != order(make(seed=2))
    # Neighbours in a file are no neighbours in the stream.
    assert np.mean(np.abs(np.diff(one_process)) == 1) < 0.1


def test_a_stream_is_dealt_to_any_number_of_processes(repo: Any, rows: pd.DataFrame) -> None:
    """Every split into shards, and every buffer and batch size, gives each row exactly once."""
    store = repo.store()

    @settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
    @given(
        shards=st.integers(1, 9),
        buffer_rows=st.integers(1, 300),
        batch_size=st.integers(1, 250),
        shuffle=st.booleans(),
        seed=st.integers(0, 9),
    )
    def check(shards: int, buffer_rows: int, batch_size: int, shuffle: bool, seed: int) -> None:
        batches = [
            batch
            for shard in range(shards)
            for batch in UserVectorStream(
                store,
                "purchases",
                rows,
                labels=["bought", "amount"],
                batch_size=batch_size,
                buffer_rows=buffer_rows,
                shuffle=shuffle,
                seed=seed,
                shard=(shard, shards),
            )
        ]
        assert_whole(batches, store, rows)

    check()


def test_a_stream_notices_replaced_files(repo: Any, rows: pd.DataFrame) -> None:
    """Rows were looked up in one file; those of another under its name are not taken for them."""
    stream = UserVectorStream(repo.store(), "purchases", rows)
    repo.snapshot("2024-02-01", range(11, USERS, 2))

    with pytest.raises(StoreError, match=r"20240201T000000Z.parquet was replaced since .*anew"):
        list(stream)


def test_a_stream_keeps_its_run_when_another_is_promoted(repo: Any, rows: pd.DataFrame) -> None:
    """The link is resolved when the stream is made, not when a batch is read."""
    store = repo.store()
    before = user_vectors(store, "purchases", rows)
    stream = UserVectorStream(store, "purchases", rows, shuffle=False)
    repo.snapshot("2024-01-01", range(50), run="second", dim=9)

    batches = list(stream)

    row = torch.cat([batch["row"] for batch in batches])
    assert torch.equal(torch.cat([batch["vector"] for batch in batches]), before.vectors[row])


def test_rows_without_any_vector_are_streamed_too(repo: Any, rows: pd.DataFrame) -> None:
    """Nobody known: batches of masked rows, of the usual width."""
    nobody = rows.assign(user_id=10**6)

    batches = list(UserVectorStream(repo.store(), "purchases", nobody, batch_size=150))

    assert [batch["vector"].shape for batch in batches] == [(150, 6), (50, 6)]
    assert not torch.cat([batch["mask"] for batch in batches]).any()


@pytest.mark.parametrize("kind", [UserVectorDataset, UserVectorStream])
def test_labels_are_checked(repo: Any, rows: pd.DataFrame, kind: Any) -> None:
    """A label that is missing, null, a text or in a batch's way is named."""
    store = repo.store()

    with pytest.raises(StoreError, match="entity_df: no label 'sold'; found user_id, event_times"):
        kind(store, "purchases", rows, labels=["sold"])
    with pytest.raises(StoreError, match="200 rows without label 'bought'; drop them, or fill"):
        kind(store, "purchases", rows.assign(bought=np.nan), labels=["bought"])
    with pytest.raises(StoreError, match="column 'name' is string; wanted numbers"):
        kind(store, "purchases", rows.assign(name="x"), labels=["name"])
    with pytest.raises(StoreError, match="label 'row': a batch has vector, mask, row of its own"):
        kind(store, "purchases", rows.assign(row=1), labels=["row"])


def test_a_stream_needs_files(make_repo: Any, rows: pd.DataFrame) -> None:
    """What cannot be streamed is refused with what to use instead."""
    repo = make_repo()
    repo.snapshot("2024-01-01", [1])
    store = repo.store()
    view = store.get_feature_view("purchases")
    view.batch_source.file_options.uri = str(repo.home / "x.parquet")

    with pytest.raises(StoreError, match="only local snapshot files can be streamed; use UserVec"):
        UserVectorStream(store, view, rows)
    with pytest.raises(StoreError, match=r"shard \(2, 2\): wanted"):
        UserVectorStream(store, "purchases", rows, shard=(2, 2))


def test_a_feast_job_becomes_tensors(repo: Any, rows: pd.DataFrame) -> None:
    """Numbers, times, flags and vectors of anyone's job, nulls masked, the bits unchanged."""
    store = repo.store()
    features = ["purchases:vector", "purchases:history_length", "purchases:last_event"]
    rows["order"] = range(len(rows))
    rows["name"] = "text"
    wanted = user_vectors(store, "purchases", rows)

    job = store.get_historical_features(rows.copy(), features)
    found = to_torch(job)

    assert "name" not in found
    order = found["order"]
    assert sorted(order.tolist()) == list(range(len(rows)))
    assert torch.equal(found["vector_mask"], wanted.mask[order])
    assert torch.equal(found["vector"], wanted.vectors[order])
    assert found["vector"].dtype == torch.float32
    assert found["history_length"].dtype == found["last_event"].dtype == torch.int64
    assert torch.equal(found["history_length_mask"], wanted.mask[order])
    users = found["user_id"][found["vector_mask"]]
    assert torch.equal(found["history_length"][found["vector_mask"]], users + 1)
    assert found["bought"].dtype == torch.bool
    assert found["bought_mask"].all()
    first = found["last_event"][found["vector_mask"]][0].item()
    assert first + 1 in repo.snapshots
    only = to_torch(job, columns=["amount"])
    assert sorted(only) == ["amount", "amount_mask"]
    assert only["amount"].dtype == torch.float64
    with pytest.raises(StoreError, match="no column 'amounts'; found "):
        to_torch(job, columns=["amounts"])
    with pytest.raises(StoreError, match="column 'name' is string; wanted numbers"):
        to_torch(job, columns=["name"])


def test_a_failing_job_is_one_line(repo: Any, rows: pd.DataFrame) -> None:
    """A job that fails says so in one line."""
    store = repo.store()
    job = store.get_historical_features(rows, ["purchases:vector"])
    for file in (repo.home / "snapshots" / "r1").iterdir():
        file.unlink()

    with pytest.raises(StoreError, match="the Feast job failed: ") as caught:
        to_torch(job)

    assert "\n" not in str(caught.value)


class _Job:
    """A retrieval job that holds its answer."""

    def __init__(self, **columns: pa.Array) -> None:
        self.table = pa.table(columns)

    def to_arrow(self) -> pa.Table:
        return self.table


def test_columns_of_every_type() -> None:
    """Each type of column has its tensor; integers with nulls stay integers."""
    job: Any = _Job(
        whole=pa.array([2**60 + 1, None, -1]),
        small=pa.array([1, None, 3], pa.uint16()),
        real=pa.array([1.5, None, 0.1], pa.float32()),
        flag=pa.array([True, None, False]),
        none=pa.nulls(3),
        day=pa.array([1_000_000_001, None, -1], pa.timestamp("ns")),
        codes=pa.array([[1, 2], None, [3, 4]], pa.list_(pa.int64())),
        doubles=pa.array([[0.1], [], [0.2]], pa.list_(pa.float64(), -1)),
        text=pa.array(["a", "b", "c"]),
    )

    found = to_torch(job)

    assert found["whole"].tolist() == [2**60 + 1, 0, -1]
    assert found["small"].dtype == torch.int32
    assert found["small"].tolist() == [1, 0, 3]
    assert found["real"].tolist() == [1.5, 0, np.float32(0.1)]
    assert found["flag"].tolist() == [True, False, False]
    assert not found["none_mask"].any()
    assert found["day"].tolist() == [1_000_000, 0, -1]
    assert found["codes"].tolist() == [[1, 2], [0, 0], [3, 4]]
    assert found["doubles"].dtype == torch.float64
    assert found["doubles"].tolist() == [[0.1], [0], [0.2]]
    for name in ("whole", "small", "real", "flag", "codes", "doubles", "day"):
        assert found[name + "_mask"].tolist() == [True, False, True]
    assert "text" not in found


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"a": pa.array([1]), "a_mask": pa.array([1])}, "'a' and 'a_mask': the second is the name"),
        ({"a": pa.array([2**63], pa.uint64())}, "unsigned integers beyond"),
        ({"a": pa.array([[1], [1, 2]])}, "column 'a' mixes vectors of 1, 2 numbers"),
    ],
)
def test_columns_that_are_no_tensors_are_refused(columns: Any, message: str) -> None:
    """What torch has no tensor for is named."""
    with pytest.raises(StoreError, match=message):
        to_torch(_Job(**columns))  # type: ignore[arg-type]
