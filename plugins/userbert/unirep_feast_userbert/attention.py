"""Attention, over the words of a title and over the behaviors of a user alike."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SelfAttention(nn.Module):
    """Multi-head self-attention among the places of a row, in both directions.

    Args:
        dim: width of a place, D.
        heads: each is D / heads wide.

    Shape:
        x: (B, L, D); mask: (B, L) bool, False where nothing stands; returns (B, L, D). Rows in
        which nothing stands are finite.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Mix the places of each row."""
        B, L, _ = x.shape
        q, k, v = self.qkv(x).view(B, L, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        return self._mix(q, k, v, mask)

    def at(self, here: Tensor, x: Tensor, mask: Tensor) -> Tensor:
        """Compute :meth:`forward` for some places only.

        Shape:
            here: (B, Q, D), as many places of each row of ``x``; returns (B, Q, D).
        """
        B, L, D = x.shape
        weight, bias = self.qkv.weight, self.qkv.bias
        q = F.linear(here, weight[:D], bias[:D]).view(B, -1, self.heads, D // self.heads)
        both = F.linear(x, weight[D:], bias[D:]).view(B, L, 2, self.heads, -1)
        k, v = both.permute(2, 0, 3, 1, 4)
        return self._mix(q.transpose(1, 2), k, v, mask)

    def _mix(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        """(B, h, Q, D / h) queries over keys and values (B, h, L, D / h), to (B, Q, D)."""
        seen = _something(mask)[:, None, None]  # (B, 1, 1, L)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return out


class AttentivePooling(nn.Module):
    """One vector per row: places weighted by ``softmax(q · tanh(W h + b))`` (Yang et al. 2016).

    Args:
        dim: width of a place, D.
        query: width of q; the paper's is 200.

    Shape:
        x: (B, L, D); mask: (B, L) bool; returns (B, D), zeros where nothing stands in a row.
    """

    def __init__(self, dim: int, query: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(dim, query)
        self.query = nn.Linear(query, 1, bias=False)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Pool each row."""
        score = self.query(torch.tanh(self.hidden(x))).squeeze(2)  # (B, L)
        weight = score.masked_fill(~_something(mask), -torch.inf).softmax(1) * mask
        pooled: Tensor = (weight[:, :, None] * x).sum(1)
        return pooled


def _something(mask: Tensor) -> Tensor:
    """Unmask rows of nothing: a softmax over nothing is NaN, and so are its gradients."""
    return mask | ~mask.any(1, keepdim=True)
