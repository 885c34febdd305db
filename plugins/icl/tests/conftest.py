from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from unirep_feast.batch import FIRST_ITEM, SequenceBatch
from unirep_feast.items import ItemTable, Vocabulary
from unirep_feast_icl.behaviors import prepare_behaviors
from unirep_feast_icl.capsule import CapsuleEncoder
from unirep_feast_icl.config import CapsuleSettings, EncoderSettings
from unirep_feast_icl.encoder import IclEncoder

ITEMS = 27


@pytest.fixture(autouse=True)
def _one_seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def titles() -> list[str | None]:
    """Titles of 27 items; every fifth has none."""
    random = np.random.default_rng(0)
    words = ["red", "green", "lamp", "mug", "bag", "clock", "glass"]
    return [
        " ".join(random.choice(words, random.integers(1, 4))) if n % 5 else None
        for n in range(ITEMS)
    ]


@pytest.fixture
def catalogue(titles: list[str | None]) -> ItemTable:
    """An item table whose items are all known."""
    ids = pa.array(range(ITEMS), pa.int64())
    table = pa.table(
        {
            "item_id": ids,
            "title": pa.array(titles, pa.string()),
            "category": pa.nulls(ITEMS, pa.list_(pa.string())),
        }
    )
    return ItemTable.build(Vocabulary(ids, pa.array([1] * ITEMS)), table)


@pytest.fixture
def batch_of() -> Callable[..., SequenceBatch]:
    """Build a batch of histories given as lists of codes; event i of a row happens at time i."""

    def build(rows: Sequence[Sequence[int]], width: int | None = None) -> SequenceBatch:
        lengths = torch.tensor([len(row) for row in rows], dtype=torch.int64)
        longest = max((len(row) for row in rows), default=0)
        return SequenceBatch(
            codes=torch.tensor([code for row in rows for code in row], dtype=torch.int64),
            times=torch.tensor([t for row in rows for t in range(len(row))], dtype=torch.int64),
            lengths=lengths,
            users=torch.arange(len(rows)),
            as_of=lengths,
            width=width if width is not None else max(longest, 1),
        )

    return build


@pytest.fixture
def random_rows() -> Callable[..., list[list[int]]]:
    """Draw histories of random lengths (0 to ``longest``) and codes."""

    def draw(rows: int, longest: int = 9, seed: int = 0) -> list[list[int]]:
        random = np.random.default_rng(seed)
        return [
            random.integers(1, FIRST_ITEM + ITEMS, random.integers(0, longest + 1)).tolist()
            for _ in range(rows)
        ]

    return draw


@pytest.fixture
def encoder(catalogue: ItemTable) -> Callable[..., IclEncoder]:
    """Build a small float64 encoder over the catalogue, in ``eval()``."""

    def build(**settings: Any) -> IclEncoder:
        small = {"dim": 8, "vectors": 3, "interests": 7, "max_events": 12, "behavior": "id"}
        parsed = EncoderSettings.model_validate({**small, **settings})
        built = IclEncoder(len(catalogue), parsed, prepare_behaviors(parsed, catalogue))
        built.bind(catalogue)
        return built.double().eval()

    return build


@pytest.fixture
def capsules(catalogue: ItemTable) -> Callable[..., CapsuleEncoder]:
    """Build a small float64 capsule encoder over the catalogue, in ``eval()``."""

    def build(**settings: Any) -> CapsuleEncoder:
        small = {"dim": 8, "vectors": 3, "max_events": 12, "behavior": "id"}
        parsed = CapsuleSettings.model_validate({**small, **settings})
        built = CapsuleEncoder(len(catalogue), parsed, prepare_behaviors(parsed, catalogue))
        built.bind(catalogue)
        return built.double().eval()

    return build
