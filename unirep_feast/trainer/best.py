"""The best weights so far, and how long they have been the best."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn


class Best:
    """Keeps a copy of the weights with the lowest validation loss.

    Attributes:
        loss: the lowest so far; infinite before the first validation.
        step: when it was reached.
        stale: validations since then.
        weights: the module's state at that step; None before the first validation.
    """

    def __init__(self) -> None:
        self.loss = math.inf
        self.step = 0
        self.stale = 0
        self.weights: dict[str, Tensor] | None = None

    def judge(self, loss: float, step: int, module: nn.Module) -> None:
        """Take in a validation loss; the weights are copied if it is a new best."""
        if loss < self.loss:
            self.loss, self.step, self.stale = loss, step, 0
            self.weights = {k: v.detach().clone() for k, v in module.state_dict().items()}
        else:
            self.stale += 1

    def lost_patience(self, patience: int | None) -> bool:
        """Whether so many validations have passed without a new best."""
        return patience is not None and self.stale >= patience

    def state(self) -> dict[str, Any]:
        """Everything but the weights, JSON-ready."""
        loss = None if self.loss == math.inf else self.loss
        return {"best": loss, "best_step": self.step, "stale": self.stale}

    def restore(self, state: Mapping[str, Any], weights: dict[str, Tensor]) -> None:
        """Undo :meth:`state`."""
        self.loss = math.inf if state["best"] is None else float(state["best"])
        self.step, self.stale = int(state["best_step"]), int(state["stale"])
        self.weights = weights or None
