"""Where the catalog is, and what it says when it cannot be reached or used."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from unirep_feast.catalog import Catalog, connect, default_catalog_url, schema
from unirep_feast.errors import CatalogError


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/"), min_size=1))
@settings(max_examples=200, deadline=None)
def test_the_default_catalog_lies_in_the_storage_folder(name: str) -> None:
    """Whatever the folder is called, the URL leads back to it."""
    url = default_catalog_url(Path("data") / name)

    assert connect.read_url(url).database == str(Path("data") / name / "catalog.db")


def test_the_environment_names_another_catalog(monkeypatch: pytest.MonkeyPatch) -> None:
    """UNIREP_CATALOG wins over the storage folder; empty, it does not count."""
    assert default_catalog_url("data/unirep") == "sqlite:///data/unirep/catalog.db"
    monkeypatch.setenv("UNIREP_CATALOG", "")
    assert default_catalog_url("/abs") == "sqlite:////abs/catalog.db"
    monkeypatch.setenv("UNIREP_CATALOG", "postgresql://ml@db/unirep")

    assert default_catalog_url("data/unirep") == "postgresql://ml@db/unirep"


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg"])
def test_postgresql_urls_get_their_driver(scheme: str) -> None:
    """A PostgreSQL URL needs no driver's name, and is shown without it or its passwords."""
    url = connect.read_url(f"{scheme}://ml:secret@db:5433/unirep?password=secret&sslmode=require")

    assert url.drivername == "postgresql+psycopg"
    assert connect.show_url(url) == ("postgresql://ml:***@db:5433/unirep?sslmode=require")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("data/catalog.db", "'data/catalog.db' is not a URL: wanted sqlite:///path"),
        ("postgresql://ml:secret@db:port/x", "'//ml:***@db:port/x' is not a URL"),
        ("mysql://ml:secret@db/x", "mysql://ml:***@db/x: found a mysql database, wanted sqlite"),
        ("sqlite://", "names no file"),
        ("sqlite:///:memory:", "names no file"),
    ],
)
def test_a_url_that_cannot_be_a_catalog_is_one_line(url: str, message: str) -> None:
    """What is no URL, no known database or no file is refused without showing a password."""
    with pytest.raises(CatalogError) as caught:
        Catalog(url)

    assert message.removeprefix("'//") in str(caught.value)
    assert "secret" not in str(caught.value)


def test_an_unreachable_server_is_one_line() -> None:
    """The line has the URL without its password, the cause, and what to do."""
    with pytest.raises(CatalogError) as caught:
        Catalog("postgresql://ml:secret@127.0.0.1:1/unirep")
    line = str(caught.value)

    assert line.startswith("catalog postgresql://ml:***@127.0.0.1:1/unirep: ")
    assert "refused" in line
    assert "check that the server runs" in line
    assert "\n" not in line
    assert "secret" not in line


def test_a_missing_database_is_one_line(postgres_url: str) -> None:
    """A server without that database says so in the line."""
    with pytest.raises(CatalogError, match='database "nowhere" does not exist') as caught:
        Catalog(postgres_url.rpartition("/")[0] + "/nowhere")

    assert "\n" not in str(caught.value)


def test_a_missing_driver_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without psycopg the line says which extra brings it."""
    monkeypatch.setitem(sys.modules, "psycopg", None)

    with pytest.raises(CatalogError, match=r"psycopg is not installed; .*unirep-feast\[postgres\]"):
        Catalog("postgresql://ml@db/unirep")


@pytest.mark.parametrize("open_it", [Catalog, schema.upgrade])
def test_a_file_that_is_no_database_is_one_line(
    tmp_path: Path, open_it: Callable[[str], object]
) -> None:
    """A file of something else is refused, named, and left as it is."""
    (tmp_path / "catalog.db").write_bytes(b"user_id,item_id\n" * 100)

    with pytest.raises(CatalogError, match=r"catalog\.db: file is not a database; check the file"):
        open_it(f"sqlite:///{tmp_path}/catalog.db")
    assert (tmp_path / "catalog.db").read_bytes() == b"user_id,item_id\n" * 100


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    """A file where the catalog's folder should be is named in the line."""
    (tmp_path / "data").touch()

    with pytest.raises(CatalogError, match="data/unirep: Not a directory"):
        Catalog(f"sqlite:///{tmp_path}/data/unirep/catalog.db")


def test_a_folder_given_as_the_catalog_is_one_line(tmp_path: Path) -> None:
    """What exists but cannot be opened as a file is refused with the cause."""
    with pytest.raises(CatalogError, match="unable to open database file; check the file"):
        Catalog(f"sqlite:///{tmp_path}")


def test_a_catalog_that_goes_away_is_one_line(tmp_path: Path) -> None:
    """A database that is damaged while a process uses it ends in a line, not in a traceback."""
    catalog = Catalog(f"sqlite:///{tmp_path}/catalog.db")
    with catalog._write() as session:
        session.execute(text("DROP TABLE runs"))

    with pytest.raises(CatalogError, match=r"catalog\.db: no such table: runs"):
        catalog.list_runs()


def test_a_catalog_that_stays_locked_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process that writes for too long is named as the cause."""
    monkeypatch.setattr(connect, "BUSY_SECONDS", 0.1)
    url = f"sqlite:///{tmp_path}/catalog.db"
    first, second = Catalog(url), Catalog(url)
    with first._write() as session:
        session.execute(text("DELETE FROM runs"))
        with pytest.raises(CatalogError, match=r"locked; another process .* try again"):
            second.remove_checkpoint("a", 1)

    assert not second.remove_checkpoint("a", 1)
