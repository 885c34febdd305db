"""A behavior as the words of its title, read by a CNN or by self-attention."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unirep_feast.batch import FIRST_ITEM, PAD, UNK, bucket_width
from unirep_feast.item_words import ItemWords, load_words
from unirep_feast.items import ItemTable
from unirep_feast_userbert.attention import AttentivePooling, SelfAttention
from unirep_feast_userbert.config import EncoderSettings

#: Titles that go through the network together in ``eval()``, always so many.
_BLOCK = 128


class WordNetwork(nn.Module):
    """Words in context, pooled: CNN as in NAML and LSTUR, or self-attention as in NRMS.

    Args:
        dim: D, of words and of the result.
        settings: see :class:`EncoderSettings`.

    Shape:
        words: (n, W, D); mask: (n, W) bool; returns (n, D).
    """

    def __init__(self, settings: EncoderSettings) -> None:
        super().__init__()
        dim = settings.dim
        self.dropout = nn.Dropout(settings.dropout)
        self.attention = (
            SelfAttention(dim, settings.heads) if settings.parts.behavior == "attention" else None
        )
        self.convolution = (
            nn.Conv1d(dim, dim, settings.window, padding=settings.window // 2)
            if settings.parts.behavior == "cnn"
            else None
        )
        self.pool = AttentivePooling(dim, settings.query)

    def forward(self, words: Tensor, mask: Tensor) -> Tensor:
        """Read titles."""
        x = self.dropout(words) * mask[:, :, None]
        if self.convolution is not None:
            x = F.relu(self.convolution(x.transpose(1, 2)).transpose(1, 2))
        if self.attention is not None:
            x = self.attention(x, mask)
        pooled: Tensor = self.pool(self.dropout(x), mask)
        return pooled


class TitleBehaviors(nn.Module):
    """Reads titles; MASK, and items without a known word, have a vector of their own each.

    Titles are grouped by their number of words, so cost follows words and not the longest title,
    and each distinct item is read once. Without gradients in ``eval()`` titles pass in blocks of
    one size and are kept until weights may change: an item has the same bits beside any others,
    and a catalogue is read once however many users touch it.

    Args:
        settings: see :class:`EncoderSettings`.
        prepared: the words, from :func:`~unirep_feast.item_words.fit_words`.
    """

    def __init__(self, settings: EncoderSettings, prepared: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.vocabulary = load_words(prepared)
        self.text = settings.text
        std = settings.dim**-0.5
        self.words = nn.Embedding(len(self.vocabulary), settings.dim)
        self.wordless = nn.Embedding(FIRST_ITEM, settings.dim)
        for table in (self.words, self.wordless):
            nn.init.normal_(table.weight, std=std)
        self.network = WordNetwork(settings)
        nothing = torch.zeros(FIRST_ITEM + 1, dtype=torch.int64)
        # No buffers: both belong to the run-time catalogue, not to the weights.
        self._items = ItemWords(nothing[:0], nothing)
        self._kept: _Kept | None = None
        self.register_load_state_dict_post_hook(_loaded)  # type: ignore[no-untyped-call]

    def bind(self, items: ItemTable) -> None:
        """Pack the titles of the item table."""
        self._items = ItemWords.pack(items, self.vocabulary, self.text, unknown=False)
        self._forget()

    def train(self, mode: bool = True) -> TitleBehaviors:
        """Set the mode and forget what was kept: weights may have changed."""
        self._forget()
        super().train(mode)
        return self

    def forward(self, codes: Tensor) -> Tensor:
        """Embed (n,) int64 item codes to (n, D)."""
        if self._items.offsets.device != codes.device:
            self._items = self._items.to(codes.device)
        codes = codes.masked_fill(codes >= len(self._items.offsets) - 1, UNK)
        if not self.training and not torch.is_grad_enabled():
            return self._from_kept(codes)
        distinct, place = torch.unique(codes, return_inverse=True)
        return F.embedding(place, self._read(distinct))

    def _from_kept(self, codes: Tensor) -> Tensor:
        # What is made in inference mode could not be added to outside of it.
        with torch.inference_mode(False), torch.no_grad():
            if self._kept is None:
                self._kept = _Kept(len(self._items.offsets) - 1, self.words.weight)
            fresh = self._kept.missing(codes)
            if len(fresh):
                self._kept.add(fresh, self._read(fresh))
            return self._kept.take(codes)

    def _read(self, codes: Tensor) -> Tensor:
        """(n,) codes to (n, D), each read."""
        rows: Tensor = self.wordless(codes.clamp(max=UNK))
        values, lengths = self._items.take(codes)
        if values.numel() == 0:
            return rows
        starts = lengths.cumsum(0) - lengths
        for chosen, width in self._groups(lengths):
            # Whatever fills a block up is read in vain, so that its shape is always the same.
            short = 0 if self.training else _BLOCK - len(chosen)
            block = torch.cat((chosen, chosen[:1].expand(short)))
            place = torch.arange(width, device=codes.device)
            mask = place < lengths[block, None]
            at = (starts[block, None] + place).clamp(max=len(values) - 1)
            read: Tensor = self.network(self.words(values[at].masked_fill(~mask, PAD)), mask)
            rows = rows.index_copy(0, chosen, read[: len(chosen)])
        return rows

    def _groups(self, lengths: Tensor) -> Iterator[tuple[Tensor, int]]:
        """Places of titles of similar length, with their width; in ``eval()`` a block at a time."""
        longest, below = int(lengths.max()), 0
        while below < longest:
            width = bucket_width(below + 1)
            chosen = torch.nonzero((lengths > below) & (lengths <= width)).flatten()
            below = width
            if len(chosen):
                pieces = (chosen,) if self.training else torch.split(chosen, _BLOCK)
                yield from ((piece, width) for piece in pieces)

    def _forget(self) -> None:
        self._kept = None

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any) -> TitleBehaviors:
        self._forget()
        return cast(TitleBehaviors, super()._apply(fn, *args))  # type: ignore[no-untyped-call]


def _loaded(module: nn.Module, keys: object) -> None:
    cast(TitleBehaviors, module)._forget()


class _Kept:
    """Vectors of the items that were asked for so far; room grows with them.

    Args:
        codes: V, how many there may be.
        like: (., D) gives width, dtype and device.
    """

    def __init__(self, codes: int, like: Tensor) -> None:
        self.slots = torch.full((codes,), -1, dtype=torch.int64, device=like.device)
        self.vectors = like.new_empty(0, like.shape[1])
        self.count = 0

    def missing(self, codes: Tensor) -> Tensor:
        """Distinct codes among (n,) that are not kept."""
        distinct: Tensor = torch.unique(codes[self.slots[codes] < 0])
        return distinct

    def add(self, codes: Tensor, vectors: Tensor) -> None:
        """Keep (n, D) vectors of (n,) distinct codes that are missing."""
        end = self.count + len(codes)
        if end > len(self.vectors):
            room = vectors.new_empty(max(end, 2 * len(self.vectors)), vectors.shape[1])
            room[: self.count] = self.vectors[: self.count]
            self.vectors = room
        self.vectors[self.count : end] = vectors
        self.slots[codes] = torch.arange(self.count, end, device=codes.device)
        self.count = end

    def take(self, codes: Tensor) -> Tensor:
        """(n,) kept codes to (n, D)."""
        rows: Tensor = F.embedding(self.slots[codes], self.vectors)
        return rows
