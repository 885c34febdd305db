"""The same vectors from a stream: one state per user, one multiplication per event."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_MICROSECONDS_PER_DAY = 86_400_000_000


@dataclass
class DecayState:
    """What has to be kept of a user: K decayed sums, K decayed counts, the latest event's time.

    Attributes:
        half_lives_days: (K,) days.
        sums: (K, D) float64.
        weights: (K,) float64.
        latest: microseconds of the latest event; None before the first.
    """

    half_lives_days: np.ndarray
    sums: np.ndarray
    weights: np.ndarray
    latest: int | None = None

    @classmethod
    def empty(cls, half_lives_days: np.ndarray, dim: int) -> DecayState:
        """A user without events."""
        vectors = len(half_lives_days)
        return cls(half_lives_days, np.zeros((vectors, dim)), np.zeros(vectors))

    def add(self, embedding: np.ndarray, time: int) -> None:
        """Take in one event; times must not fall.

        Args:
            embedding: (D,) of its item.
            time: microseconds.
        """
        if self.latest is not None:
            days = (time - self.latest) / _MICROSECONDS_PER_DAY
            decay = np.exp2(-days / self.half_lives_days)
            self.sums *= decay[:, None]
            self.weights *= decay
        self.sums += embedding
        self.weights += 1
        self.latest = time

    def vectors(self, shrinkage: float) -> np.ndarray:
        """(K, D) float32, what the encoder gives for the events so far."""
        return (self.sums / (shrinkage + self.weights[:, None])).astype(np.float32)
