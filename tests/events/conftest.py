"""A log of three good rows, how it is read, and how it is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from unirep_feast.config import EventsConfig
from unirep_feast.errors import EventsError
from unirep_feast.events import TIME_TYPE, Events, normalise_events, now, read_events
from unirep_feast.instants import parse_instant
from unirep_feast.spec_file import parse_spec

T0 = parse_instant("2011-06-01")
HOUR = 3_600_000_000


@pytest.fixture(scope="session")
def log() -> Callable[..., pa.Table]:
    """Three good rows; ``columns`` replaces or adds some (None removes)."""

    def make(**columns: object) -> pa.Table:
        base: dict[str, object] = {
            "user_id": [1, 2, 1],
            "item_id": [10, 11, 12],
            "event_timestamp": pa.array([T0, T0 + HOUR, T0 + 2 * HOUR], TIME_TYPE),
        }
        base.update(columns)
        return pa.table({name: column for name, column in base.items() if column is not None})

    return make


@pytest.fixture(scope="session")
def read() -> Callable[..., Events]:
    def call(path: Path, before: int | None = None, **events: object) -> Events:
        spec = parse_spec(
            {"name": "x", "plugin": "p", "events": {"path": str(path), **events}}, "test"
        )
        return read_events(spec, before)

    return call


@pytest.fixture(scope="session")
def refused(read: Callable[..., Events]) -> Callable[..., str]:
    """Read a log that must be refused; returns the error, which must be one line."""

    def check(source: pa.Table | Path, before: int | None = None, **events: object) -> str:
        with pytest.raises(EventsError) as caught:
            if isinstance(source, Path):
                read(source, before, **events)
            else:
                normalise_events(source, EventsConfig(path="log", **events), "log")
        assert "\n" not in str(caught.value)
        return str(caught.value)

    return check


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.parquet"


@pytest.fixture(scope="session")
def later_than_now(log: Callable[..., pa.Table]) -> Callable[[], pa.Table]:
    def make() -> pa.Table:
        ahead = pa.array([T0, T0, now() + 30 * 24 * HOUR], TIME_TYPE)
        return log(event_timestamp=ahead)

    return make
