"""What a probe is given: features and targets of the three splits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from unirep_feast.task import Examples, Problem

_CLIP = 8.0


@dataclass(frozen=True)
class ProbeData:
    """Examples with features, and which of them are for what.

    Attributes:
        problem: what is predicted.
        features: (n, W) float32, as fetched.
        examples: the task's, in the same order.
        train, valid, test: (…,) int64 rows; no user is in two of them.
    """

    problem: Problem
    features: np.ndarray
    examples: Examples
    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray

    @property
    def targets(self) -> np.ndarray:
        """What is to be predicted, of all examples."""
        return self.examples.targets

    @cached_property
    def scaled(self) -> np.ndarray:
        """(n, W) float32 features scaled by mean and spread of the training rows.

        Outliers are cut at eight standard deviations: one wholesaler must not set the scale.
        """
        known = self.features[self.train]
        mean, spread = known.mean(0, dtype=np.float64), known.std(0, dtype=np.float64)
        scale = np.where(spread > 1e-12, spread, 1)
        scaled = (self.features - mean) / scale
        return np.asarray(scaled.clip(-_CLIP, _CLIP), np.float32)

    @property
    def outputs(self) -> int:
        """Numbers that a probe predicts per row."""
        if self.problem == "multilabel":
            return int(self.targets.shape[1])
        if self.problem == "multiclass":
            return max(len(self.examples.outputs), int(self.targets.max(initial=1)) + 1)
        if self.problem == "ranking":
            assert self.examples.candidates is not None  # noqa: S101
            return len(self.examples.candidates)
        return 1

    def with_train(self, rows: np.ndarray) -> ProbeData:
        """The same with other training rows."""
        return replace(self, train=rows)
