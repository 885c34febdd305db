"""Is one representation better than another, or was it these users?"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

#: Bootstrap samples of test users; the same ones for every representation, so that they pair.
SAMPLES = 200
_SEED = 20_250_101


def resampled(users: np.ndarray, metric: Callable[[np.ndarray], float]) -> np.ndarray:
    """(SAMPLES,) a metric on test users drawn anew with replacement (Efron's bootstrap).

    Users are drawn whole: examples of one user are not independent. The draws depend on the users
    alone, so figures of two representations on the same test split pair up.

    Args:
        users: (n,) int64 user of each test row.
        metric: from (m,) rows, some of them several times, to the metric.
    """
    distinct, place = np.unique(users, return_inverse=True)
    generator = np.random.default_rng(_SEED)
    rows = np.arange(len(users))
    values = np.empty(SAMPLES)
    for sample in range(SAMPLES):
        drawn = generator.integers(0, len(distinct), len(distinct))
        times = np.bincount(drawn, minlength=len(distinct))
        values[sample] = metric(np.repeat(rows, times[place]))
    return values


def p_value(first: np.ndarray, second: np.ndarray, difference: float) -> float:
    """Two-sided p of a difference, with its spread over paired bootstrap samples.

    Args:
        first: (SAMPLES,) values of one representation.
        second: (SAMPLES,) values of another on the same draws.
        difference: of the two on the test split itself.
    """
    paired = first - second
    paired = paired[np.isfinite(paired)]
    spread = float(paired.std(ddof=1)) if len(paired) > 1 else 0.0
    if spread == 0:
        return 1.0 if difference == 0 else 0.0
    return math.erfc(abs(difference) / spread / math.sqrt(2))
