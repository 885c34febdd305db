"""Blocks: which numbers of a vector are whose, where several things stand side by side."""

from __future__ import annotations

import json
from collections.abc import Mapping

from unirep_feast.errors import ContractError, StoreError

#: By name, where a block's numbers begin and end among the K · D of a user.
Blocks = Mapping[str, tuple[int, int]]


def declared_blocks(encoder: object, width: int, who: str) -> dict[str, tuple[int, int]]:
    """Read the blocks an encoder declares; most declare none.

    Args:
        encoder: may have an attribute ``blocks``.
        width: K · D.
        who: the encoder, for errors.

    Raises:
        ContractError: they are no names with places among the numbers, or two overlap.
    """
    found = getattr(encoder, "blocks", None) or {}
    try:
        blocks = {str(name): (int(start), int(stop)) for name, (start, stop) in found.items()}
    except (AttributeError, TypeError, ValueError):
        raise ContractError(
            f"{who}: blocks is {found!r}; wanted a mapping of names to (start, stop)"
        ) from None
    end = 0
    for name, (start, stop) in sorted(blocks.items(), key=lambda item: item[1]):
        if not end <= start < stop <= width:
            raise ContractError(
                f"{who}: block {name!r} is {start}:{stop}; wanted a place of its own among "
                f"{width} numbers"
            )
        end = stop
    return blocks


def write_blocks(blocks: Blocks) -> str:
    """Blocks as the footer of a snapshot and the tags of a feature view hold them."""
    return json.dumps({name: list(place) for name, place in blocks.items()})


def read_blocks(text: str | bytes | None) -> dict[str, tuple[int, int]]:
    """Undo :func:`write_blocks`; nothing without a text.

    >>> read_blocks(write_blocks({"taste": (0, 8), "rhythm": (8, 10)}))
    {'taste': (0, 8), 'rhythm': (8, 10)}
    """
    if not text:
        return {}
    return {str(name): (int(start), int(stop)) for name, (start, stop) in json.loads(text).items()}


def place_of(blocks: Blocks, name: str, width: int, who: str) -> slice:
    """Where a block's numbers are.

    Args:
        blocks: of the run that made the vectors.
        name: of the block.
        width: numbers the vectors have.
        who: what has the blocks, for errors.

    Raises:
        StoreError: there is no such block, or the vectors are narrower than it reaches.
    """
    if name not in blocks:
        known = ", ".join(blocks) or "none: its vectors are of one piece"
        raise StoreError(f"{who} has no block {name!r}; found {known}")
    start, stop = blocks[name]
    if stop > width:
        raise StoreError(
            f"{who}: block {name!r} is {start}:{stop}, but these vectors have {width} numbers: of "
            "another run; run `feast apply` and `feast materialize` after promoting"
        )
    return slice(start, stop)
