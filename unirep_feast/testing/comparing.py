"""How the kit compares vectors, and what it says where they differ."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def assert_finite(tensor: Tensor, what: str) -> None:
    """Every number is finite."""
    bad = int((~torch.isfinite(tensor)).sum())
    assert bad == 0, f"{what}: {bad} of {tensor.numel()} numbers are NaN or infinite"


def assert_bit_equal(one: Tensor, other: Tensor, when: str) -> None:
    """Two blocks of vectors are the same to the last bit."""
    assert one.shape == other.shape, (
        f"vectors are {tuple(other.shape)} {when}, {tuple(one.shape)} before"
    )
    if not torch.equal(one, other):
        rows = (one != other).flatten(1).any(1)
        gap = float((one - other).abs().max())
        raise AssertionError(
            f"{int(rows.sum())} of {len(one)} vectors differ (by up to {gap:.2g}) {when}; wanted "
            "the same bits"
        )


def assert_close(one: Tensor, other: Tensor, tolerance: float, when: str) -> None:
    """Two blocks of vectors differ by at most ``tolerance``, absolutely."""
    assert one.shape == other.shape, (
        f"vectors are {tuple(other.shape)} {when}, {tuple(one.shape)} before"
    )
    gap = float(np.max((one - other).abs().cpu().numpy(), initial=0))
    assert gap <= tolerance, (
        f"vectors differ by up to {gap:.2g} {when}; wanted at most {tolerance:g}"
    )
