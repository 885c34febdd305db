"""Convolutional backbone: residual blocks of dilated causal convolutions (NextItNet)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unirep_feast_clue.backbone import Backbone, at_place
from unirep_feast_clue.config import EncoderSettings
from unirep_feast_clue.dropout import Dropout


class CausalConv(nn.Module):
    """A dilated convolution that sees a step and earlier ones only.

    It is written as one matrix product over the shifted copies of its input, which on a CPU is
    faster at these widths than a convolution, and gives the same bits beside other rows.
    """

    def __init__(self, dim: int, kernel: int, dilation: int) -> None:
        super().__init__()
        self.kernel, self.dilation = kernel, dilation
        self.mix = nn.Linear(kernel * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, L, d) to (B, L, d); before the first event there are zeros."""
        L = x.shape[1]
        reach = (self.kernel - 1) * self.dilation
        padded = F.pad(x, (0, 0, reach, 0))
        taps = [padded[:, k * self.dilation :][:, :L] for k in range(self.kernel)]
        out: Tensor = self.mix(torch.cat(taps, -1))
        return out


class ResidualBlock(nn.Module):
    """Two convolutions, the second with twice the dilation, around a residual."""

    def __init__(self, dim: int, kernel: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.near = CausalConv(dim, kernel, dilation)
        self.near_norm = nn.LayerNorm(dim)
        self.far = CausalConv(dim, kernel, 2 * dilation)
        self.far_norm = nn.LayerNorm(dim)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, L, d) to (B, L, d)."""
        update = F.relu(self.near_norm(self.near(x)))
        update = F.relu(self.far_norm(self.far(update)))
        return self.dropout.residual(x, update)


class NextItNet(Backbone):
    """Blocks whose dilations go on doubling (1, 2 | 4, 8 | …); [UR] is the last input.

    Dropout on input and residuals is ours: NextItNet has none, and with implicit augmentation the
    views would else be the same.
    """

    gives_steps = True

    def __init__(self, settings: EncoderSettings) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            ResidualBlock(settings.dim, settings.kernel, 4**i, settings.dropout)
            for i in range(settings.blocks)
        )
        self.dropout = Dropout(settings.dropout)

    def forward(self, tokens: Tensor, lengths: Tensor, steps: bool) -> tuple[Tensor, Tensor | None]:
        """Encode rows of tokens, see :class:`Backbone`."""
        x = self.dropout(tokens)
        for block in self.blocks:
            x = block(x)
        return at_place(x, lengths), x if steps else None
