"""Tiny logs, and the labels that built-in tasks find in them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest

from unirep_feast.config import EventsConfig
from unirep_feast.evaluation.kinds import BUILT_IN
from unirep_feast.events import normalise_events
from unirep_feast.instants import parse_instant
from unirep_feast.packing import pack
from unirep_feast.task import Examples, TaskLog

T = parse_instant("2024-03-01")
ITEMS = pa.table(
    {
        "item_id": pa.array(["a", "b", "c", "d"]),
        "title": pa.array(["Red Lamp lamp", "blue lamp", "red mugs", None]),
        "category": pa.array([["x", "y"], ["x"], ["y", "z"], None], pa.list_(pa.string())),
    }
)

#: user, item, days from T, type, value
Rows = list[tuple[int, str, float, str, float]]

SMALL: Rows = [
    (1, "a", -9, "buy", 1.0),
    (1, "a", -2, "buy", 2.0),
    (1, "b", 0, "buy", 3.0),  # at T itself: belongs to the labels
    (1, "c", 3, "view", 4.0),
    (1, "d", 3, "buy", 5.0),
    (2, "b", -1, "view", 1.0),
    (2, "b", 30, "buy", 7.0),  # just behind a window of 30 days
    (3, "c", -40, "buy", 1.0),
    (3, "c", 29.5, "view", 2.0),
    (3, "a", 29.5, "view", -9.0),
    (4, "a", 5, "buy", 1.0),  # unknown before T
    (5, "d", -1, "buy", 1.0),
]


@pytest.fixture(scope="session")
def make_log() -> Callable[..., TaskLog]:
    def make(rows: Rows, folder: str = ".") -> TaskLog:
        start = datetime(2024, 3, 1, tzinfo=UTC)
        table = pa.table(
            {
                "user_id": pa.array([row[0] for row in rows], pa.int64()),
                "item_id": pa.array([row[1] for row in rows]),
                "event_timestamp": pa.array(
                    [start + timedelta(days=row[2]) for row in rows], pa.timestamp("us", tz="UTC")
                ),
                "kind": pa.array([row[3] for row in rows]),
                "amount": pa.array([row[4] for row in rows], pa.float32()),
            }
        )
        config = EventsConfig.model_validate(
            {"path": "-", "columns": {"type": "kind", "value": "amount"}}
        )
        return TaskLog.build(pack(normalise_events(table, config, "-")), ITEMS, folder)

    return make


@pytest.fixture(scope="session")
def examples_of(make_log: Callable[..., TaskLog]) -> Callable[..., Examples]:
    def find(kind: str, rows: Rows = SMALL, folder: str = ".", **settings: Any) -> Examples:
        model, build = BUILT_IN[kind]
        return build(model.model_validate(settings)).examples(make_log(rows, folder), T)

    return find


@pytest.fixture(scope="session")
def users_of(make_log: Callable[..., TaskLog]) -> Callable[..., list[int]]:
    def find(examples: Examples, rows: Rows = SMALL) -> list[int]:
        return make_log(rows).users.take(pa.array(examples.users)).to_pylist()  # type: ignore[no-any-return]

    return find


@pytest.fixture(scope="session")
def positives_of(make_log: Callable[..., TaskLog]) -> Callable[..., list[set[str]]]:
    def find(examples: Examples, rows: Rows = SMALL) -> list[set[str]]:
        items = make_log(rows).items.take(pa.array(examples.candidates)).to_pylist()
        bounds = zip(examples.offsets[:-1], examples.offsets[1:], strict=True)  # type: ignore[index]
        return [{items[p] for p in examples.positives[lo:hi]} for lo, hi in bounds]  # type: ignore[index]

    return find
