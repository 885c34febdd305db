"""The behavior aggregator: hidden states of behaviors to one vector per user (Fig 2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unirep_feast_userbert.attention import AttentivePooling
from unirep_feast_userbert.config import AggregatorKind
from unirep_feast_userbert.context import latest


class Aggregator(nn.Module):
    """Max, average, attentive or last pooling; zeros for a user without behaviors.

    Args:
        kind: which one.
        dim: D.
        query: width of attentive pooling's query.

    Shape:
        hidden: (B, T, D); mask: (B, T) bool, True from the left; returns (B, D).
    """

    def __init__(self, kind: AggregatorKind, dim: int, query: int) -> None:
        super().__init__()
        self.kind = kind
        self.attentive = AttentivePooling(dim, query) if kind == "attentive" else None

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Pool each row."""
        if self.attentive is not None:
            pooled: Tensor = self.attentive(hidden, mask)
            return pooled
        lengths = mask.sum(1)
        filled = (lengths > 0)[:, None]
        if self.kind == "mean":
            return (hidden * mask[:, :, None]).sum(1) / lengths.clamp(min=1)[:, None]
        if self.kind == "max":
            lowest = torch.finfo(hidden.dtype).min
            best = hidden.masked_fill(~mask[:, :, None], lowest).amax(1)
            return best.masked_fill(~filled, 0)
        return latest(hidden, mask)
