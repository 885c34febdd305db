"""The behavior context encoder: hidden states of behaviors that have seen each other (Fig 2)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unirep_feast_userbert.attention import SelfAttention
from unirep_feast_userbert.config import EncoderSettings


class ContextLayer(nn.Module, ABC):
    """Turns behaviors into hidden states.

    Shape:
        x: (B, T, D), zeros where there is no behavior; mask: (B, T) bool; returns (B, T, D), of
        which only the places with a behavior count.
    """

    @abstractmethod
    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Map a padded batch of rows."""

    def last(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B, D) the latest behavior's hidden state alone; zeros where there is no behavior."""
        return latest(self(x, mask), mask)


class Convolution(ContextLayer):
    """A filter over neighbouring behaviors, with ReLU."""

    def __init__(self, settings: EncoderSettings) -> None:
        super().__init__()
        dim, window = settings.dim, settings.window
        self.filter = nn.Conv1d(dim, dim, window, padding=window // 2)
        self.dropout = nn.Dropout(settings.dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Filter each row."""
        hidden: Tensor = self.dropout(F.relu(self.filter(x.transpose(1, 2)).transpose(1, 2)))
        return hidden


class Recurrence(ContextLayer):
    """GRU or LSTM from the oldest behavior to the latest."""

    def __init__(self, settings: EncoderSettings) -> None:
        super().__init__()
        kind = nn.GRU if settings.parts.context == "gru" else nn.LSTM
        self.cell = kind(settings.dim, settings.dim, batch_first=True)
        self.dropout = nn.Dropout(settings.dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Run over each row."""
        hidden: Tensor = self.dropout(self.cell(x)[0])
        return hidden


class Transformer(ContextLayer):
    """Self-attention and a feed-forward network, each with dropout, residual and layer norm."""

    def __init__(self, settings: EncoderSettings) -> None:
        super().__init__()
        dim = settings.dim
        self.attention = SelfAttention(dim, settings.heads)
        self.attention_norm = nn.LayerNorm(dim)
        self.inner = nn.Linear(dim, 4 * dim)
        self.outer = nn.Linear(4 * dim, dim)
        self.feed_norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(settings.dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Mix each row."""
        return self._feed(self.attention_norm(x + self.dropout(self.attention(x, mask))))

    def last(self, x: Tensor, mask: Tensor) -> Tensor:
        """Compute what is wanted: one query per row, and no other place fed forward."""
        here = latest(x, mask)[:, None]
        mixed = self.attention.at(here, x, mask)
        hidden = self._feed(self.attention_norm(here + self.dropout(mixed)))[:, 0]
        return hidden * mask.any(1, keepdim=True)

    def _feed(self, x: Tensor) -> Tensor:
        fed = self.outer(F.gelu(self.inner(x)))
        normed: Tensor = self.feed_norm(x + self.dropout(fed))
        return normed


_LAYERS: dict[str, type[Convolution] | type[Recurrence] | type[Transformer]] = {
    "cnn": Convolution,
    "gru": Recurrence,
    "lstm": Recurrence,
    "attention": Transformer,
}


class Context(nn.Module):
    """The layers of a context encoder, one after the other; padding stays zero in between."""

    def __init__(self, settings: EncoderSettings) -> None:
        super().__init__()
        layer = _LAYERS[settings.parts.context]
        self.layers = nn.ModuleList(layer(settings) for _ in range(settings.parts.layers))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B, T, D) behaviors to (B, T, D) hidden states; see :class:`ContextLayer`."""
        for layer in self.layers:
            x = layer(x, mask) * mask[:, :, None]
        return x

    def last(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B, T, D) behaviors to (B, D), what the latest of them is in :meth:`forward`."""
        *before, final = self.layers
        for layer in before:
            x = layer(x, mask) * mask[:, :, None]
        hidden: Tensor = cast(ContextLayer, final).last(x, mask)
        return hidden


def latest(x: Tensor, mask: Tensor) -> Tensor:
    """(B, T, D) padded rows to (B, D), the last place of each; zeros where nothing stands."""
    lengths = mask.sum(1)
    rows = torch.arange(len(x), device=x.device)
    return x[rows, (lengths - 1).clamp(min=0)] * (lengths > 0)[:, None]
