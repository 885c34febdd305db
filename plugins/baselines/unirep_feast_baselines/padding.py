"""Ragged counts in rows of a fixed width, and small systems of equations."""

from __future__ import annotations

import torch
from torch import Tensor

from unirep_feast_baselines.counting import Counts


def spread(counts: Counts, values: Tensor, width: int) -> Tensor:
    """Lay (E, ...) values of entries out in rows: (B, T, ...), zeros behind them."""
    steps = torch.arange(len(values), device=values.device) - counts.starts[counts.rows]
    out = values.new_zeros(len(counts.lengths), width, *values.shape[1:])
    out[counts.rows, steps] = values
    return out


def solve(factor: Tensor, right: Tensor) -> Tensor:
    """Solve A x = b for (B, D, D) Cholesky factors of A and (B, D) b."""
    return torch.cholesky_solve(right[..., None], factor).squeeze(-1)
