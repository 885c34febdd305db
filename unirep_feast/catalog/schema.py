"""Is this database a catalog, and is it ours and up to date? If not: make it so, or say why not.

A new or empty database is brought to the latest revision without being asked. One with rows in it
changes only on ``unirep db upgrade``: somebody may want a backup first.
"""

from __future__ import annotations

import io
import logging
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from sqlite3 import OperationalError
from typing import TYPE_CHECKING, Literal

from sqlalchemy import Connection, Engine, inspect, text
from sqlalchemy.engine import URL

import unirep_feast
from unirep_feast.catalog.connect import (
    BUSY_SECONDS,
    for_writing,
    one_line_errors,
    open_engine,
    read_url,
    show_url,
)
from unirep_feast.errors import CatalogError

if TYPE_CHECKING:
    from alembic.config import Config

#: The latest revision. Written down so that looking at a good catalog never loads Alembic.
HEAD = "0002"

_VERSIONS = "alembic_version"
_OURS = frozenset({"runs", "checkpoints", "snapshots"})
_LOCK = 0x756E6972_6570  # "unirep": any two processes that upgrade agree on it

# Alembic keeps the environment of the migration that is running in a module.
_one_migration_at_a_time = threading.Lock()

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SchemaState:
    """What a database turned out to be.

    Attributes:
        kind: ``current``; ``empty`` (nothing in it yet, or no file); ``stale`` (an older revision
            of ours); ``newer`` (a revision we do not know); ``foreign`` (somebody else's).
        found: the revision it is at, if it has one.
    """

    kind: Literal["current", "empty", "stale", "newer", "foreign"]
    found: str | None = None


def read_state(connection: Connection) -> SchemaState:
    """Look at a database's tables and revision; changes nothing."""
    tables = set(inspect(connection).get_table_names())
    found: list[str] = []
    if _VERSIONS in tables:
        found = sorted(connection.scalars(text(f"SELECT version_num FROM {_VERSIONS}")))  # noqa: S608
    if not found:
        return SchemaState("foreign" if tables - {_VERSIONS} else "empty")
    revision = ", ".join(found)
    if not tables >= _OURS:
        return SchemaState("foreign", revision)
    if found == [HEAD]:
        return SchemaState("current", revision)
    return SchemaState("stale" if _known(found) else "newer", revision)


def current(url_text: str) -> SchemaState:
    """Look at the database behind a URL without creating anything.

    Raises:
        CatalogError: it cannot be reached.
    """
    return _look(read_url(url_text))


def open_catalog(url_text: str, *, create: bool = True) -> tuple[URL, Engine]:
    """Return an engine on a catalog that is at the latest revision.

    Args:
        url_text: the catalog's URL.
        create: make the catalog where there is none yet (file, folders and tables).

    Raises:
        CatalogError: it cannot be reached, is stale, newer than this version, or not ours; or there
            is none and ``create`` is off.
    """
    url = read_url(url_text)
    state = _look(url)
    if state.kind == "empty" and not create:
        raise CatalogError(
            f"there is no catalog at {show_url(url)}; `unirep train SPEC` makes one, "
            "or give another with --catalog or UNIREP_CATALOG"
        )
    if state.kind != "current":
        _migrate(url, state, {"empty"})
    return url, open_engine(url)


def upgrade(url_text: str) -> SchemaState:
    """Bring a catalog to the latest revision, keeping its rows; returns what it was before.

    All or nothing, and one process at a time: a second one waits and finds the work done.

    Raises:
        CatalogError: it cannot be reached, is newer than this version, or is not ours.
    """
    url = read_url(url_text)
    state = _look(url)
    return state if state.kind == "current" else _migrate(url, state, {"empty", "stale"})


def alembic_config() -> Config:
    """Make Alembic's settings in code, so that no ``alembic.ini`` has to be found at run time."""
    from alembic.config import Config

    silent = io.StringIO()  # stdout belongs to results
    config = Config(output_buffer=silent, stdout=silent)
    config.set_main_option("script_location", str(migrations_folder()).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def migrations_folder() -> Path:
    """Where the migrations are: inside an installed package, or beside it in a checkout.

    Raises:
        CatalogError: the installation has none.
    """
    package = Path(unirep_feast.__file__).parent
    for folder in (package / "_migrations", package.parent / "migrations"):
        if (folder / "env.py").is_file():
            return folder
    raise CatalogError(
        f"found no migrations beside {package}; reinstall unirep-feast, or run from a full checkout"
    )


def _migrate(url: URL, state: SchemaState, allowed: set[str]) -> SchemaState:
    """Upgrade a database in a state that allows it; the others are refused untouched."""
    if state.kind not in allowed:
        raise _refusal(url, state)
    from alembic import command

    if url.get_backend_name() == "sqlite":
        _make_folder(url)
    # Rebuilding a table means dropping it, which would delete what points at it.
    engine = open_engine(url, enforce_foreign_keys=False)
    with _one_migration_at_a_time, one_line_errors(url):
        if engine.dialect.name == "sqlite":
            _enable_wal(engine)
        with for_writing(engine).begin() as connection:
            if engine.dialect.name == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
            state = read_state(connection)  # again: another process may have been here first
            if state.kind == "current":
                return state
            if state.kind not in allowed:
                raise _refusal(url, state)
            config = alembic_config()
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    logger.info("catalog %s upgraded from %s to %s", show_url(url), state.found or "empty", HEAD)
    return state


def _look(url: URL) -> SchemaState:
    if url.get_backend_name() == "sqlite":
        try:
            if not Path(url.database or "").exists():
                return SchemaState("empty")  # connecting would create the file
        except OSError as error:
            raise CatalogError(f"catalog {show_url(url)}: {error.strerror}") from error
    with one_line_errors(url), open_engine(url).connect() as connection:
        return read_state(connection)


def _known(revisions: list[str]) -> bool:
    from alembic.script import ScriptDirectory

    scripts = ScriptDirectory.from_config(alembic_config())
    return set(revisions) <= {script.revision for script in scripts.walk_revisions()}


def _make_folder(url: URL) -> None:
    folder = Path(url.database or "").parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CatalogError(
            f"catalog {show_url(url)}: cannot make its folder {folder}: {error.strerror}; "
            "give another catalog with --catalog or UNIREP_CATALOG"
        ) from error


def _enable_wal(engine: Engine) -> None:
    """Let readers read while one process writes; the file remembers it."""
    deadline = time.monotonic() + BUSY_SECONDS
    with engine.connect() as connection:
        raw = connection.connection.cursor()  # the switch is refused inside a transaction
        while True:
            try:
                # Past a second process doing the same, SQLite does not wait by itself.
                raw.execute("PRAGMA journal_mode=WAL")
                return
            except OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > deadline:
                    return  # a file system without shared memory: slower, still right
                time.sleep(0.02)


def _refusal(url: URL, state: SchemaState) -> CatalogError:
    shown = show_url(url)
    if state.kind == "stale":
        return CatalogError(
            f"catalog {shown} is at revision {state.found}, wanted {HEAD}; "
            f"run `unirep db upgrade --catalog {shown}`"
        )
    if state.kind == "newer":
        return CatalogError(
            f"catalog {shown} is at revision {state.found}, which unirep-feast "
            f"{unirep_feast.__version__} does not know (it wants {HEAD}): a newer version made it; "
            "upgrade unirep-feast"
        )
    return CatalogError(
        f"catalog {shown}: found a database with tables that are not a catalog's; "
        "give an empty database, or another catalog with --catalog or UNIREP_CATALOG"
    )
