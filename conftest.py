"""Shared by the tests of the package and of its plugins: real data, real servers, what is slow.

A test that needs what a machine does not have is skipped and says so. Where the servers must be
there (UNIREP_REQUIRE_SERVICES=1, as in CI) their absence is a failure instead.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import pytest
from hypothesis import settings

# A busy machine must not fail a test: no example has a time limit.
settings.register_profile("unirep", deadline=None)
settings.load_profile("unirep")

ROOT = Path(__file__).parent
DATA = Path(os.environ.get("UNIREP_DATA", ROOT.parent / "shared" / "data"))
POSTGRES = os.environ.get("UNIREP_TEST_POSTGRES", "postgresql://postgres@127.0.0.1:5432/postgres")
REDIS = os.environ.get("UNIREP_TEST_REDIS", "redis://127.0.0.1:6379")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--slow``."""
    parser.addoption("--slow", action="store_true", help="run tests that take minutes as well")


#: Files of minutes. A worker gets whole files, so the longest must not be the last to start.
LONGEST = ("test_tutorial.py", "test_quickstart.py")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put long files first; skip what is slow unless asked for, and GPU tests without a GPU."""
    items.sort(
        key=lambda item: (item.path.name not in LONGEST, "integration" not in item.path.parts)
    )
    slow = [item for item in items if item.get_closest_marker("slow")]
    gpu = [item for item in items if item.get_closest_marker("gpu")]
    if not config.getoption("--slow", default=False):
        for item in slow:
            item.add_marker(pytest.mark.skip(reason="takes minutes; run with --slow"))
    if gpu and not _has_cuda():
        for item in gpu:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep a developer's own catalog out of the tests."""
    monkeypatch.delenv("UNIREP_CATALOG", raising=False)


@pytest.fixture(scope="session")
def data_dir() -> Callable[[str], Path]:
    """Find a folder of real data by name, such as ``ml-1m``; skips where it is not there."""

    def find(name: str) -> Path:
        folder = DATA / name
        if not folder.is_dir():
            pytest.skip(f"needs the real data of {name}: no folder {folder}")
        return folder

    return find


@pytest.fixture(scope="session")
def redis_url() -> str:
    """URL of a Redis server that answers. It is shared: use a Feast project of your own."""
    try:
        import redis

        with redis.Redis.from_url(REDIS, socket_connect_timeout=5) as client:
            client.ping()
    except Exception as error:
        _unavailable(f"Redis at {REDIS}", error)
    return REDIS


@pytest.fixture(scope="session")
def _postgres_database() -> Iterator[str]:
    """URL of a database of this session's own, dropped afterwards."""
    name = f"unirep_test_{os.getpid()}"
    try:
        import psycopg

        server = psycopg.connect(POSTGRES, autocommit=True, connect_timeout=5)
    except Exception as error:
        _unavailable("PostgreSQL (UNIREP_TEST_POSTGRES)", error)
    with server:
        server.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        server.execute(f"CREATE DATABASE {name}")
        yield urlunsplit(urlsplit(POSTGRES)._replace(path=f"/{name}"))
        server.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def postgres_url(_postgres_database: str) -> str:
    """URL of an empty PostgreSQL database; emptied again for the next test."""
    import psycopg

    with psycopg.connect(_postgres_database, autocommit=True) as connection:
        # A pool that a test left open would hold locks for ever.
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")
    return _postgres_database


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def _unavailable(what: str, error: Exception) -> None:
    reason = f"needs {what}: {' '.join(str(error).split())}"
    if os.environ.get("UNIREP_REQUIRE_SERVICES") == "1":
        pytest.fail(reason)
    pytest.skip(reason)
