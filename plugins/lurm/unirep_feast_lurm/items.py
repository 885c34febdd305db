"""Item vectors: words of a title, or the item itself, through two residual blocks (Eq 1)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unirep_feast.batch import FIRST_ITEM, PAD, SequenceBatch
from unirep_feast.encoder import Encoded
from unirep_feast.item_words import MeanWords
from unirep_feast.items import ItemTable
from unirep_feast.sequences import Window
from unirep_feast.text import TextSettings
from unirep_feast_lurm.blocks import in_blocks
from unirep_feast_lurm.config import ItemSettings

#: Prefix of the item encoder's weights in the prepared state.
WEIGHTS = "items.encoder."

#: Kinds of item vectors that read no titles, and those that are not learnt by contrast.
BY_ID = frozenset({"id", "cooccurrence"})
UNTRAINED = frozenset({"word2vec", "cooccurrence"})


class ResidualBlock(nn.Module):
    """Two layers around which the input is added; the paper says no more of its blocks."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.inner = nn.Linear(dim, dim)
        self.outer = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., dim) to (..., dim)."""
        out: Tensor = x + self.outer(F.relu(self.inner(x)))
        return out


class IdTable(nn.Module):
    """One vector per item of the vocabulary; all other codes have none."""

    def __init__(self, codes: int, dim: int) -> None:
        super().__init__()
        self.items = nn.Embedding(codes, dim, padding_idx=PAD)
        nn.init.normal_(self.items.weight, std=dim**-0.5)

    def bind(self, items: ItemTable) -> None:
        """Accept an item table; only ids are read."""

    def rows(self, codes: Tensor) -> Tensor:
        """Embed (n,) codes to (n, dim)."""
        out: Tensor = self.items(codes.masked_fill(~self.known(codes), PAD))
        return out

    def known(self, codes: Tensor) -> Tensor:
        """Say which of some codes have a vector."""
        return (codes >= FIRST_ITEM) & (codes < self.items.num_embeddings)


class ItemEncoder(nn.Module):
    """Vectors of items, of length one; and the mean of a history's as a plain user vector.

    Eq 1: words are averaged and projected by two residual blocks; the word2vec variant has no
    projection. An item without a known word, or without a row of its own (``items: id``), has no
    vector: zeros. It is an encoder in its own right so that the host can train it, and publish
    item vectors.

    Args:
        codes: V, number of codes in the vocabulary, PAD, MASK and UNK included.
        settings: see :class:`ItemSettings`.
        prepared: the words, and the weights where they are trained; see
            :func:`~unirep_feast_lurm.interests.prepare_items`.
    """

    num_vectors = 1
    window = Window()
    depends_on_as_of = False
    provides = frozenset({"items", "batch_independent"})

    def __init__(self, codes: int, settings: ItemSettings, prepared: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.dim = d = settings.item_dim
        self.table: MeanWords | IdTable
        if settings.items in BY_ID:
            self.table = IdTable(codes, d)
        else:
            self.table = MeanWords(prepared, limited(settings, prepared), d)
        blocks = 0 if settings.items in UNTRAINED else 2
        self.project = nn.Sequential(*(ResidualBlock(d) for _ in range(blocks)))
        trained = {
            key.removeprefix(WEIGHTS): value
            for key, value in prepared.items()
            if key.startswith(WEIGHTS)
        }
        if trained:
            self.load_state_dict(trained)

    def bind(self, items: ItemTable) -> None:
        """Take in the titles of the item table."""
        self.table.bind(items)

    def known(self, codes: Tensor) -> Tensor:
        """Say which of some item codes have a vector: bool of the same shape."""
        return self.table.known(codes)

    def embed_items(self, codes: Tensor) -> Tensor:
        """Return (n, d) vectors of (n,) codes, of length one, or zeros where there is none."""
        rows = self.table.rows(codes)  # (n, d)
        vectors = F.normalize(in_blocks(self.project, rows).to(rows.dtype), dim=-1)
        return vectors * self.known(codes)[:, None]

    def forward(self, batch: SequenceBatch, *, steps: bool = False) -> Encoded:
        """Average the item vectors of each history; zeros for one without any."""
        codes, place = torch.unique(batch.codes, return_inverse=True)
        vectors = self.embed_items(codes)
        if not len(codes):
            vectors = vectors.new_zeros(1, self.dim)
        users = F.embedding_bag(place, vectors, batch.offsets[:-1], mode="mean")
        return Encoded(users[:, None])  # (B, 1, d)

    def penalties(self, extras: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Item vectors have no whole-batch terms."""
        return {}


def limited(settings: ItemSettings, prepared: Mapping[str, Tensor]) -> TextSettings:
    """Return how titles become words, with the word limit that was fitted."""
    if "words.limit" not in prepared:
        return settings.text
    return settings.text.model_copy(update={"max_words": int(prepared["words.limit"])})
