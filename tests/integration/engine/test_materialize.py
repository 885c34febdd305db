"""`feast materialize` with the engine: encode, store, serve, record."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from unirep_feast.feature_store.torch_data import online_user_vectors, user_vectors
from unirep_feast.instants import parse_instant

T0, T1, T2 = "2020-03-01T00:00:00Z", "2020-03-10T12:00:00Z", "2020-03-20T00:00:00Z"
START = "2020-01-01T00:00:00Z"


def test_commands_alone_fill_both_stores(engine_repo: Any, unirep: Any) -> None:
    """apply, train, materialize: offline and online hold the vectors, and who made them is told."""
    repo = engine_repo()

    applied = repo.feast("apply")

    assert applied.returncode == 0, applied.stderr
    assert unirep("train", repo.shop.path).returncode == 0

    done = repo.feast("materialize", START[:-1], T1[:-1])

    assert done.returncode == 0, done.stderr
    assert "━" not in done.stderr  # a progress bar is for terminals
    store = repo.store(apply=False)
    run = repo.catalog().promoted("shop").id
    repo.expect(store, run, T1)
    ids, vectors = repo.snapshot(run, T1)
    rows = pd.DataFrame({"user_id": ids, "event_timestamp": pd.Timestamp(T1)})
    offline = user_vectors(store, "shop", rows)
    assert offline.mask.all()
    assert offline.vectors.numpy().tobytes() == vectors.tobytes()
    assert repo.intervals(store) == [(START, T1)]
    assert repo.recorded() == [(T1, "sqlite", "shop/shop", len(ids))]
    shown = json.loads(unirep("runs", "show", run, "--json", "--catalog", repo.shop.catalog).stdout)
    assert [row["rows"] for row in shown["materializations"]] == [len(ids)]


def test_every_store_serves_the_snapshot(any_repo: Any) -> None:
    """SQLite, Redis and PostgreSQL: bit-equal, twice over, each time recorded."""
    run = any_repo.train()
    store = any_repo.store()
    try:
        any_repo.materialize(store, T0)
        any_repo.expect(store, run, T0)
        any_repo.materialize(store, T1)
        any_repo.materialize(store, T1)

        any_repo.expect(store, run, T1)
        assert any_repo.intervals(store) == [(START, T0), (START, T1), (START, T1)]
        kind = any_repo.online["type"]
        rows = [len(any_repo.snapshot(run, time)[0]) for time in (T0, T1, T1)]
        name = f"{any_repo.project}/shop"
        assert any_repo.recorded() == [
            (time, kind, name, count) for time, count in zip((T0, T1, T1), rows, strict=True)
        ]
    finally:
        store.teardown()


def test_stock_feast_stores_the_same_bytes(repo: Any) -> None:
    """Without the batch_engine lines, the same snapshots lead to the same bytes online.

    With a window of days, users leave the snapshots; the older vector within the interval stays
    with them, as in Feast, and one before the interval does not.
    """
    settings = {"max_days": 12.0, "max_events": None}
    repo.train(encoder__settings=settings)
    store = repo.store()
    repo.materialize(store, T0)
    gone = set(repo.snapshot(repo.catalog().promoted("shop").id, T0)[0])
    store.teardown()
    store = repo.store()
    repo.materialize(store, T1)
    store.teardown()
    store = repo.store()

    repo.materialize(store, "2020-03-05", T2)

    ours = repo.stored()
    store.teardown()
    repo.engine = None
    stock = repo.store()
    repo.materialize(stock, "2020-03-05", T2)
    assert ours == repo.stored()
    run = repo.catalog().promoted("shop").id
    first, last = (set(repo.snapshot(run, time)[0]) for time in (T1, T2))
    served = online_user_vectors(stock, "shop", sorted(first | last | gone)).mask
    assert len(first - last) > 0
    assert len(gone - first - last) > 0
    assert int(served.sum()) == len(first | last)


def test_incremental_materialize_goes_on_from_the_last_interval(repo: Any) -> None:
    """materialize-incremental encodes as of its end and records intervals as stock Feast does."""
    run = repo.train()
    store = repo.store()
    repo.materialize(store, T0)

    store.materialize_incremental(pd.Timestamp(T1).to_pydatetime())

    repo.expect(store, run, T1)
    assert repo.intervals(store) == [(START, T0), (T0, T1)]


def test_an_older_snapshot_never_overwrites(any_repo: Any, caplog: Any) -> None:
    """What is online stays as it is, and it is said how many rows were left out."""
    run = any_repo.train()
    store = any_repo.store()
    try:
        any_repo.materialize(store, T1)
        before = None if any_repo.online["type"] == "postgres" else any_repo.stored()

        any_repo.materialize(store, T0)

        any_repo.expect(store, run, T1)
        assert before is None or any_repo.stored() == before
        ids, _ = any_repo.snapshot(run, T0)
        said = f"shop: {len(ids)} of {len(ids)} rows as of {T0} were left out"
        assert said in caplog.text
        assert any_repo.recorded()[-1][0::3] == (T0, 0)
        assert any_repo.intervals(store)[-1] == (START, T0)
    finally:
        store.teardown()


def test_another_run_replaces_all_of_the_one_before(any_repo: Any) -> None:
    """Promoting, and going back, never leaves two spaces in one table: at the same time T, at an
    earlier one, and for users whom the new run does not know."""
    first = any_repo.train()
    store = any_repo.store()
    try:
        any_repo.materialize(store, T1)
        everybody, _ = any_repo.snapshot(first, T1)
        # A window of days leaves users out; the dimension changes, so the view is applied again.
        second = any_repo.train(encoder__settings={"max_days": 12.0, "dim": 4})
        store = any_repo.store()

        any_repo.materialize(store, T1)

        any_repo.expect(store, second, T1)
        known, _ = any_repo.snapshot(second, T1)
        assert 0 < len(known) < len(everybody)
        served = online_user_vectors(store, "shop", everybody)
        assert sorted(np.array(everybody)[served.mask.numpy()].tolist()) == sorted(known)
        assert served.reshape().shape == (len(everybody), 1, 4)

        any_repo.promote(first)
        store = any_repo.store()
        any_repo.materialize(store, T0)

        any_repo.expect(store, first, T0)
        served = online_user_vectors(store, "shop", everybody)
        assert int(served.mask.sum()) == len(any_repo.snapshot(first, T0)[0])
    finally:
        store.teardown()


def test_string_ids_and_a_source_with_names_of_its_own(engine_repo: Any, tmp_path: Path) -> None:
    """A log of string ids; a hand-made view with our tags whose source maps column names."""
    from feast import FeatureView, Field, FileSource
    from feast.types import Array, Float32, String

    from unirep_feast.feature_store.views import representation
    from unirep_feast.testing.world import make_world

    repo = engine_repo()
    repo.shop.log(make_world(users=60, items=30, string_ids=True).events)
    run = repo.train()
    ours = representation(repo.shop.path)
    history = tmp_path / "history.parquet"
    source = FileSource(
        name="history",
        path=str(history),
        timestamp_field="event_timestamp",
        created_timestamp_column="created",
        field_mapping={"vector": "taste"},
    )
    pq.write_table(
        pa.table(
            {
                "vector": pa.array([], pa.list_(pa.float32())),
                "user_id": pa.array([], pa.string()),
                "created": pa.array([], pa.timestamp("us", "UTC")),
                "event_timestamp": pa.array([], pa.timestamp("us", "UTC")),
            }
        ),
        history,
    )
    view = FeatureView(
        name="tastes",
        entities=[ours.entity],
        schema=[Field(name="user_id", dtype=String), Field(name="taste", dtype=Array(Float32))],
        source=source,
        tags=ours.view.tags,
    )
    store = repo.store()
    store.apply([*ours, view])

    repo.materialize(store, T1)

    repo.expect(store, run, T1)
    ids, vectors = repo.snapshot(run, T1)
    found = store.get_online_features(["tastes:taste"], [{"user_id": user} for user in ids])
    assert np.array_equal(np.float32(found.to_dict()["taste"]), vectors)
    rows = pd.DataFrame({"user_id": ids, "event_timestamp": pd.Timestamp(T2)})
    offline = store.get_historical_features(rows, ["tastes:taste"]).to_df()
    offline = offline.set_index("user_id").loc[ids]
    assert np.array_equal(np.stack(offline["taste"].to_numpy()), vectors)
    assert {row[2] for row in repo.recorded()} == {"shop/shop", "shop/tastes"}


def test_incremental_encoding_gives_the_same_snapshot(engine_repo: Any, caplog: Any) -> None:
    """With `incremental: true` the second snapshot is carried over in part, and bit-equal."""
    caplog.set_level("INFO")
    repo = engine_repo(engine={"incremental": True})
    run = repo.train()
    store = repo.store()
    repo.materialize(store, T0)
    repo.materialize(store, T1)

    assert "has no snapshot before" in caplog.text
    assert "are carried over" in caplog.text
    path = repo.shop.home / "snapshots" / run / "20200310T120000Z.parquet"
    carried = path.read_bytes()
    path.unlink()
    from unirep_feast.pipeline import encode

    assert encode(repo.shop.parsed(), parse_instant(T1)).path.read_bytes() == carried
    repo.expect(store, run, T1)


def test_events_may_come_from_the_repo_itself(engine_repo: Any) -> None:
    """A spec that names a Feast source is read through Feast, by `unirep train` and the engine."""
    repo = engine_repo(
        more=(
            "\nfrom feast import FileSource\n"
            "log = FileSource(name='log', path='events.parquet', "
            "timestamp_field='event_timestamp')\n"
        )
    )
    repo.shop.write(
        events={"feast": {"repo": ".", "source": "log"}},
        view={"key_type": "int64"},
    )
    repo.write()
    assert repo.feast("apply").returncode == 0
    from click.testing import CliRunner

    from unirep_feast.cli import main

    trained = CliRunner().invoke(main, ["train", str(repo.shop.path)])
    assert trained.exit_code == 0, trained.output
    store = repo.store(apply=False)

    repo.materialize(store, T1)

    repo.expect(store, repo.catalog().promoted("shop").id, T1)


def test_a_catalog_with_a_password_is_named_to_the_engine(
    engine_repo: Any, postgres_url: str
) -> None:
    """Its URL is in no tag; the engine's own key brings it back, and all is recorded there."""
    from unirep_feast.catalog import Catalog
    from unirep_feast.feature_store.engine import EngineError
    from unirep_feast.pipeline import train

    url = postgres_url.replace("postgres@", "postgres:secret@")
    repo = engine_repo()
    repo.shop.write(catalog=url)
    run = train(repo.shop.parsed()).run
    store = repo.store()
    assert "secret" not in str(store.get_feature_view("shop").tags)
    with pytest.raises(EngineError, match="there is no catalog at sqlite"):
        repo.materialize(store, T1)

    repo.engine = {"catalog": url}
    store = repo.store()
    repo.materialize(store, T1)

    repo.expect(store, run, T1)
    assert len(Catalog(url, create=False).lineage(run).materializations) == 1


def test_people_see_progress(engine_repo: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal two bars are drawn on stderr: encoding, and writing."""
    repo = engine_repo()
    repo.train()
    store = repo.store()
    import pty

    reader, writer = pty.openpty()
    with os.fdopen(writer, "w") as terminal, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", terminal)
        patch.setenv("TERM", "xterm")
        patch.setenv("COLUMNS", "120")
        repo.materialize(store, T1)
        terminal.flush()
        os.set_blocking(reader, False)
        shown = os.read(reader, 1 << 20).decode(errors="replace")
    os.close(reader)

    assert f"shop: encoding as of {T1}" in shown
    assert "shop: writing to sqlite" in shown


def test_users_of_earlier_snapshots_of_another_run_go_too(any_repo: Any) -> None:
    """One materialize may serve users of several snapshots; after a promotion all of them who are
    unknown to the new run lose their vectors, not only those of the snapshot it was recorded as."""
    from unirep_feast.pipeline import encode

    settings = {"max_days": 12.0, "max_events": None}
    first = any_repo.train(encoder__settings=settings)
    encode(any_repo.shop.parsed(), parse_instant(T0))
    store = any_repo.store()
    try:
        any_repo.materialize(store, T2)
        gone = set(any_repo.snapshot(first, T0)[0]) - set(any_repo.snapshot(first, T2)[0])
        assert gone
        assert online_user_vectors(store, "shop", sorted(gone)).mask.all()
        second = any_repo.train()

        any_repo.materialize(store, T2)

        any_repo.expect(store, second, T2)
        assert not online_user_vectors(store, "shop", sorted(gone)).mask.any()
    finally:
        store.teardown()
