"""Work done in blocks of one size: a row has the same bits whatever rows come with it."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

#: Rows per block on a CPU: another number of rows can change a matrix product's last bits.
_ROWS = 256
#: A GPU is idle with so few.
_ROWS_ON_CUDA = 4096


def in_blocks(function: Callable[[Tensor], Tensor], x: Tensor, rows: int = _ROWS) -> Tensor:
    """Apply a row-wise function to rows in blocks of one size.

    The last block is filled up with zeros, so the function must take rows of zeros.

    Args:
        function: (rows, ...) to (rows, ...).
        x: (n, ...).
        rows: per block, on a CPU.

    Returns:
        (n, ...), one row per row of ``x``.
    """
    rows = _ROWS_ON_CUDA if x.is_cuda else rows
    missing = -len(x) % rows if len(x) else rows
    filled = F.pad(x, (0, 0) * (x.dim() - 1) + (0, missing))
    return torch.cat([function(block) for block in torch.split(filled, rows)])[: len(x)]


def full_precision(x: Tensor) -> Tensor:
    """Return half-precision numbers (autocast) as float32, others untouched."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
