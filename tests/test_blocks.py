"""Blocks: what an encoder may declare, what is written, and what is read back."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unirep_feast.blocks import declared_blocks, place_of, read_blocks, write_blocks
from unirep_feast.errors import ContractError, StoreError


@given(st.dictionaries(st.text(min_size=1), st.integers(1, 50), max_size=6), st.integers(0, 5))
def test_blocks_survive_their_text(widths: dict[str, int], gap: int) -> None:
    """Whatever their names; gaps between them are allowed."""
    blocks, end = {}, 0
    for name, width in widths.items():
        blocks[name] = (end + gap, end + gap + width)
        end += gap + width

    declared = declared_blocks(SimpleNamespace(blocks=blocks), end, "encoder")

    assert read_blocks(write_blocks(declared)) == blocks
    numbers = list(range(end))
    for name, (start, stop) in blocks.items():
        assert numbers[place_of(blocks, name, end, "view")] == numbers[start:stop]


def test_most_encoders_declare_none() -> None:
    """Then nothing is written, and no text means none."""
    assert declared_blocks(SimpleNamespace(), 8, "encoder") == {}
    assert read_blocks(None) == {}


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ({"a": (0, 9)}, "block 'a' is 0:9; wanted a place of its own among 8 numbers"),
        ({"a": (0, 4), "b": (3, 8)}, "block 'b' is 3:8"),
        ({"a": (4, 4)}, "block 'a' is 4:4"),
        ({"a": (-1, 4)}, "block 'a' is -1:4"),
        ({"a": 4}, "wanted a mapping of names to"),
        (["a"], "wanted a mapping of names to"),
    ],
    ids=["too wide", "overlap", "empty", "negative", "no pair", "no mapping"],
)
def test_what_is_no_place_is_refused(blocks: Any, message: str) -> None:
    """Before anything is trained: `check_encoder` asks."""
    with pytest.raises(ContractError, match=message):
        declared_blocks(SimpleNamespace(blocks=blocks), 8, "encoder 'x'")


def test_narrower_vectors_are_of_another_run() -> None:
    """A block that reaches beyond them is not cut short."""
    with pytest.raises(StoreError, match="have 5 numbers: of another run"):
        place_of({"a": (4, 8)}, "a", 5, "view")
