"""Servers that go, files that are locked, full or read-only, and processes that are killed."""

from __future__ import annotations

import json
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from feast.infra.online_stores.helpers import get_online_store_from_config

from unirep_feast.errors import StoreError
from unirep_feast.feature_store.online_writer import (
    generic_writer,
    redis_writer,
    sqlite_writer,
    write_online,
)

SECRET = "a-password"  # must not show in errors


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[Callable[..., tuple[subprocess.Popen[bytes], str]]]:
    """Start Redis servers of the test's own, which it may kill."""
    if shutil.which("redis-server") is None:
        pytest.skip("needs redis-server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started: list[subprocess.Popen[bytes]] = []

    def start(*options: str) -> tuple[subprocess.Popen[bytes], str]:
        import redis

        command = ["redis-server", "--port", str(port), "--save", "", "--dir", str(tmp_path)]
        process = subprocess.Popen([*command, *options], stdout=subprocess.DEVNULL)
        started.append(process)
        password = SECRET if "--requirepass" in options else None
        client = redis.Redis(port=port, password=password)
        for _ in range(100):
            try:
                client.ping()
                break
            except redis.exceptions.ConnectionError:
                time.sleep(0.05)
        return process, f"127.0.0.1:{port}"

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_redis_gone_in_mid_write(lab: Any, own_redis: Any) -> None:
    """Redis killed between two batches is one line without the password; a rerun completes."""
    process, server = own_redis("--requirepass", SECRET)
    connection = f"{server},password={SECRET}"
    config = lab.config({"type": "redis", "connection_string": connection})
    view = lab.view()

    def batches() -> Iterator[pa.Table]:
        yield lab.rows(view, first=0)
        process.kill()
        process.wait()
        yield lab.rows(view, first=100)

    with pytest.raises(StoreError, match=f"online store Redis at {server}: ") as caught:
        write_online(config, view, batches())
    assert "nothing is recorded" in str(caught.value)
    assert SECRET not in str(caught.value)
    assert "\n" not in str(caught.value)
    own_redis("--requirepass", SECRET)
    report = write_online(config, view, [lab.rows(view, first=0), lab.rows(view, first=100)])
    assert (report.rows, report.skipped) == (80, 0)


def test_redis_connection_lost_between_batches(lab: Any, redis: Any) -> None:
    """A connection that the server closed is taken up again, as Feast's own client does."""
    view = lab.view()
    config = redis.config("ours")
    store = get_online_store_from_config(config.online_store)

    def batches() -> Iterator[pa.Table]:
        yield lab.rows(view, first=0)
        redis.client.client_kill_filter(_id=store._client.client_id())
        yield lab.rows(view, first=100)

    assert write_online(config, view, batches(), store=store).rows == 80
    assert redis.dump("ours")[1] == 80


def test_redis_out_of_memory(lab: Any, own_redis: Any) -> None:
    """A Redis that may not take more says so."""
    _, server = own_redis("--maxmemory", "3mb", "--maxmemory-policy", "noeviction")
    config = lab.config({"type": "redis", "connection_string": server})
    view = lab.view()
    with pytest.raises(StoreError, match=r"command not allowed when used memory > .maxmemory"):
        write_online(config, view, [lab.rows(view, 2000, width=1280)])


def test_redis_that_evicts(lab: Any, own_redis: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Redis that drops rows to make room is noticed by the count."""
    monkeypatch.setattr(redis_writer, "SLICE_BYTES", 64 << 20)
    _, server = own_redis("--maxmemory", "6mb", "--maxmemory-policy", "allkeys-lru")
    config = lab.config({"type": "redis", "connection_string": server})
    view = lab.view()
    with pytest.raises(StoreError, match=r"Redis holds [\d,]+ of 4,000 keys just written; it evi"):
        write_online(config, view, [lab.rows(view, 4000, width=1280)])


def test_sqlite_locked(lab: Any, sqlite: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock that lasts is one line; the file is as before, and free for the next write."""
    monkeypatch.setattr(sqlite_writer, "BUSY_SECONDS", 0.2)
    view = lab.view()
    config = lab.ready(sqlite.config("ours"), view)
    other = sqlite3.connect(sqlite.folder / "ours.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StoreError, match=r"ours.db: database is locked; .* wait for the other"):
        write_online(config, view, [lab.rows(view)])
    other.execute("COMMIT")
    assert write_online(config, view, [lab.rows(view)]).rows == 40
    other.close()


@pytest.mark.parametrize(
    ("pragma", "message"),
    [
        ("max_page_count = 20", "database or disk is full; .* free disk space"),
        ("query_only = 1", "attempt to write a readonly database; .* make the file"),
    ],
)
def test_sqlite_full_or_read_only(lab: Any, sqlite: Any, pragma: str, message: str) -> None:
    """A full disk and a file that may not be written are one line, and leave the old rows."""
    view = lab.view()
    config = lab.ready(sqlite.config("ours"), view)
    write_online(config, view, [lab.rows(view, 10)])
    before = sqlite.dump("ours")
    store = get_online_store_from_config(config.online_store)
    store._get_conn(config).execute(f"PRAGMA {pragma}")
    with pytest.raises(StoreError, match=message):
        write_online(config, view, [lab.rows(view, 2000, width=128, seed=1)], store=store)
    assert sqlite.dump("ours") == before


def test_sqlite_not_applied(lab: Any, sqlite: Any) -> None:
    """A view that was never applied says what to run, and a missing folder is named."""
    view = lab.view()
    with pytest.raises(StoreError, match=r"no such table: shop_users; .* run `feast apply` first"):
        write_online(sqlite.config("ours"), view, [lab.rows(view)])
    with pytest.raises(StoreError, match=r"none/none/x.db: unable to open: No such file"):
        config = lab.config({"type": "sqlite", "path": str(sqlite.folder / "none/none/x.db")})
        write_online(config, view, [lab.rows(view)])


def test_sqlite_that_loses_rows(lab: Any, sqlite: Any) -> None:
    """Rows that are gone again after the commit are noticed by looking some of them up."""
    view = lab.view()
    config = lab.ready(sqlite.config("ours"), view)
    with sqlite3.connect(sqlite.folder / "ours.db") as connection:
        connection.execute(
            "CREATE TRIGGER lose AFTER INSERT ON shop_users WHEN new.feature_name = 'vector' "
            "BEGIN DELETE FROM shop_users WHERE rowid = new.rowid; END"
        )
    with pytest.raises(StoreError, match="users: SQLite holds 120 of 160 values just written"):
        write_online(config, view, [lab.rows(view)])


def test_two_sqlite_writers_at_once(lab: Any, sqlite: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second of two writers waits for the first, and does not undo its newer rows."""
    monkeypatch.setattr(sqlite_writer, "SHEAF_BYTES", 700)
    view = lab.view()
    config = lab.ready(sqlite.config("ours"), view)
    newer = lab.rows(view, when=lab.late, seed=1)
    second = ThreadPoolExecutor(1)
    waiting = []

    def batches() -> Iterator[pa.Table]:
        yield newer.slice(0, 20)
        older = [lab.rows(view, seed=2)]
        waiting.append(second.submit(write_online, config, view, older, stored="keep_newer"))
        time.sleep(0.3)
        yield newer.slice(20)

    with second:
        write_online(config, view, batches(), stored="keep_newer")
        assert waiting[0].result().skipped == 40
    after = sqlite.dump("ours")
    lab.write_stock(lab.ready(sqlite.config("stock"), view), view, newer)
    assert after == sqlite.dump("stock")


def test_failing_batches_undo_the_write(lab: Any, sqlite: Any) -> None:
    """An error of whoever makes the batches passes through, and the transaction is undone."""
    view = lab.view()
    config = lab.ready(sqlite.config("ours"), view)
    store = get_online_store_from_config(config.online_store)

    def batches() -> Iterator[pa.Table]:
        yield lab.rows(view)
        raise KeyError("made up")

    with pytest.raises(KeyError, match="made up"):
        write_online(config, view, batches(), store=store)
    assert not store._get_conn(config).in_transaction
    assert sqlite.dump("ours")[1] == 0


KILLED = """
import json, os, signal, sys
import pyarrow.parquet as pq
from feast import FeatureStore
from unirep_feast.feature_store.online_writer import write_online

store = FeatureStore(sys.argv[1])
store.config.materialization_config.online_write_batch_size = json.loads(sys.argv[2])
view = store.get_feature_view("users")
done = 0

def batches():
    global done
    for batch in pq.ParquetFile(f"{sys.argv[1]}/rows.parquet").iter_batches(500):
        if done == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        yield batch
        done += 1

write_online(store.config, view, batches())
"""


@pytest.mark.parametrize(("size", "kept"), [(None, 0), (1000, 2000)])
def test_kill_leaves_whole_transactions(
    lab: Any, sqlite: Any, tmp_path: Path, size: int | None, kept: int
) -> None:
    """After kill -9 a reader finds what was committed, all rows of it, and a rerun completes."""
    import pyarrow.parquet as pq
    from feast import FeatureStore

    view = lab.view()
    (tmp_path / "none.parquet").touch()
    (tmp_path / "feature_store.yaml").write_text(
        json.dumps(
            {
                "project": "shop",
                "provider": "local",
                "registry": "registry.db",
                "online_store": {"type": "sqlite", "path": "ours.db"},
                "offline_store": {"type": "duckdb"},
                "entity_key_serialization_version": 3,
            }
        )
    )
    store = FeatureStore(str(tmp_path))
    store.apply([*_entities(view), view])
    old = lab.rows(view, 3000, seed=1)
    write_online(store.config, store.get_feature_view("users"), [old])
    new = lab.rows(view, 3000, seed=2, when=lab.late)
    pq.write_table(new, tmp_path / "rows.parquet")
    command = [sys.executable, "-c", KILLED, str(tmp_path), json.dumps(size)]
    assert subprocess.run(command, stderr=subprocess.DEVNULL).returncode == -9
    ids = new["user_id"].to_pylist()
    found = _vectors(store, ids)
    assert found == [*new["vector"].to_pylist()[:kept], *old["vector"].to_pylist()[kept:]]
    view = store.get_feature_view("users")
    write_online(store.config, view, [new])
    assert _vectors(store, ids) == new["vector"].to_pylist()


def test_generic_store_fails(lab: Any, sqlite: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a store's driver raises, and rows that a store swallows, are one line."""
    monkeypatch.setattr(generic_writer, "_PAUSES", (0.0,))
    view = lab.view()
    config = lab.ready(sqlite.config("ours", enable_openai_compatible_store=True), view)
    store = get_online_store_from_config(config.online_store)
    monkeypatch.setattr(store, "online_write_batch", lambda *_: None)
    with pytest.raises(StoreError, match="SqliteOnlineStore: 40 of 40 rows of users looked up"):
        write_online(config, view, [lab.rows(view)], store=store)

    def fail(*_: Any) -> None:
        raise RuntimeError("no\nroute to host")

    monkeypatch.setattr(store, "online_write_batch", fail)
    with pytest.raises(StoreError, match="online store SqliteOnlineStore: no route to host; part"):
        write_online(config, view, [lab.rows(view)], store=store)


def _entities(view: Any) -> list[Any]:
    from feast import Entity, ValueType

    return [Entity(name="user_id", join_keys=["user_id"], value_type=ValueType.INT64)]


def _vectors(store: Any, ids: list[int]) -> list[Any]:
    found = store.get_online_features(["users:vector"], [{"user_id": user} for user in ids])
    vectors: list[Any] = found.to_dict()["vector"]
    return vectors
