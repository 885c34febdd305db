from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch

from unirep_feast.batch import SequenceBatch, bucket_width
from unirep_feast.instants import parse_instant
from unirep_feast.testing import World, make_world

#: (code, ISO time) or (code, ISO time, value) of one event.
Event = tuple[int, str] | tuple[int, str, float]


@pytest.fixture(autouse=True)
def _one_seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def world() -> World:
    return make_world(users=60, items=30, longest=25)


@pytest.fixture
def batch_of() -> Callable[..., SequenceBatch]:
    """Build a batch of histories given as lists of events."""

    def build(rows: Sequence[Sequence[Event]], as_of: str = "2020-02-01") -> SequenceBatch:
        events = [event for row in rows for event in row]
        values = [event[2] if len(event) > 2 else float("nan") for event in events]
        return SequenceBatch(
            codes=torch.tensor([event[0] for event in events], dtype=torch.int64),
            times=torch.tensor([parse_instant(event[1]) for event in events], dtype=torch.int64),
            lengths=torch.tensor([len(row) for row in rows], dtype=torch.int64),
            users=torch.arange(len(rows)),
            as_of=torch.full((len(rows),), parse_instant(as_of)),
            width=bucket_width(max((len(row) for row in rows), default=0)),
            columns={"value": torch.tensor(values)},
        )

    return build
