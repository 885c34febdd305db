"""Work done in blocks of one size: a row has the same bits whatever rows come with it."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

#: Rows per block: another number of rows can change a matrix product's last bits.
BLOCK = 256


def in_blocks(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Apply a row-wise function to (n, ...) rows in blocks of :data:`BLOCK`.

    The last block is filled up with zeros, so the function must take rows of zeros.

    Returns:
        (n, ...), one row per row of ``x``.
    """
    missing = -len(x) % BLOCK if len(x) else BLOCK
    filled = F.pad(x, (0, 0) * (x.dim() - 1) + (0, missing))
    return torch.cat([function(block) for block in torch.split(filled, BLOCK)])[: len(x)]


def full_precision(x: Tensor) -> Tensor:
    """Return half-precision numbers (autocast) as float32, others untouched."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
