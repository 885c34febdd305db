"""From a catalog URL to a connection; whatever goes wrong on the way is one line."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, NoSuchModuleError
from sqlalchemy.pool import NullPool

from unirep_feast.errors import CatalogError

#: How long one process waits for another that is writing to the same SQLite file.
BUSY_SECONDS = 30.0
CONNECT_SECONDS = 10

_WANTED = "wanted sqlite:///path/to/catalog.db or postgresql://user@host/database"


def default_catalog_url(storage: str | Path) -> str:
    """Say where the catalog of a storage folder is: $UNIREP_CATALOG, else SQLite inside it.

    Args:
        storage: folder of runs and snapshots; nothing is created there.
    """
    chosen = os.environ.get("UNIREP_CATALOG")
    if chosen:
        return chosen
    # Not an f-string: `?` and `%` in a folder's name mean something in a URL.
    return URL.create("sqlite", database=str(Path(storage) / "catalog.db")).render_as_string()


def read_url(text: str) -> URL:
    """Parse a catalog URL and choose its driver.

    Raises:
        CatalogError: it is no URL, names another kind of database, or keeps nothing on disk.
    """
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        safe = re.sub(r"//([^:/@]*):.*@", r"//\1:***@", text)
        raise CatalogError(f"catalog {safe!r} is not a URL: {_WANTED}") from None
    if url.drivername in ("postgres", "postgresql"):
        return url.set(drivername="postgresql+psycopg")
    backend = url.get_backend_name()
    if backend not in ("sqlite", "postgresql"):
        raise CatalogError(f"catalog {show_url(url)}: found a {backend} database, {_WANTED}")
    if backend == "sqlite" and (url.database or ":memory:").startswith((":memory:", "file:")):
        raise CatalogError(
            f"catalog {show_url(url)} names no file that would outlive us: {_WANTED}"
        )
    return url


def show_url(url: URL) -> str:
    """Write a URL so that it can be read by anyone: passwords are hidden."""
    url = url.difference_update_query(["password"])
    return url.render_as_string(hide_password=True).replace("postgresql+psycopg:", "postgresql:")


@lru_cache(maxsize=16)
def open_engine(url: URL, *, enforce_foreign_keys: bool = True) -> Engine:
    """Make an engine that opens a connection per use and keeps none.

    Made once per URL, because an engine keeps the SQL that it has compiled: that takes longer than
    asking a small catalog.

    The catalog is asked a few times per minute at most, by processes that fork and train for hours:
    an idle connection would only go stale or be shared by accident.

    Args:
        url: what `read_url` returned.
        enforce_foreign_keys: off while migrating, where SQLite drops and rebuilds tables.

    Raises:
        CatalogError: the driver is not installed.
    """
    arguments: dict[str, Any] = {"timeout": BUSY_SECONDS}
    if url.get_backend_name() == "postgresql":
        arguments = {} if "connect_timeout" in url.query else {"connect_timeout": CONNECT_SECONDS}
    try:
        engine = create_engine(url, poolclass=NullPool, connect_args=arguments)
    except (ImportError, NoSuchModuleError) as error:
        raise CatalogError(
            f"catalog {show_url(url)}: its driver {url.get_driver_name()} is not installed; "
            "pip install 'unirep-feast[postgres]' and use a postgresql:// URL"
        ) from error
    if engine.dialect.name == "sqlite":
        _take_over_transactions(engine, enforce_foreign_keys)
    return engine


def for_writing(engine: Engine) -> Engine:
    """The same engine; on SQLite its transactions hold the write lock from their first moment."""
    return engine.execution_options(unirep_write=True)


def _take_over_transactions(engine: Engine, enforce_foreign_keys: bool) -> None:
    @event.listens_for(engine, "connect")
    def _connected(connection: Any, _record: object) -> None:
        # Transactions are begun below and nowhere else; sqlite3 would begin some of its own.
        connection.isolation_level = None
        connection.execute(f"PRAGMA foreign_keys={'ON' if enforce_foreign_keys else 'OFF'}")

    @event.listens_for(engine, "begin")
    def _begun(connection: Connection) -> None:
        # A transaction that reads first and writes later fails at once if another wrote meanwhile,
        # whatever the timeout; one that locks first waits its turn.
        write = connection.get_execution_options().get("unirep_write", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


@contextmanager
def one_line_errors(url: URL) -> Iterator[None]:
    """Turn a failure of the database into one line: which catalog, the cause, what to do.

    Raises:
        CatalogError: the database refused or could not be reached. A broken constraint passes
            through: only the caller knows what it means.
    """
    try:
        yield
    except IntegrityError:
        raise
    except DBAPIError as error:
        cause = " ".join(str(error.orig or error).split())
        raise CatalogError(f"catalog {show_url(url)}: {cause}; {_advice(url, cause)}") from error


def _advice(url: URL, cause: str) -> str:
    other = "or give another catalog with --catalog or UNIREP_CATALOG"
    if url.get_backend_name() == "postgresql":
        return f"check that the server runs and lets this user in, {other}"
    if "locked" in cause:
        return f"another process has been writing for {BUSY_SECONDS:.0f} s; try again"
    return f"check the file, its folder and their permissions, {other}"
