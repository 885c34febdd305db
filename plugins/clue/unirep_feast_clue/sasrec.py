"""Self-attention backbone (SASRec), with only the work that the user vector needs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unirep_feast_clue.backbone import SHARED_STD, Backbone, at_place
from unirep_feast_clue.config import EncoderSettings
from unirep_feast_clue.dropout import Dropout

# Up to here the whole score matrix in memory beats torch's fused kernel on a CPU.
_EXPLICIT_STEPS = 128


class SelfAttention(nn.Module):
    """Causal multi-head attention, Eq 1-2; no biases, as in the equations.

    Args:
        dim: width of tokens, d.
        heads: h; each head is d / h wide.
        dropout: share of attention weights dropped in training.
    """

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Let every token attend to itself and what precedes it.

        Shape:
            x: (B, L, d).
            returns: (B, L, d).
        """
        B, L, d = x.shape
        width = d // self.heads
        qkv = self.qkv(x).view(B, L, 3, self.heads, width).permute(2, 0, 3, 1, 4)
        explicit = self.dropout.active or L <= _EXPLICIT_STEPS
        if x.is_cpu and explicit:
            mixed = self._explicit(*qkv.reshape(3, B * self.heads, L, width).unbind())
            mixed = mixed.view(B, self.heads, L, width)
        else:
            q, k, v = qkv.unbind()
            rate = self.dropout.rate if self.dropout.active else 0.0
            mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=rate, is_causal=True)
        out: Tensor = self.out(mixed.transpose(1, 2).reshape(B, L, d))
        return out

    def _explicit(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend with the scores in memory; q, k, v and the result are (B * h, L, d / h)."""
        L, width = q.shape[1:]
        future = q.new_full((L, L), -torch.inf).triu_(1)
        mixed = []
        # The earlier half of the queries need not look at the later half of the keys.
        for start, end in ((0, L // 2), (L // 2, L)):
            scores = torch.baddbmm(
                future[start:end, :end],
                q[:, start:end],
                k[:, :end].transpose(1, 2),
                alpha=width**-0.5,
            )
            weights = self.dropout(scores.softmax(-1))  # (B * h, L / 2, end)
            mixed.append(torch.bmm(weights, v[:, :end]))
        return torch.cat(mixed, 1)

    def at(self, x: Tensor, place: Tensor) -> Tensor:
        """Compute :meth:`forward` at one place per row only.

        With a single query the key and value projections can change sides: ``q (W_k x)`` is
        ``(q W_k) x``, so no token but the query is ever projected.

        Shape:
            x: (B, L, d).
            place: (B,) int64.
            returns: (B, d).
        """
        B, L, d = x.shape
        to_q, to_k, to_v = self.qkv.weight.view(3, self.heads, d // self.heads, d).unbind()
        here = at_place(x, place)  # (B, d)
        q = torch.einsum("bd,hed->hbe", here, to_q * (d // self.heads) ** -0.5)
        q = torch.bmm(q, to_k).transpose(0, 1)  # (B, h, d)
        scores = torch.bmm(q, x.transpose(1, 2))  # (B, h, L)
        future = torch.arange(L, device=x.device) > place[:, None]
        scores = scores.masked_fill(future[:, None], -torch.inf)
        weights = self.dropout(scores.softmax(-1))
        mixed = torch.bmm(weights, x)  # (B, h, d)
        mixed = torch.bmm(mixed.transpose(0, 1), to_v.transpose(1, 2))  # (h, B, d / h)
        out: Tensor = self.out(mixed.transpose(0, 1).reshape(B, d))
        return out


class FeedForward(nn.Module):
    """Two layers on every token by itself, Eq 3."""

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.inner = nn.Linear(dim, dim)
        self.outer = nn.Linear(dim, dim)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., d) to (..., d)."""
        out: Tensor = self.outer(self.dropout(F.relu(self.inner(x))))
        return out


class Block(nn.Module):
    """One self-attention block; each sub-layer g becomes x + Dropout(g(LayerNorm(x)))."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(dim)
        self.attention = SelfAttention(dim, heads, dropout)
        self.feed_norm = nn.LayerNorm(dim)
        self.feed = FeedForward(dim, dropout)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (B, L, d) to (B, L, d)."""
        x = self.dropout.residual(x, self.attention(self.attention_norm(x)))
        return self.dropout.residual(x, self.feed(self.feed_norm(x)))

    def at(self, x: Tensor, place: Tensor) -> Tensor:
        """Compute :meth:`forward` at one place per row: (B, L, d) and (B,) to (B, d)."""
        here = at_place(x, place)
        here = self.dropout.residual(here, self.attention.at(self.attention_norm(x), place))
        return self.dropout.residual(here, self.feed(self.feed_norm(here)))


class SASRec(Backbone):
    """Stacked blocks and a last LayerNorm, over tokens that carry learned positions.

    Positions count back from the end ([UR] 0, the latest event 1, …), which is the paper's left
    padding without any padding in it.
    """

    gives_steps = True

    def __init__(self, settings: EncoderSettings) -> None:
        super().__init__()
        d, rate = settings.dim, settings.dropout
        self.positions = nn.Embedding(settings.max_events + 1, d)
        self.dropout = Dropout(rate)
        self.blocks = nn.ModuleList(
            Block(d, settings.heads, rate) for _ in range(settings.blocks - 1)
        )
        self.last = Block(d, settings.heads, rate)
        self.norm = nn.LayerNorm(d)
        nn.init.normal_(self.positions.weight, std=SHARED_STD)

    def forward(self, tokens: Tensor, lengths: Tensor, steps: bool) -> tuple[Tensor, Tensor | None]:
        """Encode rows of tokens, see :class:`Backbone`."""
        place = torch.arange(tokens.shape[1], device=tokens.device)
        back = (lengths[:, None] - place).clamp(0, self.positions.num_embeddings - 1)
        x = self.dropout(tokens + self.positions(back))
        for block in self.blocks:
            x = block(x)
        if not steps:
            return self.norm(self.last.at(x, lengths)), None
        x = self.norm(self.last(x))
        return at_place(x, lengths), x
