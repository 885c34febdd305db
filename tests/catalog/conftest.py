"""A catalog on SQLite and on PostgreSQL, and runs to record in it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from unirep_feast.catalog import Catalog
from unirep_feast.catalog.models import Base, Run

#: Examples share a database: each empties it first.
settings.register_profile(
    "shared database",
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/catalog.db"
    return request.getfixturevalue("postgres_url")


@pytest.fixture
def catalog(url: str) -> Catalog:
    return Catalog(url)


@pytest.fixture(scope="session")
def start() -> Callable[..., Run]:
    def record(catalog: Catalog, run_id: str, representation: str = "shoppers", **more: Any) -> Run:
        return catalog.start_run(
            run_id,
            representation=representation,
            spec='{"name": "shoppers"}',
            spec_hash="5eed",
            plugins={"encoder": {"name": "toy", "distribution": "unirep-toy", "version": "1.2"}},
            folder=f"data/shoppers/runs/{run_id}",
            **more,
        )

    return record


@pytest.fixture(scope="session")
def finish(start: Callable[..., Run]) -> Callable[..., None]:
    def record(catalog: Catalog, *run_ids: str) -> None:
        for run_id in run_ids:
            start(catalog, run_id)
            catalog.finish_run(run_id, steps=1, metrics={})

    return record


@pytest.fixture(scope="session")
def empty() -> Callable[[Catalog], None]:
    def remove(catalog: Catalog) -> None:
        with catalog._write() as session:
            for table in reversed(Base.metadata.sorted_tables):
                session.execute(table.delete())

    return remove
