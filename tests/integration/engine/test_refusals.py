"""What the engine refuses: in one line, with nothing recorded and nothing half written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest
import torch
from feast import FeatureView, Field
from feast.types import Array, Float32, Float64, Int64

from unirep_feast.errors import LeakageError, StoreError
from unirep_feast.feature_store.engine import EngineError
from unirep_feast.feature_store.views import representation

T0, T1 = "2020-03-01T00:00:00Z", "2020-03-10T12:00:00Z"


def refused(repo: Any, store: Any, *times: str) -> str:
    """Materialize, which must fail and leave nothing behind; returns the line."""
    with pytest.raises(EngineError) as caught:
        repo.materialize(store, *times)
    assert "\n" not in str(caught.value)
    assert repo.intervals(store) == []
    assert not list(repo.shop.home.glob("snapshots/*/*.parquet"))
    assert repo.left_overs() == []
    return str(caught.value)


def declared(repo: Any, **changes: Any) -> FeatureView:
    """The shop's view with another vector field or other tags."""
    ours = representation(repo.shop.path).view
    field = changes.get("field", Field(name="vector", dtype=Array(Float32)))
    return FeatureView(
        name="shop",
        entities=[representation(repo.shop.path).entity],
        schema=[Field(name="user_id", dtype=Int64), field],
        source=ours.batch_source,
        tags={**ours.tags, **changes.get("tags", {})},
    )


def test_unknown_and_wrong_keys_are_named_together(engine_repo: Any) -> None:
    """`feast materialize` ends with exit code 1 and one line that names every key."""
    engine = {"inner": {"backend": "pandas"}, "incremental": "often", "leakage": True}
    repo = engine_repo(engine=engine)
    assert repo.feast("apply").returncode == 0

    result = repo.feast("materialize", "2020-01-01T00:00:00", T1[:-1])

    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    for part in ("inner: wanted keys with a type", "incremental: ", "unknown key `leakage`"):
        assert part in line
    assert "its keys are type, inner, incremental, allow_model_leakage, catalog" in line


@pytest.mark.parametrize(
    ("inner", "reason"),
    [
        ("nowhere", "engine 'nowhere' cannot be made"),
        ({"type": "unirep_feast.feature_store.engine.UnirepComputeEngine"}, "found this one"),
        ({"type": "local", "backend": "abacus"}, "engine 'local' cannot be made"),
        (7, "inner"),
    ],
)
def test_an_inner_engine_that_cannot_be_made(engine_repo: Any, inner: Any, reason: str) -> None:
    """Unknown, ourselves, with wrong keys of its own, or no engine at all."""
    repo = engine_repo(engine={"inner": inner})

    with pytest.raises(EngineError, match=reason):
        repo.store()


def test_no_catalog_and_no_promoted_run_name_the_command(engine_repo: Any) -> None:
    """Before any training, and after one that nobody promoted."""
    repo = engine_repo()
    store = repo.store()

    assert "`unirep train SPEC` makes one" in refused(repo, store, T1)

    from unirep_feast.catalog import Catalog

    Catalog(repo.shop.catalog)
    assert "no run of 'shop' is promoted; run `unirep train SPEC` first" in refused(repo, store, T1)


def test_a_model_that_has_seen_the_future_is_refused(engine_repo: Any) -> None:
    """As of a time before `trained_until`; accepted with the engine's key, which is recorded."""
    repo = engine_repo()
    run = repo.train()
    store = repo.store()

    line = refused(repo, store, "2020-02-20T00:00:00Z")

    assert "trained on events up to 2020-03-01T00:00:00Z" in line
    assert "vectors as of 2020-02-20T00:00:00Z would carry that future" in line
    assert "batch_engine.allow_model_leakage: true" in line
    with pytest.raises(EngineError) as caught:
        repo.materialize(store, "2020-02-20T00:00:00Z")
    assert isinstance(caught.value.__cause__, LeakageError)

    repo.engine = {"allow_model_leakage": True}
    store = repo.store()
    repo.materialize(store, "2020-02-20T00:00:00Z")

    repo.expect(store, run, "2020-02-20T00:00:00Z")
    assert all(one.allow_model_leakage for one in repo.catalog().snapshots(run))


def test_vectors_that_are_no_numbers_are_refused(
    engine_repo: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The users are named; a plugin that returns NaN leaves no snapshot and no interval."""
    from unirep_feast_lab.parts import LabEncoder

    repo = engine_repo()
    repo.train()
    store = repo.store()
    forward = LabEncoder.forward

    def spoilt(self: Any, batch: Any, **options: Any) -> Any:
        found = forward(self, batch, **options)
        return replace(found, users=found.users * torch.nan)

    monkeypatch.setattr(LabEncoder, "forward", spoilt)
    line = refused(repo, store, T1)

    assert "encoder 'lab': the vectors of" in line
    assert "hold NaN or infinity (1" in line


def test_infinite_vectors_are_refused_with_their_users(
    engine_repo: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights that overflow: the users are named by id, and nothing is stored."""
    from unirep_feast_lab.parts import LabEncoder

    from unirep_feast.encoder import Encoded

    repo = engine_repo()
    run = repo.train()
    store = repo.store()
    forward = LabEncoder.forward

    def overflowing(self: Any, batch: Any, **options: Any) -> Encoded:
        found = forward(self, batch, **options)
        users = found.users.clone()
        users[batch.lengths > 5, 0, 3] = float("inf")
        return Encoded(users, found.steps, found.extras)

    with monkeypatch.context() as patch:
        patch.setattr(LabEncoder, "forward", overflowing)
        line = refused(repo, store, T1)

    repo.materialize(store, T1)
    lengths = store.get_online_features(
        ["shop:history_length"], [{"user_id": user} for user in repo.snapshot(run, T1)[0]]
    ).to_dict()
    known = {
        str(user)
        for user, length in zip(lengths["user_id"], lengths["history_length"], strict=True)
        if length > 5
    }
    assert "hold NaN or infinity" in line
    named = line.partition("infinity (")[2].partition(")")[0]
    assert {word for word in named.replace(",", "").split() if word.isdigit()} <= known, line
    assert known, line


def test_intervals_that_end_before_they_begin_or_in_the_future(engine_repo: Any) -> None:
    """Feast would record the first without a word; the second cannot be known yet."""
    repo = engine_repo()
    repo.train()
    store = repo.store()

    with pytest.raises(EngineError, match=r"the interval begins at .* and ends before, at"):
        # Never materialized: Feast begins a year before now.
        store.materialize_incremental(pd.Timestamp(T1).to_pydatetime())
    assert repo.intervals(store) == []
    assert "lies in the future" in refused(repo, store, "2120-01-01T00:00:00Z")


def test_a_view_of_another_shape_is_refused_at_materialize(engine_repo: Any) -> None:
    """After another run with another D was promoted: both numbers, and what to do; apply heals."""
    repo = engine_repo()
    repo.train()
    store = repo.store()
    repo.materialize(store, T0)
    store = repo.store()  # now the tags say 8 numbers
    second = repo.train(encoder__settings={"dim": 5, "vectors": 2})
    before = repo.stored()

    with pytest.raises(EngineError) as caught:
        repo.materialize(store, T1)

    line = str(caught.value)
    assert "applied with K=1 vectors of D=8" in line
    assert f"run {second} makes K=2 vectors of D=5" in line
    assert "run `feast apply`" in line
    assert repo.stored() == before
    assert len(repo.intervals(store)) == 1

    store = repo.store()
    repo.materialize(store, T1)

    repo.expect(store, second, T1)


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        (
            {"tags": {"unirep.vectors": "1", "unirep.dim": "64"}},
            ("K=1 vectors of D=64", "K=1 vectors of D=8"),
        ),
        (
            {
                "field": Field(
                    name="vector",
                    dtype=Array(Float32),
                    vector_index=True,
                    vector_length=16,
                    vector_search_metric="cosine",
                )
            },
            ("vector_length=16", "K=1 vectors of D=8, 8 numbers"),
        ),
        ({"field": Field(name="vector", dtype=Array(Float64))}, ("Float64", "Array(Float32)")),
    ],
    ids=["tags", "vector_length", "dtype"],
)
def test_a_view_of_another_shape_is_refused_at_apply(
    engine_repo: Any, changes: dict[str, Any], parts: tuple[str, ...]
) -> None:
    """The registry keeps the view it had; both numbers are named."""
    repo = engine_repo()
    repo.train()
    store = repo.store()
    view = declared(repo, **changes)

    with pytest.raises(EngineError) as caught:
        store.apply([representation(repo.shop.path).entity, view])

    assert all(part in str(caught.value) for part in parts), caught.value
    kept = repo.store(apply=False).get_feature_view("shop")
    assert len(kept.features) == 3


def test_apply_works_before_training_whatever_the_view_says(engine_repo: Any) -> None:
    """Without a promoted run there is nothing to compare with."""
    repo = engine_repo()
    store = repo.store()
    view = declared(repo, tags={"unirep.vectors": "1", "unirep.dim": "64"})

    store.apply([representation(repo.shop.path).entity, view])

    assert store.get_feature_view("shop").tags["unirep.dim"] == "64"


def test_a_source_that_lacks_columns_is_named(engine_repo: Any) -> None:
    """A hand-made view with a feature that no snapshot has."""
    repo = engine_repo()
    repo.train()
    store = repo.store()
    view = declared(repo, field=Field(name="mood", dtype=Float32))
    store.apply([representation(repo.shop.path).entity, view])

    with pytest.raises(EngineError, match="shop: no column 'mood'; found user_id"):
        repo.materialize(store, T1)

    assert repo.intervals(store) == []
    assert repo.recorded() == []


def test_a_changed_snapshot_is_not_served(repo: Any) -> None:
    """A file that was tampered with after it was recorded reaches no online store."""
    run = repo.train()
    store = repo.store()
    repo.materialize(store, T0)
    before = repo.stored()
    path = repo.shop.home / "snapshots" / run / "20200301T000000Z.parquet"
    path.write_bytes(path.read_bytes() + b"!")

    with pytest.raises(EngineError, match="was changed since it was written"):
        repo.materialize(store, T0)

    assert repo.stored() == before
    assert len(repo.intervals(store)) == 1


@pytest.fixture
def lossy(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Let the writer report fewer rows than it was given."""
    from unirep_feast.feature_store import online_serving
    from unirep_feast.feature_store.online_writer import WriteReport

    write = online_serving.write_online

    def lose(rows: int) -> None:
        def lossy(*arguments: Any, **options: Any) -> WriteReport:
            report = write(*arguments, **options)
            return WriteReport(report.rows - rows, report.path, report.reason, report.skipped)

        monkeypatch.setattr(online_serving, "write_online", lossy)

    return lose


def test_the_count_of_stored_rows_is_checked(
    engine_repo: Any, lossy: Callable[[int], None]
) -> None:
    """A row that did not arrive is an error with both counts; nothing is recorded."""
    repo = engine_repo()
    run = repo.train()
    store = repo.store()
    lossy(1)

    with pytest.raises(StoreError) as caught:
        repo.materialize(store, T1)

    count = len(repo.snapshot(run, T1)[0])
    assert f"{count - 1} of {count} rows reached the sqlite online store" in str(caught.value)
    assert repo.intervals(store) == []
    assert repo.recorded() == []

    lossy(0)
    repo.materialize(store, T1)
    assert len(repo.recorded()) == 1
