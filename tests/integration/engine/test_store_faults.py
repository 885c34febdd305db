"""Redis and PostgreSQL go in mid-write: one line, nothing recorded; a rerun completes."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from unirep_feast.errors import StoreError

T0, T1 = "2020-03-01T00:00:00Z", "2020-03-10T12:00:00Z"
START = "2020-01-01T00:00:00Z"


class Proxy:
    """Passes TCP connections on to a server, until it is cut."""

    def __init__(self, host: str, port: int) -> None:
        self.target = (host, port)
        self.ends: list[socket.socket] = []
        self.port = 0
        self.mend()

    def mend(self) -> None:
        """Take connections (again), always at the same port."""
        self.listener = socket.socket()
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.bind(("127.0.0.1", self.port))
        self.listener.listen()
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(self.listener,), daemon=True).start()

    def cut(self) -> None:
        """Reset every connection, and refuse new ones."""
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for end in self.ends:
            with contextlib.suppress(OSError):  # the other side may have closed it
                end.shutdown(socket.SHUT_RDWR)
        self.ends.clear()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:  # cut
                return
            server = socket.create_connection(self.target)
            self.ends += [client, server]
            for source, drain in ((client, server), (server, client)):
                threading.Thread(target=self._pump, args=(source, drain), daemon=True).start()

    def _pump(self, source: socket.socket, drain: socket.socket) -> None:
        try:
            while data := source.recv(1 << 16):
                drain.sendall(data)
            drain.shutdown(socket.SHUT_WR)
        except OSError:  # cut
            return


@pytest.fixture
def proxied(engine_repo: Any) -> Iterator[Callable[[str], tuple[Any, Proxy]]]:
    """A repo whose online store, ``redis`` or ``postgres``, is reached through a proxy."""
    made: list[tuple[Any, dict[str, Any], Proxy]] = []

    def make(kind: str) -> tuple[Any, Proxy]:
        repo = engine_repo(kind)
        if kind == "redis":
            address, *rest = repo.online["connection_string"].split(",")
            host, port = address.split(":")
        else:
            host, port = repo.online["host"], repo.online["port"]
        proxy = Proxy(host, int(port))
        made.append((repo, repo.online, proxy))
        if kind == "redis":
            repo.online = {
                **repo.online,
                "connection_string": ",".join([f"127.0.0.1:{proxy.port}", *rest]),
            }
        else:
            repo.online = {**repo.online, "host": "127.0.0.1", "port": proxy.port}
        return repo, proxy

    yield make
    for repo, online, proxy in made:
        proxy.listener.close()
        repo.online = online  # what is left there is cleared


@pytest.fixture
def at_batch(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[], object]], Any]:
    """Let something happen before the n-th batch of one user each."""
    from unirep_feast.feature_store import snapshot_rows

    renamed = snapshot_rows.LatestRows._renamed
    monkeypatch.setattr(snapshot_rows, "BATCH_BYTES", 1)

    def plan(number: int, event: Callable[[], object]) -> None:
        batches = 0

        def eventful(self: Any, batch: Any) -> Any:
            nonlocal batches
            batches += 1
            if batches == number:
                event()
            return renamed(self, batch)

        monkeypatch.setattr(snapshot_rows.LatestRows, "_renamed", eventful)

    return plan


def assert_old_or_new(repo: Any, run: str) -> None:
    """Everybody who had a vector has it still, or the newer one; some have the newer one."""
    store = repo.store(apply=False)
    ids, old = repo.snapshot(run, T0)
    newer = dict(zip(*repo.snapshot(run, T1), strict=True))
    served, mask = repo.lying_online(store, ids)
    assert mask.all()
    is_old = (served == old).all(axis=1)
    is_new = np.array([(one == newer[user]).all() for user, one in zip(ids, served, strict=True)])
    assert (is_old | is_new).all()
    assert is_new.any() and not is_new.all()


@pytest.mark.parametrize("kind", ["redis", "postgres"])
def test_a_connection_that_is_cut_in_mid_write(proxied: Any, at_batch: Any, kind: str) -> None:
    """The server can be reached no more after the tenth user; when it can, a rerun completes."""
    repo, proxy = proxied(kind)
    run = repo.train()
    store = repo.store()
    repo.materialize(store, T0)
    at_batch(10, proxy.cut)

    with pytest.raises(StoreError, match=r"[Rr]edis|PostgreSQL") as caught:
        repo.materialize(store, T1)

    assert "\n" not in str(caught.value)
    assert "nothing is recorded" in str(caught.value)
    assert repo.intervals(store) == [(START, T0)]
    assert [row[0] for row in repo.recorded()] == [T0]
    proxy.mend()
    assert_old_or_new(repo, run)

    again = repo.store(apply=False)
    repo.materialize(again, T1)

    repo.expect(again, run, T1)
    assert repo.intervals(again) == [(START, T0), (START, T1)]
    assert [row[0] for row in repo.recorded()] == [T0, T1]


def test_postgres_ends_the_session_in_mid_write(
    engine_repo: Any, at_batch: Any, postgres_url: str
) -> None:
    """As when the server is restarted: the batches so far are whole, and a rerun completes."""
    import psycopg

    repo = engine_repo("postgres")
    run = repo.train()
    store = repo.store()
    repo.materialize(store, T0)

    def terminate() -> None:
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )

    at_batch(10, terminate)

    with pytest.raises(StoreError, match=r"PostgreSQLOnlineStore: .*nothing is recorded") as caught:
        repo.materialize(store, T1)

    assert "\n" not in str(caught.value)
    assert [row[0] for row in repo.recorded()] == [T0]
    assert_old_or_new(repo, run)
    again = repo.store(apply=False)
    repo.materialize(again, T1)
    repo.expect(again, run, T1)


#: Kills itself while the tenth user is on the way to the online store.
KILLED = """
import os, signal, sys
from datetime import datetime
from feast import FeatureStore
from unirep_feast.feature_store import snapshot_rows
snapshot_rows.BATCH_BYTES = 1
renamed, calls = snapshot_rows.LatestRows._renamed, 0

def deadly(self, batch):
    global calls
    calls += 1
    if calls == 10:
        os.kill(os.getpid(), signal.SIGKILL)
    return renamed(self, batch)

snapshot_rows.LatestRows._renamed = deadly
FeatureStore(sys.argv[1]).materialize(*map(datetime.fromisoformat, sys.argv[2:]))
"""


def test_a_kill_in_mid_write_to_postgres(engine_repo: Any) -> None:
    """Users that were written are new, the others old; a rerun completes."""
    repo = engine_repo("postgres")
    run = repo.train()
    store = repo.store()
    repo.materialize(store, T0)
    command = [sys.executable, "-c", KILLED, str(repo.folder), START, T1]

    killed = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)

    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert [row[0] for row in repo.recorded()] == [T0]
    assert repo.intervals(store) == [(START, T0)]
    assert_old_or_new(repo, run)
    again = repo.store(apply=False)
    repo.materialize(again, T1)
    repo.expect(again, run, T1)


@pytest.mark.parametrize("kind", ["redis", "postgres"])
def test_a_server_that_is_not_there(engine_repo: Any, kind: str) -> None:
    """One line without the password; nothing is recorded."""
    repo = engine_repo("sqlite")
    repo.train()
    repo.store()
    sqlite = repo.online
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    if kind == "redis":
        connection = f"127.0.0.1:{port},password=secret-word"
        repo.online = {"type": "redis", "connection_string": connection}
    else:
        pytest.importorskip("psycopg_pool")
        repo.online = {
            "type": "postgres",
            "host": "127.0.0.1",
            "port": port,
            "database": "shop",
            "user": "shop",
            "password": "secret-word",
            "sslmode": "prefer",
        }
    store = repo.store(apply=False)
    repo.online = sqlite  # for what comes after the test

    with pytest.raises(StoreError, match="nothing is recorded") as caught:
        repo.materialize(store, T1)

    assert "\n" not in str(caught.value)
    assert "secret-word" not in str(caught.value)
    assert repo.intervals(store) == []
    assert repo.recorded() == []
