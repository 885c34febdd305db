"""Killed processes, stores that go, two at once: a rerun completes, readers never suffer."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from unirep_feast.errors import StoreError

T0, T1 = "2020-03-01T00:00:00Z", "2020-03-10T12:00:00Z"
START = "2020-01-01T00:00:00Z"

#: Materializes, and kills itself just before the given function is called for the n-th time.
KILLED = """
import importlib, os, signal, sys
from datetime import datetime
folder, module, name, count, end = sys.argv[1:]
from feast import FeatureStore
from unirep_feast.feature_store import snapshot_rows
snapshot_rows.BATCH_BYTES = 1  # a user at a time
owner = importlib.import_module(module)
*path, last = name.split(".")
for part in path:
    owner = getattr(owner, part)
function, calls = getattr(owner, last), 0

def deadly(*arguments, **options):
    global calls
    calls += 1
    if calls == int(count):
        os.kill(os.getpid(), signal.SIGKILL)
    return function(*arguments, **options)

setattr(owner, last, deadly)
store = FeatureStore(folder)
store.materialize(datetime.fromisoformat("2020-01-01T00:00:00Z"), datetime.fromisoformat(end))
"""

#: Where it is killed: module, function, which call, and whether the snapshot is there by then.
MOMENTS = {
    "while encoding": ("unirep_feast.inference", "Inference._run", 9, False),
    "while the snapshot is written": ("pyarrow.parquet", "ParquetWriter.write_table", 3, False),
    "before it appears": ("unirep_feast.files", "fsync", 1, False),
    "before it is recorded": ("unirep_feast.catalog", "Catalog.add_snapshot", 1, True),
    "before the online store is written": (
        "unirep_feast.feature_store.online_serving",
        "write_online",
        1,
        True,
    ),
    "while it is written": (
        "unirep_feast.feature_store.snapshot_rows",
        "LatestRows._renamed",
        4,
        True,
    ),
    "before the catalog hears of it": (
        "unirep_feast.catalog",
        "Catalog.end_materialization",
        1,
        True,
    ),
    "before Feast hears of it": (
        "feast.infra.registry.registry",
        "Registry.apply_materialization",
        1,
        True,
    ),
}


@pytest.mark.parametrize(
    ("kind", "when"),
    [*(("sqlite", when) for when in MOMENTS), ("redis", "while it is written")],
)
def test_killed_at_any_moment(engine_repo: Any, kind: str, when: str) -> None:
    """No partial snapshot is visible, no interval is recorded, nobody is served anything older
    than before, and doing it again completes."""
    module, name, count, there = MOMENTS[when]
    repo = engine_repo(kind)
    repo.shop.write(encode__block_users=9)
    run = repo.train()
    store = repo.store()
    repo.materialize(store, T0)
    old_ids, old = repo.snapshot(run, T0)
    command = [sys.executable, "-c", KILLED, str(repo.folder), module, name, str(count), T1]

    killed = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)

    assert killed.returncode == -9, killed.stderr
    assert repo.intervals(store) == [(START, T0)]
    path = repo.shop.home / "snapshots" / run / "20200310T120000Z.parquet"
    assert path.exists() == there
    visible = list((repo.shop.home / "snapshots" / "promoted").glob("*.parquet"))
    assert len(visible) == 1 + there
    served, mask = repo.lying_online(store, old_ids)
    assert mask.all()
    is_old = (served == old).all(axis=1)
    if there:
        # Whoever is not served the old vector is served the new one, never a mixture or less.
        new_ids, new = repo.snapshot(run, T1)
        assert pq.read_metadata(path).num_rows == len(new_ids) >= len(old_ids)
        newer = dict(zip(new_ids, new, strict=True))
        pairs = zip(old_ids, served, strict=True)
        is_new = np.array([(vector == newer[user]).all() for user, vector in pairs])
        assert (is_old | is_new).all()
    else:
        assert is_old.all()

    repo.materialize(repo.store(apply=False), T1)

    repo.expect(store, run, T1)
    assert repo.intervals(store) == [(START, T0), (START, T1)]
    assert repo.recorded()[-1][0] == T1


def test_two_at_once(repo: Any) -> None:
    """Two commands over the same interval both succeed; one encodes, and all is as from one."""
    run = repo.train()
    assert repo.feast("apply").returncode == 0
    command = [Path(sys.executable).with_name("feast"), "materialize", START[:-1], T1[:-1]]
    both = [
        subprocess.Popen(command, cwd=repo.folder, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]

    errors = [process.communicate(timeout=300)[1] for process in both]

    assert [process.returncode for process in both] == [0, 0], errors
    repo.expect(repo.store(apply=False), run, T1)
    assert [one.entity for one in repo.catalog().snapshots(run)] == ["item", "user"]
    assert [row[0] for row in repo.recorded()] == [T1, T1]
    assert repo.left_overs() == []


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    """Start a Redis server of the test's own, always at the same port."""
    if shutil.which("redis-server") is None:
        pytest.skip("needs redis-server")
    redis = pytest.importorskip("redis")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        command = ["redis-server", "--port", str(port), "--save", "", "--dir", str(tmp_path)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        process.address = f"127.0.0.1:{port}"  # type: ignore[attr-defined]
        started.append(process)
        for _ in range(200):
            try:
                redis.Redis(port=port).ping()
                break
            except redis.exceptions.ConnectionError:
                time.sleep(0.05)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_a_store_that_goes_in_mid_write(
    own_redis: Any, engine_repo: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis dies between two batches: one line, nothing recorded; a rerun completes."""
    from unirep_feast.feature_store import snapshot_rows

    server = own_redis()
    repo = engine_repo("sqlite")
    repo.online = {"type": "redis", "connection_string": server.address}
    run = repo.train(encode__block_users=9)
    store = repo.store()
    renamed, batches = snapshot_rows.LatestRows._renamed, 0

    def dying(self: Any, batch: Any) -> Any:
        nonlocal batches
        batches += 1
        if batches == 3:
            server.kill()
            server.wait()
        return renamed(self, batch)

    monkeypatch.setattr(snapshot_rows.LatestRows, "_renamed", dying)
    monkeypatch.setattr(snapshot_rows, "BATCH_BYTES", 1)  # a user at a time

    with pytest.raises(StoreError, match=r"Redis at .*nothing is recorded") as caught:
        repo.materialize(store, T1)

    assert "\n" not in str(caught.value)
    assert repo.intervals(store) == []
    assert repo.recorded() == []
    own_redis()
    repo.materialize(repo.store(apply=False), T1)
    repo.expect(store, run, T1)
    assert len(repo.recorded()) == 1


def test_a_full_disk_for_the_snapshot(engine_repo: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The online store keeps what it has; nothing is left behind or recorded."""
    repo = engine_repo()
    run = repo.train()
    store = repo.store()
    repo.materialize(store, T0)
    before = repo.stored()

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(pq.ParquetWriter, "write_table", full)
        with pytest.raises(StoreError, match="cannot be written: No space left on device"):
            repo.materialize(store, T1)

    assert repo.stored() == before
    assert [one.entity for one in repo.catalog().snapshots(run)] == ["item", "user"]
    assert repo.left_overs() == []
    assert len(repo.intervals(store)) == 1


@pytest.mark.parametrize("when", ["before", "while"])
def test_a_promotion_meanwhile(
    engine_repo: Any, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """A materialize that another run overtook records nothing; the next one leaves one space."""
    from unirep_feast.feature_store import materializing, online_serving

    repo = engine_repo()
    first = repo.train()
    second = repo.train()
    repo.promote(first)
    store = repo.store()
    owner: Any = materializing if when == "before" else online_serving
    name = {"before": "encode", "while": "write_online"}[when]
    function = getattr(owner, name)

    def overtaken(*arguments: Any, **options: Any) -> Any:
        done = function(*arguments, **options)
        repo.promote(second)
        return done

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, overtaken)
        with pytest.raises(StoreError, match=f"run {second} serves 'shop' now, run {first} did"):
            repo.materialize(store, T1)

    assert repo.recorded() == []
    assert repo.intervals(store) == []
    repo.materialize(store, T1)
    repo.expect(store, second, T1)


@pytest.mark.parametrize("kind", ["sqlite", "redis", "postgres"])
def test_what_an_overtaken_run_left_is_replaced(
    engine_repo: Any, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """A new run whose materialize breaks off in the middle, then a rollback to an earlier time:
    no vector of the broken one stays, though it is newer."""
    from unirep_feast.feature_store import snapshot_rows

    repo = engine_repo(kind)
    first = repo.train()
    second = repo.train()
    repo.promote(first)
    store = repo.store()
    if kind == "sqlite":  # otherwise it is one transaction, and nothing is left
        store.config.materialization_config.online_write_batch_size = 5
    if kind == "postgres":
        from unirep_feast.feature_store.online_writer import generic_writer

        monkeypatch.setattr(generic_writer, "SLICE_ROWS", 5)
    repo.materialize(store, T0)
    repo.promote(second)
    renamed, batches = snapshot_rows.LatestRows._renamed, 0

    def breaking(self: Any, batch: Any) -> Any:
        nonlocal batches
        batches += 1
        if batches == 20:
            raise RuntimeError("lightning")
        return renamed(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(snapshot_rows.LatestRows, "_renamed", breaking)
        patch.setattr(snapshot_rows, "BATCH_BYTES", 1)
        with pytest.raises(RuntimeError, match="lightning"):
            repo.materialize(store, T1)
    ids, new = repo.snapshot(second, T1)
    served, mask = repo.lying_online(store, ids)
    is_new = (served == new[mask]).all(axis=1)
    assert 0 < is_new.sum() < len(is_new)

    repo.promote(first)
    repo.materialize(store, T0)

    repo.expect(store, first, T0)
    known, _ = repo.snapshot(first, T0)
    _, mask = repo.lying_online(store, ids)
    assert [user for user, there in zip(ids, mask, strict=True) if there] == known
    repo.materialize(store, T1)
    repo.expect(store, first, T1)
    assert [row[0] for row in repo.recorded()] == [T0, T0, T1]
    if kind == "postgres":
        store.teardown()
