from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pytest
import torch

from unirep_feast.batch import FIRST_ITEM, SequenceBatch, bucket_width
from unirep_feast.instants import parse_instant
from unirep_feast.items import ItemTable, Vocabulary
from unirep_feast_lurm.config import EncoderSettings
from unirep_feast_lurm.encoder import LurmEncoder

#: (code, ISO date) of one behavior.
Event = tuple[int, str]

#: Items of the vocabulary in these tests, and interests.
ITEMS, INTERESTS = 12, 5


@pytest.fixture(autouse=True)
def _one_seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def batch_of() -> Callable[..., SequenceBatch]:
    """Build a batch of histories given as lists of (code, ISO time)."""

    def build(rows: Sequence[Sequence[Event]]) -> SequenceBatch:
        events = [event for row in rows for event in row]
        return SequenceBatch(
            codes=torch.tensor([code for code, _ in events], dtype=torch.int64),
            times=torch.tensor([parse_instant(when) for _, when in events], dtype=torch.int64),
            lengths=torch.tensor([len(row) for row in rows], dtype=torch.int64),
            users=torch.arange(len(rows)),
            as_of=torch.full((len(rows),), parse_instant("2030-01-01")),
            width=bucket_width(max((len(row) for row in rows), default=0)),
        )

    return build


@pytest.fixture
def random_rows() -> Callable[..., list[list[Event]]]:
    """Draw histories of random lengths over several years, the first one empty."""

    def draw(rows: int, longest: int = 20, years: int = 4, seed: int = 0) -> list[list[Event]]:
        generator = torch.Generator().manual_seed(seed)

        def below(n: int) -> int:
            return int(torch.randint(n, (), generator=generator))

        begin = int(datetime(2011, 3, 5, tzinfo=UTC).timestamp())
        drawn: list[list[Event]] = [[]]
        for _ in range(rows - 1):
            seconds = sorted(begin + below(years * 365 * 86_400) for _ in range(1 + below(longest)))
            drawn.append(
                [
                    (
                        FIRST_ITEM + below(ITEMS),
                        datetime.fromtimestamp(second, UTC).isoformat(),
                    )
                    for second in seconds
                ]
            )
        return drawn

    return draw


@pytest.fixture
def prepared() -> Callable[..., dict[str, torch.Tensor]]:
    """Made-up prepared state of an id-only vocabulary: item i is of interest i mod D."""

    def make(dim: int = 4, shared: int = 1) -> dict[str, torch.Tensor]:
        codes = FIRST_ITEM + ITEMS
        places = (torch.arange(codes)[:, None] + torch.arange(shared)) % INTERESTS
        shares = torch.full((codes, shared), 1.0 / shared)
        shares[:FIRST_ITEM] = 0
        centres = torch.nn.functional.normalize(torch.randn(INTERESTS, dim), dim=-1)
        return {
            "interests.places": places,
            "interests.shares": shares,
            "interests.centres": centres,
        }

    return make


@pytest.fixture
def encoder(prepared: Callable[..., dict[str, torch.Tensor]]) -> Callable[..., LurmEncoder]:
    """Build a small float64 encoder on the made-up interests, in ``eval()``."""

    def build(shared: int = 1, **settings: Any) -> LurmEncoder:
        small = {"items": "id", "item_dim": 4, "anchors": 3, "dim": 6}
        parsed = EncoderSettings.model_validate({**small, **settings})
        built = LurmEncoder(FIRST_ITEM + ITEMS, parsed, prepared(shared=shared))
        ids = pa.array(range(ITEMS), pa.int64())
        built.bind(ItemTable.build(Vocabulary(ids, pa.array([1] * ITEMS)), None))
        return built.double().eval()

    return build
