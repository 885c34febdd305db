"""Titles of a history's items as padded words, for models that read text."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from unirep_feast.batch import SequenceBatch
from unirep_feast.errors import EventsError
from unirep_feast.item_words import ItemWords, fit_words, load_words
from unirep_feast.items import ItemTable
from unirep_feast.sequences import Sequences
from unirep_feast.text import PAD
from unirep_feast_baselines.config import TextEncoderSettings


class Reader(nn.Module):
    """Looks up the words of items, and embeds them; unknown words share a vector.

    Args:
        settings: which words, and how wide they are.
        prepared: from :func:`prepare_words`.
    """

    def __init__(self, settings: TextEncoderSettings, prepared: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.settings = settings.text
        self.vocabulary = load_words(prepared)
        self.words = nn.Embedding(len(self.vocabulary), settings.word_dim, padding_idx=PAD)
        nothing = torch.zeros(4, dtype=torch.int64)
        self._items = ItemWords(nothing[:0], nothing)

    def bind(self, items: ItemTable) -> None:
        """Pack the words of the run-time item table."""
        self._items = ItemWords.pack(items, self.vocabulary, self.settings)

    def by_event(self, batch: SequenceBatch, words: int) -> Tensor:
        """Word codes of every event in a row of its own: (B, T, W) int64, PAD behind the last."""
        values, lengths = self._take(batch)
        steps = _places(lengths)
        packed = values.new_full((len(lengths), words), PAD)
        kept = steps < words
        event = torch.repeat_interleave(torch.arange(len(lengths), device=values.device), lengths)
        packed[event[kept], steps[kept]] = values[kept]
        return batch.pad(packed, PAD)

    def by_user(self, batch: SequenceBatch, words: int) -> Tensor:
        """Words of all events, the oldest's first: (B, L) int64, PAD behind the last.

        L is ``words`` times the batch's width, so that it follows from its shape alone.
        """
        values, lengths = self._take(batch)
        rows = torch.repeat_interleave(batch.rows, lengths)
        total = torch.bincount(rows, minlength=len(batch))
        out = values.new_full((len(batch), words * batch.width), PAD)
        out[rows, _places(total)] = values
        return out

    def _take(self, batch: SequenceBatch) -> tuple[Tensor, Tensor]:
        if self._items.offsets.device != batch.device:
            self._items = self._items.to(batch.device)
        return self._items.take(batch.codes)


def prepare_words(settings: TextEncoderSettings, sequences: Sequences) -> dict[str, Tensor]:
    """Fit the words of the titles seen before the training cut-off.

    Raises:
        EventsError: there is not one word.
    """
    prepared = fit_words(sequences.items, settings.text)
    if not len(prepared["words.lengths"]):
        raise EventsError(
            "baselines.textcnn and baselines.han read item titles, but none of the items seen "
            "before the training cut-off has a word; name a table with titles under `items`"
        )
    return prepared


def _places(lengths: Tensor) -> Tensor:
    """0, 1, … within each of some runs laid end to end: (M,) int64."""
    ends = lengths.cumsum(0)
    starts = torch.repeat_interleave(ends - lengths, lengths)
    return torch.arange(len(starts), device=lengths.device) - starts
