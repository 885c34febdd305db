"""What is known of items beside their ids: categories and titles, fitted once, read at run time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor, nn

from unirep_feast.batch import FIRST_ITEM
from unirep_feast.errors import CheckpointError
from unirep_feast.item_words import fit_words
from unirep_feast.items import ItemTable
from unirep_feast.text import WordVocabulary
from unirep_feast_guim.config import EncoderSettings

#: Between the levels of a path; in no sensible name of one.
_LEVEL = "\x1f"
_KEYS = ("categories.bytes", "categories.lengths")


def fit_catalogue(settings: EncoderSettings, items: ItemTable) -> dict[str, Tensor]:
    """Fit the vocabularies of words and categories on the items that had events, for ``prepare``.

    Returns:
        Both as tensors, which the checkpoint keeps.
    """
    known = category_names(items.categories, settings.category).slice(0, items.known - FIRST_ITEM)
    # A category is one word here; a vocabulary orders them by items, the most frequent first.
    named = known.drop_null()
    lists = pa.ListArray.from_arrays(np.arange(len(named) + 1, dtype=np.int32), named)
    names = WordVocabulary.fit(lists).words.cast(pa.binary()).to_pylist()
    return {
        **fit_words(items, settings.text),
        "categories.bytes": torch.frombuffer(
            bytearray(b"".join(names) or b"\0"), dtype=torch.uint8
        ),
        "categories.lengths": torch.tensor([len(name) for name in names], dtype=torch.int64),
    }


def category_names(categories: pa.Array, kind: Literal["path", "last"]) -> pa.Array:
    """Say which category each item is in.

    Args:
        categories: (n,) list<string>, broadest level first.
        kind: ``path``: all levels together name a category; ``last``: the most specific one does.

    Returns:
        (n,) string, null where nothing is known.
    """
    lengths = pc.fill_null(pc.list_value_length(categories), 0).to_numpy(zero_copy_only=False)
    flat = pc.fill_null(categories.flatten().cast(pa.string()), "")
    ends = np.cumsum(lengths, dtype=np.int64)
    if kind == "last":
        place = pa.array(ends - 1, mask=lengths == 0)
        return flat.take(place)
    offsets = np.concatenate(([0], ends)).astype(np.int32)
    joined = pc.binary_join(pa.ListArray.from_arrays(offsets, flat), _LEVEL)
    return pc.if_else(pa.array(lengths > 0), joined, pa.scalar(None, pa.string()))


class Categories(nn.Module):
    """The category-id embedding table; id 0 is that of items whose category is not known.

    Args:
        prepared: what :func:`fit_catalogue` gave.
        kind: that of the fit.
        dim: d_c, numbers per category.
    """

    def __init__(
        self, prepared: Mapping[str, Tensor], kind: Literal["path", "last"], dim: int
    ) -> None:
        super().__init__()
        self.kind = kind
        self.names = _names(prepared)
        self.table = nn.Embedding(len(self.names) + 1, dim)
        nn.init.normal_(self.table.weight, std=dim**-0.5)
        with torch.no_grad():
            # Where no category is known, all items would begin alike in this.
            self.table.weight[0] = 0
        self._ids = torch.zeros(FIRST_ITEM, dtype=torch.int64)

    def bind(self, items: ItemTable) -> None:
        """Look up the categories of the run-time item table; those not seen in training are 0."""
        found = pc.index_in(category_names(items.categories, self.kind), value_set=self.names)
        ids = pc.fill_null(found, -1).to_numpy(zero_copy_only=False).astype(np.int64) + 1
        # No buffer: it belongs to the run-time catalogue, not to the weights.
        self._ids = torch.from_numpy(np.concatenate((np.zeros(FIRST_ITEM, np.int64), ids)))

    def forward(self, codes: Tensor) -> Tensor:
        """Embed (n,) item codes to (n, d_c)."""
        if self._ids.device != codes.device:
            self._ids = self._ids.to(codes.device)
        rows: Tensor = self.table(self._ids[codes])
        return rows

    def __len__(self) -> int:
        """Return how many item codes are bound, PAD, MASK and UNK included."""
        return len(self._ids)


def _names(prepared: Mapping[str, Tensor]) -> pa.Array:
    missing = [key for key in _KEYS if key not in prepared]
    if missing:
        raise CheckpointError(
            f"prepared state: {', '.join(missing)} not found, wanted the categories of the items; "
            "the checkpoint is damaged, use another or train again"
        )
    data, lengths = (prepared[key].cpu().numpy() for key in _KEYS)
    offsets = np.concatenate(([0], np.cumsum(lengths))).astype(np.int32)
    return pa.StringArray.from_buffers(len(lengths), pa.py_buffer(offsets), pa.py_buffer(data))
