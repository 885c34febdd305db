"""One call, one transaction, one connection: what runs and artifacts have in common."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from sqlalchemy.orm import Session

from unirep_feast.catalog.connect import for_writing, one_line_errors, show_url
from unirep_feast.catalog.models import Run
from unirep_feast.catalog.schema import open_catalog
from unirep_feast.errors import CatalogError


class Transactions:
    """An opened catalog: how its methods read and write. See `unirep_feast.catalog.Catalog`."""

    def __init__(self, url: str, *, create: bool = True) -> None:
        self._url, self._engine = open_catalog(url, create=create)
        self._writing = for_writing(self._engine)

    @property
    def url(self) -> str:
        """Where the catalog is, without its password."""
        return show_url(self._url)

    @contextmanager
    def _read(self) -> Iterator[Session]:
        with (
            one_line_errors(self._url),
            Session(self._engine, expire_on_commit=False) as session,
            session.begin(),
        ):
            yield session

    @contextmanager
    def _write(self) -> Iterator[Session]:
        with (
            one_line_errors(self._url),
            Session(self._writing, expire_on_commit=False) as session,
            session.begin(),
        ):
            yield session

    def _run(self, session: Session, run_id: str, *, lock: bool = False) -> Run:
        """Fetch a run; locked, everything else that changes it or hangs from it waits."""
        run = session.get(Run, run_id, with_for_update=lock)
        if run is None:
            raise CatalogError(
                f"there is no run {run_id!r} in catalog {self.url}; `unirep runs list` shows them"
            )
        return run


def utc_now() -> datetime:
    """The moment, aware."""
    return datetime.now(UTC)


def plain_json(value: Any) -> Any:
    """Reduce to what any JSON column takes: foreign numbers become floats, NaN and ∞ null."""
    return json.loads(json.dumps(value, default=float), parse_constant=lambda _: None)


def plain_text(text: str) -> str:
    """Replace what PostgreSQL cannot store in a text: NUL and halves of surrogate pairs."""
    return (
        text.encode("utf-8", "replace").decode("utf-8").replace("\0", "\N{REPLACEMENT CHARACTER}")
    )
