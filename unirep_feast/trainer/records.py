"""What the fit loop tells: one record whenever something happened, and numbers out of losses."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from unirep_feast.errors import TrainingError
from unirep_feast.objective import Losses

Kind = Literal["start", "step", "validation", "checkpoint", "end", "prepare"]


@dataclass(frozen=True)
class Record:
    """One thing that happened in training.

    Attributes:
        kind: ``start``, ``step`` (every ``log_every``), ``validation``, ``checkpoint``, ``end``;
            ``prepare``, a step of a stage that an encoder's ``prepare`` trains.
        step: optimizer steps done.
        epoch: passes over the training units done, fractional.
        seconds: since training began, earlier sessions of a resumed run included.
        values: loss, terms, metrics, ``units_per_second`` and the like.
        path: of a checkpoint.
        total: steps there will be at most.
    """

    kind: Kind
    step: int
    epoch: float
    seconds: float
    values: dict[str, float]
    path: Path | None = None
    total: int = 0


def values_of(losses: Losses) -> dict[str, float]:
    """Turn losses into numbers: ``loss`` (the sum of all terms), terms, metrics."""
    values = {"loss": float(losses.total().detach())}
    for named in (losses.terms, losses.metrics):
        for name, value in named.items():
            values.setdefault(name, float(value.detach()))
    return values


def finite(loss: float, step: int) -> float:
    """Return a loss that is a number.

    Raises:
        TrainingError: it is NaN or infinite.
    """
    if not math.isfinite(loss):
        raise TrainingError(
            f"the loss is {loss} at step {step}; lower training.learning_rate, or set "
            "training.clip_norm"
        )
    return loss
