"""Item titles as words, for encoders that read text: fitted once, packed by item code, averaged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unirep_feast.batch import FIRST_ITEM
from unirep_feast.errors import CheckpointError, one_line
from unirep_feast.items import ItemTable
from unirep_feast.text import UNK, TextSettings, WordVocabulary, joined, tokenize

#: What :func:`fit_words` puts into the prepared state.
_KEYS = ("words.bytes", "words.lengths", "words.counts")


def fit_words(items: ItemTable, settings: TextSettings) -> dict[str, Tensor]:
    """Fit a word vocabulary on the items of the item vocabulary, for an encoder's ``prepare``.

    Items that had no event before the training cut-off have no say: the checkpoint must not depend
    on what was not known by then.

    Args:
        items: at training; only its first ``known`` codes are read.
        settings: language, limits, with or without categories.

    Returns:
        The vocabulary as tensors, which the checkpoint keeps; see :func:`load_words`.
    """
    tokens = _tokens(items, settings).slice(0, items.known - FIRST_ITEM)
    words = WordVocabulary.fit(tokens, settings.max_size, settings.min_count)
    encoded = words.words.cast(pa.binary()).to_pylist()
    return {
        "words.bytes": torch.frombuffer(bytearray(b"".join(encoded) or b"\0"), dtype=torch.uint8),
        "words.lengths": torch.tensor([len(word) for word in encoded], dtype=torch.int64),
        "words.counts": torch.tensor(words.counts.to_pylist(), dtype=torch.int64),
    }


def load_words(prepared: Mapping[str, Tensor]) -> WordVocabulary:
    """Undo :func:`fit_words`.

    Raises:
        CheckpointError: the tensors are not there, or do not hold words.
    """
    missing = [key for key in _KEYS if key not in prepared]
    if missing:
        raise CheckpointError(
            f"prepared state: {', '.join(missing)} not found, wanted the words of the item texts; "
            "the checkpoint is damaged, use another or train again"
        )
    data, lengths, counts = (prepared[key].cpu().numpy() for key in _KEYS)
    offsets = np.concatenate(([0], np.cumsum(lengths))).astype(np.int32)
    try:
        buffers = [None, pa.py_buffer(offsets), pa.py_buffer(data)]
        words = pa.StringArray.from_buffers(len(lengths), *buffers[1:])
        words.validate(full=True)
    except pa.ArrowException as error:
        raise CheckpointError(
            f"prepared state: the words of the item texts cannot be read ({one_line(error)}); "
            "the checkpoint is damaged, use another or train again"
        ) from None
    return WordVocabulary.from_table(pa.table({"word": words, "count": pa.array(counts)}))


@dataclass(frozen=True)
class ItemWords:
    """The words of every item, packed by item code; PAD, MASK and UNK have none.

    Attributes:
        values: (M,) int64 word codes, see :class:`~unirep_feast.text.WordVocabulary`.
        offsets: (C + 1,) int64; item code c has words ``values[offsets[c]:offsets[c + 1]]``.
    """

    values: Tensor
    offsets: Tensor

    @classmethod
    def pack(
        cls,
        items: ItemTable,
        words: WordVocabulary,
        settings: TextSettings,
        unknown: bool = True,
    ) -> ItemWords:
        """Pack the words of an item table, for an encoder's ``bind``.

        Args:
            items: at run time; appended items have their words too.
            words: fitted at training.
            settings: those of the fit.
            unknown: keep words that the vocabulary does not know, as UNK; False leaves them out
                (after texts are cut to ``max_words``).
        """
        values, ends = words.encode(_tokens(items, settings), settings.max_words)
        if not unknown:
            kept = values != UNK
            before = np.concatenate(([0], np.cumsum(kept)))
            values, ends = values[kept], before[ends]
        offsets = np.concatenate((np.zeros(FIRST_ITEM, np.int64), ends))
        return cls(torch.from_numpy(values), torch.from_numpy(offsets))

    @property
    def counts(self) -> Tensor:
        """(C,) int64 words per item code."""
        return self.offsets.diff()

    def take(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Gather the words of some items.

        Args:
            codes: (n,) int64 item codes, repeated ones too.

        Returns:
            values: (m,) int64 word codes, item after item.
            lengths: (n,) int64 words of each.
        """
        lengths = self.offsets[codes + 1] - self.offsets[codes]
        ends = lengths.cumsum(0)
        total = int(ends[-1]) if ends.numel() else 0
        shift = self.offsets[codes] - (ends - lengths)
        place = torch.repeat_interleave(shift, lengths, output_size=total)
        return self.values[place + torch.arange(total, device=codes.device)], lengths

    def to(self, device: torch.device | str) -> ItemWords:
        """Move to a device."""
        return ItemWords(self.values.to(device), self.offsets.to(device))


class MeanWords(nn.Module):
    """An item as the mean of its words' embeddings; items without a known word are zeros.

    An item's vector is the same to the last bit whatever is looked up beside it. The packed words
    are no buffers: they belong to the run-time catalogue, and ranks need not exchange them.

    Args:
        prepared: the state :func:`fit_words` gave.
        settings: those of the fit.
        dim: D, numbers per word.
        std: of the embeddings to begin with; None: 1 / √D, for lengths of about 1.
    """

    def __init__(
        self,
        prepared: Mapping[str, Tensor],
        settings: TextSettings,
        dim: int,
        std: float | None = None,
    ) -> None:
        super().__init__()
        self.vocabulary = load_words(prepared)
        self.settings = settings
        self.words = nn.Embedding(len(self.vocabulary), dim)
        nn.init.normal_(self.words.weight, std=dim**-0.5 if std is None else std)
        nothing = torch.zeros(FIRST_ITEM + 1, dtype=torch.int64)
        self._items = ItemWords(nothing[:0], nothing)

    def bind(self, items: ItemTable) -> None:
        """Pack the words of the run-time item table."""
        self._items = ItemWords.pack(items, self.vocabulary, self.settings, unknown=False)

    def forward(self, codes: Tensor) -> Tensor:
        """Embed item codes of any shape (...) to (..., D); each distinct item is computed once."""
        distinct, place = torch.unique(codes, return_inverse=True)
        return F.embedding(place, self.rows(distinct))

    def rows(self, codes: Tensor) -> Tensor:
        """Embed (n,) item codes to (n, D), one mean per code given."""
        values, lengths = self._on(codes.device).take(codes)
        return F.embedding_bag(values, self.words.weight, lengths.cumsum(0) - lengths, mode="mean")

    def known(self, codes: Tensor) -> Tensor:
        """Say which of some item codes have a known word: bool of the same shape."""
        return self._on(codes.device).counts[codes] > 0

    def _on(self, device: torch.device) -> ItemWords:
        if self._items.offsets.device != device:
            self._items = self._items.to(device)
        return self._items


def _tokens(items: ItemTable, settings: TextSettings) -> pa.ListArray:
    columns = (items.titles, items.categories) if settings.categories else (items.titles,)
    return tokenize(joined(*columns), settings.language)
