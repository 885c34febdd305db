"""The sampler contract: histories before the training cut-off in, views out."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from unirep_feast.objective import Views
from unirep_feast.sequences import Sequences


@dataclass(frozen=True)
class Draw:
    """The randomness of one step, a function of seed and step number alone.

    That is what makes a killed training resume to the same weights: nothing about random numbers
    has to be remembered but the step.

    Attributes:
        seed: the run's seed.
        step: number of the step, from 0.
        device: where generators live.
    """

    seed: int
    step: int
    device: torch.device | str = "cpu"

    def generator(self, name: str = "", every: int = 1) -> torch.Generator:
        """Return a fresh generator, the same for the same name within a period.

        Args:
            name: draws of different names are independent.
            every: length of a period in steps; all steps of a period get the same generator.
        """
        generator = torch.Generator(device=self.device)
        generator.manual_seed(seed_of(self.seed, name, self.step // every))
        return generator


@dataclass(frozen=True)
class Units:
    """The training units of a step.

    Attributes:
        index: (b,) int64 positions in what :meth:`Sampler.units` returned.
        users: (b,) int64 their user rows in the ``Sequences``.
    """

    index: Tensor
    users: Tensor


@runtime_checkable
class Sampler(Protocol):
    """Draws views from histories; holds no state, so that resuming needs a step number only.

    It only ever sees ``sequences.before(trained_until)``.

    Attributes:
        views: names of the views it supplies.
    """

    views: frozenset[str]

    def units(self, sequences: Sequences) -> Tensor:
        """Return (n,) int64: the user row of each training unit (eligible user, label row, …)."""
        ...

    def sample(self, sequences: Sequences, units: Units, draw: Draw) -> Views:
        """Draw the views of some units; the same draw gives the same views.

        A unit that cannot give what a view needs is left out of that view, never filled.
        """
        ...


def seed_of(*parts: object) -> int:
    """Hash anything printable to a 63-bit seed, the same in every process and version.

    >>> seed_of(0, "views", 7) == seed_of(0, "views", 7) != seed_of(0, "views", 8)
    True
    """
    digest = hashlib.sha256("\x1f".join(str(part) for part in parts).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1
