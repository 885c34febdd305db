"""Supervised upper lines: TextCNN and HAN over the words of a history, trained on labels."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unirep_feast.batch import SequenceBatch
from unirep_feast.encoder import Encoded
from unirep_feast.errors import ContractError
from unirep_feast.items import ItemTable
from unirep_feast.sequences import Window
from unirep_feast.text import PAD
from unirep_feast_baselines.config import HanSettings, TextCnnSettings, TextEncoderSettings
from unirep_feast_baselines.reading import Reader


class TextEncoder(nn.Module):
    """What both have in common: one vector per user, out of the words of the latest events."""

    num_vectors = 1
    depends_on_as_of = False
    provides = frozenset({"batch_independent"})

    def __init__(self, settings: TextEncoderSettings, prepared: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.dim = settings.dim
        self.window = Window(max_events=settings.max_events)
        self.reader = Reader(settings, prepared)
        self.dropout = nn.Dropout(settings.dropout)

    def bind(self, items: ItemTable) -> None:
        """Take in the titles."""
        self.reader.bind(items)

    def embed_items(self, codes: Tensor) -> Tensor:
        """Refuse: items have no vectors in the space of users."""
        raise ContractError(f"{type(self).__name__} has no item vectors")

    def penalties(self, extras: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """There are no whole-batch terms."""
        return {}


class TextCnnEncoder(TextEncoder):
    """Kim (2014): filters over the words of the whole history, their maxima, one layer.

    Args:
        settings: see :class:`TextCnnSettings`.
        prepared: from :func:`~unirep_feast_baselines.reading.prepare_words`.
    """

    def __init__(self, settings: TextCnnSettings, prepared: Mapping[str, Tensor]) -> None:
        super().__init__(settings, prepared)
        self.most = settings.text.max_words or 16
        self.filters = nn.ModuleList(
            nn.Conv1d(settings.word_dim, settings.filters, height) for height in settings.heights
        )
        self.out = nn.Linear(settings.filters * len(settings.heights), settings.dim)

    def forward(self, batch: SequenceBatch, *, steps: bool = False) -> Encoded:
        """Encode a batch to (B, 1, D)."""
        words = self.reader.by_user(batch, self.most)  # (B, L)
        there = words != PAD
        x = self.dropout(self.reader.words(words)).transpose(1, 2)  # (B, W, L)
        found = []
        for filters in self.filters:
            assert isinstance(filters, nn.Conv1d)  # noqa: S101 - for the type checker
            # A filter is placed at every word, and sees nothing behind the last.
            hidden = F.relu(filters(F.pad(x, (0, filters.kernel_size[0] - 1))))
            found.append((hidden * there[:, None]).amax(-1))  # never below 0
        users: Tensor = self.out(self.dropout(torch.cat(found, 1)))
        return Encoded(users[:, None])


class HanEncoder(TextEncoder):
    """Yang et al. (2016): a bidirectional GRU and attention over words, then over events.

    Args:
        settings: see :class:`HanSettings`.
        prepared: from :func:`~unirep_feast_baselines.reading.prepare_words`.
    """

    def __init__(self, settings: HanSettings, prepared: Mapping[str, Tensor]) -> None:
        super().__init__(settings, prepared)
        self.most = settings.text.max_words or 16
        self.of_words = AttentiveGru(settings.word_dim, settings.hidden)
        self.of_events = AttentiveGru(2 * settings.hidden, settings.hidden)
        self.out = nn.Linear(2 * settings.hidden, settings.dim)

    def forward(self, batch: SequenceBatch, *, steps: bool = False) -> Encoded:
        """Encode a batch to (B, 1, D)."""
        words = self.reader.by_event(batch, self.most)  # (B, T, W)
        B, T, W = words.shape
        x = self.dropout(self.reader.words(words)).view(B * T, W, -1)
        events = self.of_words(x, (words != PAD).view(B * T, W)).view(B, T, -1)
        users: Tensor = self.out(self.dropout(self.of_events(events, batch.mask)))
        return Encoded(users[:, None])


class AttentiveGru(nn.Module):
    """A bidirectional GRU, and attention over its states with a learnt query.

    Args:
        width: of the input.
        hidden: of each direction.

    Shape:
        input (B, L, width) and (B, L) bool, True for the places that are there, which come first;
        output (B, 2 · hidden), zeros for rows without any.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.ahead = nn.GRU(width, hidden, batch_first=True)
        self.back = nn.GRU(width, hidden, batch_first=True)
        self.key = nn.Linear(2 * hidden, 2 * hidden)
        self.query = nn.Parameter(torch.randn(2 * hidden) * (2 * hidden) ** -0.5)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Read and aggregate."""
        turned = _turned(mask)[..., None]
        ahead, _ = self.ahead(x)
        back, _ = self.back(x.gather(1, turned.expand_as(x)))
        states = torch.cat((ahead, back.gather(1, turned.expand_as(back))), -1)
        scores = (torch.tanh(self.key(states)) * self.query).sum(-1)  # (B, L)
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
        weights = scores.softmax(-1) * mask
        return (weights[..., None] * states).sum(1)


def _turned(mask: Tensor) -> Tensor:
    """(B, L) places that turn each row's own around and leave what is behind them."""
    place = torch.arange(mask.shape[1], device=mask.device)
    return torch.where(mask, mask.sum(1, keepdim=True) - 1 - place, place)
