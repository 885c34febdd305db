"""Every stored byte is the one that Feast's own store writes: SHA-256 over all that is stored."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pyarrow as pa
import pytest

from unirep_feast.feature_store.online_writer import redis_writer, sqlite_writer, write_online


@pytest.mark.parametrize("width", [1, 16, 128, 1280, 4096])
@pytest.mark.parametrize("keys", ["int64", "string", "interest", "mixed"])
def test_keys_and_widths(same: Callable[..., Any], lab: Any, keys: str, width: int) -> None:
    """For every kind of key and K x D, each stored byte is the one Feast stores."""
    view = lab.view(keys)
    same(view, lab.rows(view, width=width))


@pytest.mark.parametrize("keys", ["int64", "string"])
def test_nulls(same: Callable[..., Any], lab: Any, keys: str) -> None:
    """Missing vectors, numbers and times are stored as Feast stores them."""
    view = lab.view(keys)
    same(view, lab.rows(view, nulls=True))


def test_without_created(same: Callable[..., Any], lab: Any) -> None:
    """A source without a created column leaves the created time empty, as Feast does."""
    view = lab.view(created=False)
    same(view, lab.rows(view))


def test_missing_created_times(sqlite: Any, lab: Any) -> None:
    """A row without a created time, on which Feast's SQLite store fails, is stored without one."""
    view = lab.view()
    table = lab.rows(view, rows=3)
    created = pa.array([lab.early, None, lab.early], pa.timestamp("us", "UTC"))
    table = table.set_column(table.schema.get_field_index("created"), "created", created)
    write_online(lab.ready(sqlite.config("ours"), view), view, [table])
    with sqlite3.connect(sqlite.folder / "ours.db") as connection:
        query = "SELECT DISTINCT entity_key, created_ts IS NULL FROM shop_users"
        empty = [empty for _, empty in connection.execute(query).fetchall()]
    assert sorted(empty) == [0, 0, 1]


@pytest.mark.parametrize("backend", ["redis"], indirect=True)
@pytest.mark.parametrize("options", [{"skip_dedup": True}, {"key_ttl_seconds": 600}, {}])
def test_redis_older_after_newer(
    same: Callable[..., Any], lab: Any, options: dict[str, Any]
) -> None:
    """An older snapshot after a newer one ends as with Feast: with dedup, without, and expiring."""
    view = lab.view()
    newer, older = lab.rows(view, when=lab.late, seed=1), lab.rows(view, rows=50, seed=2)
    reports = same(view, newer, older, **options)
    assert reports[0].skipped == 0
    assert reports[1].skipped == (0 if options.get("skip_dedup") else 40)


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_sqlite_older_after_newer(same: Callable[..., Any], lab: Any) -> None:
    """Feast's SQLite store keeps no newer rows, and left to itself neither do we."""
    view = lab.view()
    same(view, lab.rows(view, when=lab.late, seed=1), lab.rows(view, rows=50, seed=2))


def test_the_same_time_again(same: Callable[..., Any], lab: Any, backend: Any) -> None:
    """Other vectors as of the same time replace the first in SQLite and not in Redis, as stock."""
    view = lab.view()
    reports = same(view, lab.rows(view, seed=1), lab.rows(view, seed=2))
    assert reports[1].skipped == (40 if hasattr(backend, "client") else 0)


@pytest.mark.parametrize("skip_dedup", [False, True])
def test_one_user_several_times(
    same: Callable[..., Any], lab: Any, backend: Any, skip_dedup: bool
) -> None:
    """Rows of one user at several times in one batch leave the row that Feast leaves."""
    view = lab.view()
    tick = timedelta(microseconds=1)
    times = [lab.late, lab.early, lab.late, lab.early + tick, lab.late + tick, lab.early]
    tables = [lab.rows(view, when=when, seed=seed, rows=9) for seed, when in enumerate(times)]
    options = {"skip_dedup": skip_dedup} if hasattr(backend, "client") else {}
    same(view, pa.concat_tables(tables), **options)


def test_newer_after_older_with_more_users(same: Callable[..., Any], lab: Any) -> None:
    """Each next snapshot replaces what is there and adds its new users."""
    view = lab.view("string")
    days = [lab.early + timedelta(days=day) for day in range(3)]
    same(view, *(lab.rows(view, when=when, rows=20 + 9 * n) for n, when in enumerate(days)))


def test_many_small_slices(
    same: Callable[..., Any], lab: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chunked tables, record batches and slices of a few rows end in the same store."""
    monkeypatch.setattr(sqlite_writer, "SHEAF_BYTES", 700)
    monkeypatch.setattr(sqlite_writer, "_FEATURES", 3)
    monkeypatch.setattr(redis_writer, "SLICE_BYTES", 700)
    view = lab.view("string")

    def batches(table: pa.Table) -> Iterator[pa.Table | pa.RecordBatch]:
        yield pa.concat_tables([table.slice(0, 11), table.slice(11, 0), table.slice(11, 3)])
        yield from table.slice(14).to_batches(max_chunksize=8)
        yield table.slice(0, 0)

    same(view, lab.rows(view, nulls=True), ours=batches)


def test_two_views_share_an_entity(lab: Any, backend: Any) -> None:
    """Views of one entity, which share a key in Redis, keep to their own fields."""
    for writer in ("stock", "ours"):
        config = backend.config(writer)
        for name, when in (("users", lab.late), ("others", lab.early)):
            view = lab.view(name=name)
            table = lab.rows(view, seed=len(name), when=when)
            lab.ready(config, view)
            if writer == "stock":
                lab.write_stock(config, view, table)
            else:
                assert write_online(config, view, [table]).skipped == 0
    assert backend.dump("ours") == backend.dump("stock")
