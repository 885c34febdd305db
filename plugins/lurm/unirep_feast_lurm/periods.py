"""Absolute calendar periods: which UTC month, season or year an event falls into."""

from __future__ import annotations

import torch
from torch import Tensor

from unirep_feast.instants import MICROSECONDS_PER_DAY


def month_of(times: Tensor) -> Tensor:
    """Number the UTC calendar months of some times, January 1970 being 0.

    Days become civil dates by Hinnant's integer arithmetic on 400-year eras that begin in March,
    so leap years and times before 1970 need no case of their own.

    Args:
        times: (N,) int64 microseconds since 1970 UTC, negative before.

    Returns:
        (N,) int64.
    """
    days = _floor(times, MICROSECONDS_PER_DAY) + 719_468  # since 0000-03-01
    era = _floor(days, 146_097)
    day = days - era * 146_097  # of the era
    year = (day - day // 1460 + day // 36_524 - day // 146_096) // 365  # of the era, from March
    march = (5 * (day - (365 * year + year // 4 - year // 100)) + 2) // 153  # March is 0
    return (era * 400 + year - 1970) * 12 + march + 2


def period_of(months: Tensor, length: int) -> Tensor:
    """Number the periods of ``length`` months that months fall into; a year's is year - 1970.

    Args:
        months: (N,) int64 from :func:`month_of`.
        length: months per period: 1, 3 (January to March, …) or 12.
    """
    return _floor(months, length)


def _floor(x: Tensor, divisor: int) -> Tensor:
    return torch.div(x, divisor, rounding_mode="floor")
