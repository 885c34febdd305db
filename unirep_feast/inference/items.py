"""Item vectors as of a time: fixed shapes, bit-equal."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from unirep_feast.batch import FIRST_ITEM, UNK
from unirep_feast.blame import failure
from unirep_feast.errors import ContractError, PluginError, UnirepError
from unirep_feast.inference.users import Inference
from unirep_feast.sequences import Sequences
from unirep_feast.snapshot import ItemBlock
from unirep_feast.snapshot.writing import rows_per_table


def embed_items(inference: Inference, sequences: Sequences, as_of: int) -> Iterator[ItemBlock]:
    """Yield vectors of the items that have an event before a time.

    The item table says nothing of when an item came up, so an event before T is what makes an item
    known as of T. An item that the encoder cannot tell from an unknown one (it came after the
    training, and has nothing that the encoder reads) would have the vector of all such items; it is
    left out.

    A call of the encoder always gets the same codes at the same places, so which other items are
    known changes no bit of an item's vector.

    Args:
        inference: of an encoder that provides ``items``, with the item table bound.
        sequences: events; those at or after ``as_of`` count for nothing.
        as_of: T, microseconds, exclusive.

    Yields:
        Items by their code: those of the vocabulary by falling number of events in training, then
        the others by id.

    Raises:
        ContractError: vectors have the wrong shape or are not finite.
        PluginError: the encoder failed.
    """
    table = sequences.items
    seen = _seen(sequences, as_of)
    size = min(inference.config.cells, rows_per_table(inference.encoder.dim))
    unknown = _embed(inference, torch.full((size,), UNK))[0]
    for start in range(FIRST_ITEM, len(table), size):
        codes = torch.arange(start, min(start + size, len(table)))
        wanted = seen[start : start + size].clone()
        if not bool(wanted.any()):
            continue
        filled = torch.cat((codes, torch.full((size - len(codes),), UNK)))
        vectors = _embed(inference, filled)[: len(codes)]
        wanted &= (codes < table.known) | (vectors != unknown).any(dim=1)
        rows = torch.nonzero(wanted).flatten()
        if len(rows):
            ids = table.item_ids.take(pa.array((codes[rows] - FIRST_ITEM).numpy()))
            yield _finite(inference, ItemBlock(ids, vectors[rows].numpy()))


def _seen(sequences: Sequences, as_of: int) -> Tensor:
    """(codes,) bool, whether an item has an event before a time."""
    seen = torch.zeros(len(sequences.items), dtype=torch.bool)
    # A piece at a time: the columns may be mapped, and longer than memory.
    pieces = (torch.split(column, 1 << 24) for column in (sequences.codes, sequences.times))
    for codes, times in zip(*pieces, strict=True):
        seen[codes[times < as_of].long()] = True
    return seen


@torch.inference_mode()
def _embed(inference: Inference, codes: Tensor) -> Tensor:
    """(n, D) float32 vectors of (n,) codes, on the CPU."""
    encoder, part = inference.encoder, inference.part
    try:
        vectors = encoder.embed_items(codes.to(inference.device))
    except torch.OutOfMemoryError:
        raise PluginError(
            f"{part}: {inference.device} is out of memory with {len(codes):,} items at "
            "once; lower encode.cells"
        ) from None
    except UnirepError:
        raise
    except (Exception, SystemExit) as error:
        raise failure(part, "embed_items", error, f"of {len(codes):,} items") from error
    wanted = (len(codes), encoder.dim)
    if not isinstance(vectors, Tensor) or tuple(vectors.shape) != wanted:
        found = tuple(vectors.shape) if isinstance(vectors, Tensor) else type(vectors).__name__
        raise ContractError(f"{part} returned item vectors {found}; it declares (n, D) = {wanted}")
    return vectors.float().cpu()


def _finite(inference: Inference, block: ItemBlock) -> ItemBlock:
    bad = ~np.isfinite(block.vectors).all(axis=1)
    if bad.any():
        items = block.items.filter(pa.array(bad)).slice(0, 5).to_pylist()
        raise ContractError(
            f"{inference.part}: the vectors of {int(bad.sum()):,} items hold NaN or "
            f"infinity ({', '.join(map(str, items))}{', …' if bad.sum() > 5 else ''}); the model "
            "diverged, train with a lower training.learning_rate"
        )
    return block
