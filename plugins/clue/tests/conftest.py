from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import pytest
import torch

from unirep_feast.batch import FIRST_ITEM, SequenceBatch
from unirep_feast.items import ItemTable, Vocabulary
from unirep_feast.sequences import Sequences, Window
from unirep_feast_clue.config import EncoderSettings
from unirep_feast_clue.encoder import ClueEncoder

Event = tuple[str, int]


@pytest.fixture(autouse=True)
def _one_seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def world() -> Callable[..., Sequences]:
    """Build sequences of histories given as (item, time) pairs, users u0, u1, …"""

    def build(
        histories: Sequence[Sequence[Event]],
        window: Window | None = None,
        unknown: Sequence[str] = (),
        until: int | None = None,
    ) -> Sequences:
        items = sorted({item for history in histories for item, _ in history} - set(unknown))
        vocabulary = Vocabulary(pa.array(items, pa.string()), pa.array([1] * len(items)))
        table = pa.table(
            {
                "item_id": pa.array([*items, *unknown], pa.string()),
                "title": pa.nulls(len(items) + len(unknown), pa.string()),
                "category": pa.nulls(len(items) + len(unknown), pa.list_(pa.string())),
            }
        )
        events = [event for history in histories for event in sorted(history, key=_by_time)]
        place = {item: code for code, item in enumerate([*items, *unknown], FIRST_ITEM)}
        ends = torch.tensor([len(h) for h in histories], dtype=torch.int64).cumsum(0)
        lengths = torch.tensor([len(h) for h in histories], dtype=torch.int64)
        times = torch.tensor([time for _, time in events], dtype=torch.int64)
        last = int(times.max()) + 1 if len(times) else 0
        return Sequences(
            users=pa.array([f"u{n}" for n in range(len(histories))]),
            starts=ends - lengths,
            ends=ends,
            codes=torch.tensor([place[item] for item, _ in events], dtype=torch.int32),
            times=times,
            vocabulary=vocabulary,
            items=ItemTable.build(vocabulary, table),
            until=last if until is None else until,
        ).limit(window or Window())

    return build


def _by_time(event: Event) -> tuple[int, str]:
    return event[1], event[0]


@pytest.fixture
def batch_of() -> Callable[..., SequenceBatch]:
    """Build a batch of histories given as lists of codes; event i of a row happens at time i."""

    def build(rows: Sequence[Sequence[int]], width: int | None = None) -> SequenceBatch:
        lengths = torch.tensor([len(row) for row in rows], dtype=torch.int64)
        longest = max((len(row) for row in rows), default=0)
        codes = torch.tensor([code for row in rows for code in row], dtype=torch.int64)
        times = torch.tensor([t for row in rows for t in range(len(row))], dtype=torch.int64)
        return SequenceBatch(
            codes=codes,
            times=times,
            lengths=lengths,
            users=torch.arange(len(rows)),
            as_of=lengths,
            width=width if width is not None else max(longest, 1),
            columns={"value": codes.float() * 10},
        )

    return build


@pytest.fixture
def random_rows() -> Callable[..., list[list[int]]]:
    """Draw histories of random lengths (1 to ``longest``) and codes."""

    def draw(rows: int, longest: int = 12, codes: int = 30, seed: int = 0) -> list[list[int]]:
        generator = np.random.default_rng(seed)
        return [
            generator.integers(FIRST_ITEM, codes, size=generator.integers(1, longest + 1)).tolist()
            for _ in range(rows)
        ]

    return draw


@pytest.fixture
def encoder() -> Callable[..., ClueEncoder]:
    """Build a small encoder over 30 codes, in ``eval()``."""

    def build(codes: int = 30, **settings: object) -> ClueEncoder:
        defaults: dict[str, object] = {"dim": 8, "heads": 2, "max_events": 12, "heights": (1, 3)}
        return ClueEncoder(codes, EncoderSettings.model_validate({**defaults, **settings})).eval()

    return build
