from __future__ import annotations

from collections.abc import Callable, Sequence

import pyarrow as pa
import pytest
import torch

from unirep_feast.batch import FIRST_ITEM, SequenceBatch
from unirep_feast.instants import MICROSECONDS_PER_DAY
from unirep_feast.items import ItemTable
from unirep_feast_guim.catalogue import fit_catalogue
from unirep_feast_guim.config import EncoderSettings
from unirep_feast_guim.encoder import GuimEncoder

#: When the histories made here are looked at.
AS_OF = 1000 * MICROSECONDS_PER_DAY

#: (item code, days before AS_OF)
Event = tuple[int, float]

SMALL: dict[str, object] = {
    "dim": 8,
    "vectors": 3,
    "layers": 2,
    "item_dim": 4,
    "category_dim": 4,
    "word_dim": 4,
    "dropout": 0.0,
}


@pytest.fixture(autouse=True)
def _one_seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def items() -> Callable[..., ItemTable]:
    """Build an item table; ``known`` of its items are in the vocabulary."""

    def build(
        count: int = 20,
        known: int | None = None,
        titles: Sequence[str | None] | None = None,
        categories: Sequence[Sequence[str | None] | None] | None = None,
    ) -> ItemTable:
        if titles is None:
            titles = [f"word{n % 5} word{n % 3}" for n in range(count)]
        if categories is None:
            categories = [["top", f"leaf {n % 4}"] for n in range(count)]
        return ItemTable(
            item_ids=pa.array(range(count), pa.int64()),
            titles=pa.array(titles, pa.string()),
            categories=pa.array(categories, pa.list_(pa.string())),
            known=FIRST_ITEM + (count if known is None else known),
        )

    return build


@pytest.fixture
def encoder(items: Callable[..., ItemTable]) -> Callable[..., GuimEncoder]:
    """Build a small encoder over 20 items, bound, in ``eval()``."""

    def build(table: ItemTable | None = None, **settings: object) -> GuimEncoder:
        table = items() if table is None else table
        parsed = EncoderSettings.model_validate({**SMALL, **settings})
        made = GuimEncoder(table.known, parsed, fit_catalogue(parsed, table))
        made.bind(table)
        return made.eval()

    return build


@pytest.fixture
def batch_of() -> Callable[..., SequenceBatch]:
    """Build a batch of histories as of AS_OF, given as (code, days before) pairs, oldest first."""

    def build(rows: Sequence[Sequence[Event]], width: int | None = None) -> SequenceBatch:
        events = [event for row in rows for event in row]
        lengths = torch.tensor([len(row) for row in rows], dtype=torch.int64)
        times = [AS_OF - round(days * MICROSECONDS_PER_DAY) for _, days in events]
        return SequenceBatch(
            codes=torch.tensor([code for code, _ in events], dtype=torch.int64),
            times=torch.tensor(times, dtype=torch.int64),
            lengths=lengths,
            users=torch.arange(len(rows)),
            as_of=torch.full_like(lengths, AS_OF),
            width=width or max(int(lengths.max()), 1),
        )

    return build
