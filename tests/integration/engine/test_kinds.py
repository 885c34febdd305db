"""Users, items and interests: one encode fills them all, offline and online, as Feast would."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from feast import Entity, FeatureService, FeatureView, Field, FileSource
from feast.types import Array, Float32, Int64

from unirep_feast.feature_store.engine import EngineError
from unirep_feast.feature_store.tags import kind_of
from unirep_feast.feature_store.views import RepresentationError, representation
from unirep_feast.instants import parse_instant
from unirep_feast.snapshot import KINDS, snapshot_path

T0, T1 = "2020-03-01T00:00:00Z", "2020-03-10T12:00:00Z"
START = "2020-01-01T00:00:00Z"
SETTINGS = {"vectors": 3, "dim": 4, "slots": True}
VIEWS = {"user": "shop", "item": "shop_items", "interest": "shop_interests"}
KEYS = {"user": ["user_id"], "item": ["item_id"], "interest": ["user_id", "interest"]}


def with_kinds(repo: Any, **view: Any) -> Any:
    """The shop with all three kinds of vectors."""
    repo.shop.write(view={"items": True, "per_interest": True, **view})
    repo.shop.write(encoder__settings=SETTINGS)
    repo.write()
    return repo


def table(repo: Any, run: str, kind: Any, time: str = T1) -> dict[tuple[Any, ...], list[float]]:
    """A snapshot as a dictionary from keys to vectors."""
    found = pq.read_table(snapshot_path(repo.shop.home, run, parse_instant(time), kind))
    keys = zip(*(found[key].to_pylist() for key in KEYS[kind]), strict=True)
    return dict(zip(keys, found["vector"].to_pylist(), strict=True))


def online(store: Any, kind: str, keys: list[tuple[Any, ...]]) -> list[list[float] | None]:
    """Vectors as Feast serves them."""
    rows = [dict(zip(KEYS[kind], key, strict=True)) for key in keys]
    vectors: list[list[float] | None] = store.get_online_features(
        [f"{VIEWS[kind]}:vector"], rows
    ).to_dict()["vector"]
    return vectors


def expect(repo: Any, store: Any, run: str, time: str = T1) -> None:
    """Online is what the snapshots of a run as of a time hold, of every kind."""
    for kind in KINDS:
        wanted = table(repo, run, kind, time)
        assert online(store, kind, list(wanted)) == list(wanted.values())


@pytest.mark.slow  # the shipped repo shows the same on SQLite, in test_feature_repo.py
def test_two_commands_fill_all_stores_and_stock_feast_agrees(engine_repo: Any, unirep: Any) -> None:
    """After training, `feast apply && feast materialize START END` alone fills offline and online
    for users, items and interests; without the batch_engine lines the stock engine stores the
    same bytes from the same snapshots."""
    repo = with_kinds(engine_repo())
    assert unirep("train", repo.shop.path).returncode == 0

    for arguments in (["apply"], ["materialize", START[:-1], T1[:-1]]):
        done = repo.feast(*arguments)
        assert done.returncode == 0, done.stderr

    ours = repo.stored()
    store = repo.store(apply=False)
    run = repo.catalog().promoted("shop").id
    expect(repo, store, run)
    for kind in KINDS:
        wanted = table(repo, run, kind)
        rows = pd.DataFrame(list(wanted), columns=KEYS[kind])
        rows["event_timestamp"] = pd.Timestamp(T1)
        found = store.get_historical_features(rows, [f"{VIEWS[kind]}:vector"]).to_df()
        got = {tuple(row[key] for key in KEYS[kind]): row["vector"] for _, row in found.iterrows()}
        assert {key: list(vector) for key, vector in got.items()} == wanted
    rows_of = {row[2]: row[3] for row in repo.recorded()}
    assert rows_of == {f"shop/{VIEWS[kind]}": len(table(repo, run, kind)) for kind in KINDS}

    for name in ("online.db", "registry.db"):
        (repo.folder / "data" / name).unlink()
    repo.engine = None
    repo.write()
    assert "batch_engine" not in (repo.folder / "feature_store.yaml").read_text()
    for arguments in (["apply"], ["materialize", START[:-1], T1[:-1]]):
        done = repo.feast(*arguments)
        assert done.returncode == 0, done.stderr

    assert len(ours) == 3 and all(ours)
    assert repo.stored() == ours


@pytest.mark.parametrize("kind", ["redis", "postgres"])
def test_other_stores_serve_all_kinds(engine_repo: Any, kind: str) -> None:
    """On Redis the bytes are those of stock Feast too; PostgreSQL goes through Feast's writer."""
    repo = with_kinds(engine_repo(kind))
    run = repo.train()
    store = repo.store()
    try:
        repo.materialize(store, T0)
        repo.materialize(store, T1)

        expect(repo, store, run)
        if kind == "redis":
            store.teardown()
            repo.materialize(repo.store(), T0, T1)
            ours = repo.stored()
            repo.store().teardown()
            repo.engine = None
            repo.materialize(repo.store(), T0, T1)
            assert repo.stored() == ours
    finally:
        store.teardown()


def test_one_encode_serves_all_views(engine_repo: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log is read and the encoder built once for three views."""
    from unirep_feast.pipeline import snapshots

    repo = with_kinds(engine_repo())
    repo.train()
    store = repo.store()
    loaded: list[int] = []
    load = snapshots.load_encoder

    def counting(*arguments: Any) -> Any:
        loaded.append(1)
        return load(*arguments)

    monkeypatch.setattr(snapshots, "load_encoder", counting)

    repo.materialize(store, T1)

    assert len(loaded) == 1


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
def test_another_run_replaces_every_kind(engine_repo: Any, kind: str) -> None:
    """Promoting a run with fewer interests, which knows fewer items, and going back: no row of the
    other space is served, whatever its time."""
    repo = with_kinds(engine_repo(kind))
    first = repo.train()
    store = repo.store()
    try:
        repo.materialize(store, T1)
        everything = {one: list(table(repo, first, one)) for one in KINDS}
        repo.shop.write(vocabulary={"max_items": 12})
        second = repo.train(encoder__settings={**SETTINGS, "vectors": 2})
        store = repo.store()

        repo.materialize(store, T1)

        expect(repo, store, second)
        for one in KINDS:
            known = table(repo, second, one)
            served = online(store, one, everything[one])
            pairs = zip(everything[one], served, strict=True)
            assert [vector for _, vector in pairs] == [known.get(key) for key in everything[one]]
        assert len(table(repo, second, "item")) == 12 < len(everything["item"])
        assert len(table(repo, second, "interest")) < len(everything["interest"])

        repo.promote(first)
        store = repo.store()
        repo.materialize(store, T0)
        expect(repo, store, first, T0)
    finally:
        store.teardown()


def test_a_lost_interest_keeps_its_last_vector(engine_repo: Any) -> None:
    """Of every (user, interest) the latest row within the interval, which is Feast's rule; `slots`
    of the user's row tells which interests are his now."""
    repo = with_kinds(engine_repo())
    run = repo.train()
    store = repo.store()
    repo.materialize(store, T0)
    repo.materialize(store, T1)

    before, now = table(repo, run, "interest", T0), table(repo, run, "interest", T1)
    lost = [key for key in before if key not in now]
    assert lost
    assert online(store, "interest", lost) == [before[key] for key in lost]
    users = sorted({key[0] for key in now})
    rows = [{"user_id": user} for user in users]
    slots = store.get_online_features(["shop:slots"], rows).to_dict()["slots"]
    assert [(user, slot) for user, own in zip(users, slots, strict=True) for slot in own] == list(
        now
    )

    ours = repo.stored()
    store.teardown()
    repo.engine = None
    stock = repo.store()
    repo.materialize(stock, T1)
    assert repo.stored() == ours


KILLED_BETWEEN = """
import os, signal, sys
from datetime import datetime
from feast import FeatureStore
from unirep_feast.catalog import Catalog
from unirep_feast.pipeline import snapshots
folder, where, end = sys.argv[1:]
deadly = lambda *arguments, **options: os.kill(os.getpid(), signal.SIGKILL)
add = Catalog.add_snapshot
if where == "before items are recorded":
    Catalog.add_snapshot = lambda self, *a, **o: (
        deadly() if o["entity"] == "item" else add(self, *a, **o))
else:
    setattr(snapshots, where, deadly)
FeatureStore(folder).materialize(datetime(2020, 1, 1), datetime.fromisoformat(end))
"""


@pytest.mark.parametrize("where", ["write_items", "before items are recorded", "write_interests"])
def test_killed_between_kinds(engine_repo: Any, where: str) -> None:
    """Nothing is served or recorded half; the next materialize makes what is missing, and only
    that."""
    repo = with_kinds(engine_repo())
    run = repo.train()
    store = repo.store()
    command = [sys.executable, "-c", KILLED_BETWEEN, str(repo.folder), where, T1]

    killed = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)

    assert killed.returncode == -9, killed.stderr
    assert repo.intervals(store) == [] and repo.recorded() == []
    users = snapshot_path(repo.shop.home, run, parse_instant(T1))
    stamp = users.stat().st_mtime_ns
    assert not snapshot_path(repo.shop.home, run, parse_instant(T1), "interest").exists()

    store = repo.store()
    repo.materialize(store, T1)

    expect(repo, store, run)
    assert users.stat().st_mtime_ns == stamp


def test_sources_of_ones_own_get_every_kind(engine_repo: Any) -> None:
    """Hand-made views with our tags over single files: each gets its kind's snapshot written."""
    repo = with_kinds(engine_repo())
    run = repo.train()
    made = list(representation(repo.shop.path))
    own = []
    for view in (one for one in made if isinstance(one, FeatureView)):
        source = FileSource(
            name=f"own_{view.name}",
            path=str(repo.folder / f"own_{view.name}.parquet"),
            timestamp_field="event_timestamp",
            created_timestamp_column="created",
        )
        entities = [one for one in made if isinstance(one, Entity) and one.name in view.entities]
        schema = [*view.entity_columns, Field(name="vector", dtype=Array(Float32))]
        own.append(
            FeatureView(
                name=f"own_{view.name}",
                entities=entities,
                schema=schema,
                source=source,
                tags=view.tags,
            )
        )
    store = repo.store(apply=False)
    store.apply([*(one for one in made if isinstance(one, Entity)), *own])

    for time in (T0, T1):
        repo.materialize(store, time)

    for view in own:
        kind = kind_of(view)
        found = pq.read_table(repo.folder / f"{view.name}.parquet")
        rows = found.num_rows
        assert rows == sum(len(table(repo, run, kind, time)) for time in (T0, T1))


def test_services_ask_for_the_keys_of_one_kind(engine_repo: Any) -> None:
    """One service per view, so that users can be fetched without naming an item."""
    repo = with_kinds(engine_repo())
    run = repo.train()
    store = repo.store()
    repo.materialize(store, T1)

    for kind in KINDS:
        (key, vector), *_ = table(repo, run, kind).items()
        service = store.get_feature_service(VIEWS[kind])
        assert isinstance(service, FeatureService)
        found = store.get_online_features(service, [dict(zip(KEYS[kind], key, strict=True))])
        assert found.to_dict()["vector"] == [vector]


# -- what is declared ------------------------------------------------------------------------------


def vector_of(view: FeatureView) -> Field:
    return next(field for field in view.features if field.name == "vector")


def test_vectors_that_can_be_searched_are_marked(engine_repo: Any) -> None:
    """Items and interests with D and the metric, users if K is 1: once a run, or view.dim, tells;
    stores without search take it as it is."""
    repo = with_kinds(engine_repo(), metric="inner_product")
    before = representation(repo.shop.path)
    assert not any(vector_of(one.view).vector_index for one in (before.items, before.interests))
    pinned = representation(repo.shop.path, ["view.dim=4"])
    assert vector_of(pinned.items.view).vector_length == 4
    repo.train()

    made = representation(repo.shop.path)

    for one in (made.items, made.interests):
        field = vector_of(one.view)
        assert (field.vector_index, field.vector_length) == (True, 4)
        assert field.vector_search_metric == "IP"
        assert (one.view.tags["unirep.vectors"], one.view.tags["unirep.dim"]) == ("1", "4")
    assert not vector_of(made.view).vector_index  # three vectors in one
    assert [kind_of(one.view) for one in (made.users, made.items, made.interests)] == list(KINDS)
    repo.train(encoder__settings={**SETTINGS, "vectors": 1})
    assert vector_of(representation(repo.shop.path).view).vector_length == 4
    assert repo.feast("apply").returncode == 0


def test_slots_are_a_feature_of_encoders_that_declare_them(engine_repo: Any) -> None:
    """Array(Int64) beside the vector, as soon as a run is promoted: a snapshot changes nothing."""
    repo = with_kinds(engine_repo())

    def features() -> dict[str, Any]:
        return {field.name: field.dtype for field in representation(repo.shop.path).view.features}

    assert "slots" not in features()
    repo.train()
    before = features()
    assert before["slots"] == Array(Int64)
    repo.materialize(repo.store(), T1)
    assert features() == before
    repo.train(encoder__settings={**SETTINGS, "slots": False})
    assert "slots" not in features()


def test_another_width_than_readers_count_on_is_refused_everywhere(
    engine_repo: Any, cli: Any, refusal: Any
) -> None:
    """view.dim against the run: at `feast apply`, with and without the engine, at materialize, at
    encode and before training; both numbers are named."""
    repo = with_kinds(engine_repo())
    run = repo.train()
    store = repo.store()
    repo.materialize(store, T0)
    stored = repo.stored()
    repo.shop.write(view__dim=6)

    for engine in ({}, None):
        repo.engine = engine
        repo.write()
        applied = repo.feast("apply")
        assert applied.returncode == 1
        assert "Traceback" not in applied.stderr
        assert f"vectors of D=6, the promoted run {run} makes D=4" in applied.stderr
    with pytest.raises(RepresentationError, match=r"D=6, the promoted run .* makes D=4"):
        representation(repo.shop.path)
    for arguments in (["encode", repo.shop.path, "--as-of", T1], ["train", repo.shop.path]):
        assert "count on vectors of D=6, " in refusal(cli(*arguments))
    assert repo.stored() == stored

    repo.shop.write(view__dim=4)
    repo.engine = {}
    store = repo.store()
    repo.shop.write(view__dim=None)
    wide = repo.train(encoder__settings={**SETTINGS, "dim": 5})
    with pytest.raises(EngineError, match=f"D=4, run {wide} makes D=5"):
        repo.materialize(store, T1)
    assert repo.stored() == stored


@pytest.mark.parametrize("length", [3, 12])
def test_an_edited_width_of_items_is_refused_at_apply(engine_repo: Any, length: int) -> None:
    """A view that was changed after representation(...) made it; also K x D where D is meant."""
    repo = with_kinds(engine_repo())
    repo.train()
    made = representation(repo.shop.path)
    assert made.items is not None
    for field in made.items.view.features:
        field.vector_length = length
    store = repo.store(apply=False)

    with pytest.raises(EngineError, match=f"vector_length={length}, .* D=4, 4 numbers"):
        store.apply(list(made))

    assert store.list_feature_views() == []


def test_items_the_run_does_not_have_are_refused(engine_repo: Any) -> None:
    """An encoder without item vectors behind a view of items."""
    repo = with_kinds(engine_repo())
    repo.shop.write(view={"items": False})
    repo.train(encoder={"name": "lab.bare"})
    repo.shop.write(view={"items": True})

    with pytest.raises(EngineError, match=r"'lab\.bare' provides no item vectors"):
        repo.store()


def test_vectors_of_every_kind_are_equal_bits(engine_repo: Any) -> None:
    """A user's interests, laid end to end, are the user's vector."""
    repo = with_kinds(engine_repo())
    run = repo.train()
    repo.materialize(repo.store(), T1)

    users, single = table(repo, run, "user"), table(repo, run, "interest")

    joined = {user: [] for (user,) in users}
    for (user, _), vector in single.items():
        joined[user] += vector
    assert {(user,): vector for user, vector in joined.items()} == users
    assert np.isfinite(list(users.values())).all()
