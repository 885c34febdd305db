"""Transformer layers as in the original BERT: layer norm behind each sub-layer, GELU, width 4 d."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unirep_feast_guim.dropout import Dropout
from unirep_feast_guim.layout import Layout

#: BERT's.
_EPSILON = 1e-12


class SelfAttention(nn.Module):
    """Multi-head attention among the tokens of a row, in both directions.

    Values and output begin as the identity, so that attention begins as a mean of the row's tokens.

    Args:
        dim: width of tokens, d.
        heads: h; each head is d / h wide.
        dropout: share of attention weights dropped in training.
    """

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = Dropout(dropout)
        self.query = nn.Linear(dim, dim)
        self.key_value = nn.Linear(dim, 2 * dim)
        self.out = nn.Linear(dim, dim)
        self.apply(init_linear)
        nn.init.eye_(self.key_value.weight[dim:])
        nn.init.eye_(self.out.weight)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """Let every token attend to all tokens of its row.

        Shape:
            x: (n, d) flat tokens.
            returns: (n, d).
        """
        mixed = self._mix(layout.pad(self.query(x)), x, layout)
        out: Tensor = self.out(layout.unpad(mixed))
        return out

    def at(self, x: Tensor, here: Tensor, layout: Layout) -> Tensor:
        """Compute :meth:`forward` for some tokens only.

        Shape:
            x: (n, d) flat tokens.
            here: (B, Q, d), as many tokens of each row.
            returns: (B, Q, d).
        """
        out: Tensor = self.out(self._mix(self.query(here), x, layout))
        return out

    def _mix(self, query: Tensor, x: Tensor, layout: Layout) -> Tensor:
        """(B, Q, d) queries over the keys and values of flat tokens (n, d), to (B, Q, d)."""
        B, Q, d = query.shape
        width = d // self.heads
        both = layout.pad(self.key_value(x)).view(B, -1, 2, self.heads, width)
        k, v = both.permute(2, 0, 3, 1, 4)  # (B, h, L, d / h)
        q = query.view(B, Q, self.heads, width).transpose(1, 2)
        if q.is_cpu and self.dropout.active:
            mixed = self._explicit(q, k, v, layout.mask)
        else:
            rate = self.dropout.rate if self.dropout.active else 0.0
            mixed = F.scaled_dot_product_attention(
                q, k, v, attn_mask=layout.mask[:, None, None], dropout_p=rate
            )
        return mixed.transpose(1, 2).reshape(B, Q, d)

    def _explicit(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        """Attend with the weights in memory, where torch would fall back to that, but slower.

        Shape:
            q: (B, h, Q, d / h); k, v: (B, h, L, d / h).
            mask: (B, L) bool; each row has some True.
            returns: (B, h, Q, d / h).
        """
        hidden = torch.zeros(mask.shape, dtype=q.dtype).masked_fill_(~mask, -torch.inf)
        scores = q * q.shape[-1] ** -0.5 @ k.transpose(2, 3)
        scores += hidden[:, None, None]  # in place: memory anew would cost as much again
        weights: Tensor = self.dropout(scores.softmax(-1))
        return weights @ v


class Layer(nn.Module):
    """Attention and a feed-forward network, each followed by dropout, residual and layer norm.

    The feed-forward network begins by adding nothing.

    Args:
        dim: width of tokens, d; the feed-forward network is 4 d wide inside.
        heads: attention heads.
        dropout: share of activations dropped in training.
    """

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention = SelfAttention(dim, heads, dropout)
        self.attention_norm = nn.LayerNorm(dim, eps=_EPSILON)
        self.inner = nn.Linear(dim, 4 * dim)
        self.outer = nn.Linear(4 * dim, dim)
        self.feed_norm = nn.LayerNorm(dim, eps=_EPSILON)
        self.dropout = Dropout(dropout)
        init_linear(self.inner)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """Map flat tokens (n, d) to (n, d)."""
        x = self.attention_norm(x + self.dropout(self.attention(x, layout)))
        return self._feed(x)

    def at(self, x: Tensor, here: Tensor, layout: Layout) -> Tensor:
        """Compute :meth:`forward` for some tokens only: (n, d) and (B, Q, d) to (B, Q, d)."""
        mixed = self.attention.at(x, here, layout)
        return self._feed(self.attention_norm(here + self.dropout(mixed)))

    def _feed(self, x: Tensor) -> Tensor:
        inner = F.gelu(self.inner(x))
        normed: Tensor = self.feed_norm(x + self.dropout(self.outer(inner)))
        return normed


class HeadVectors(nn.Module):
    """GUIM-MH's way to several vectors: one more attention, each head as wide as a vector.

    "In this additional self-attention layer, we set the size of projection matrices for query, key
    and value to be d x d, instead of d x (d / H), so that the dimension of each head is d"
    (section 4.3.2). The heads' outputs are not joined again, so there is no output projection.

    Args:
        dim: width of tokens and of each head, d.
        heads: H.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(dim, heads * dim)
        self.key_value = nn.Linear(dim, 2 * heads * dim)
        self.apply(init_linear)
        for value in self.key_value.weight[heads * dim :].view(heads, dim, dim):
            nn.init.eye_(value)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """Read each row through its one token [CLS].

        Shape:
            x: (n, d) flat tokens.
            returns: (B, H, d).
        """
        B, d = len(layout.batch), x.shape[1]
        q = self.query(layout.heads_of(x)).view(B, self.heads, 1, d)
        both = layout.pad(self.key_value(x)).view(B, -1, 2, self.heads, d)
        k, v = both.permute(2, 0, 3, 1, 4)  # (B, H, L, d)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=layout.mask[:, None, None])
        return mixed[:, :, 0]


def one_layer(dim_in: int, dim_out: int, activation: str) -> nn.Sequential:
    """A "one-layer fully connected feed-forward network": linear, then GELU unless ``none``.

    Where width does not change, the linear layer begins as the identity.
    """
    linear = nn.Linear(dim_in, dim_out)
    init_linear(linear)
    if dim_in == dim_out:
        nn.init.eye_(linear.weight)
    return nn.Sequential(linear, nn.GELU()) if activation == "gelu" else nn.Sequential(linear)


def init_linear(module: nn.Module) -> None:
    """Draw the weights of a linear layer by its width (Xavier); no bias."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)


def head_count(heads: int, dim: int, width: int) -> int:
    """Attention heads of a model ``width`` wide, if one of ``dim`` has ``heads``: equally wide."""
    return max(heads * width // dim, 1)
