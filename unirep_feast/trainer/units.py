"""Which training units make which step: shares by user, an order per epoch, a part per rank."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from unirep_feast.config import TrainingConfig
from unirep_feast.errors import ContractError, TrainingError
from unirep_feast.ranks import Ranks
from unirep_feast.sampler import seed_of
from unirep_feast.sequences import Sequences
from unirep_feast.splits import shares

#: Validation looks at so many units at most; more would only cost time.
_VALIDATION_UNITS = 4096

#: Where the spec names no end: a bare `max_steps` must not be cut short by it.
DEFAULT_EPOCHS = 20.0


class UnitPlan:
    """Deals training units out to steps; a function of seed and step, so it remembers nothing.

    Attributes:
        rows: (n,) int64, on the CPU: the user row of each unit.
        train, valid, test: (m,) int64 positions in ``rows``, by the hash of the user.
        batch_size: units per step, over all ranks.
        steps_per_epoch: full batches in a pass; the rest of a pass is left out.
        total: steps there will be at most.
    """

    def __init__(
        self,
        rows: Tensor,
        sequences: Sequences,
        config: TrainingConfig,
        ranks: Ranks,
        sampler: str,
    ) -> None:
        """Split units into shares and batches.

        Args:
            rows: (n,) int64: what :meth:`Sampler.units` returned.
            sequences: whose users the rows are.
            config: shares, batch size, epochs, seed.
            ranks: processes that share a step.
            sampler: its name, for errors.

        Raises:
            ContractError: rows are no user rows.
            TrainingError: too few units are left to train on.
        """
        self.rows = _checked(rows, len(sequences), sampler)
        self.seed, self.ranks = config.seed, ranks
        self.train, self.valid, self.test = self._split(sequences, config)
        # Each rank needs two rows of a batch, or batch norm fails; and all the same number.
        fewest = 2 * ranks.world
        if len(self.train) < fewest:
            raise TrainingError(
                f"{len(self.train):,} units to train on: sampler {sampler!r} finds "
                f"{len(self.rows):,} eligible among {len(sequences):,} users, of which "
                f"{len(self.valid):,} are for validation and {len(self.test):,} for the test; "
                f"wanted at least {fewest}; give more events, relax the sampler's settings, or "
                "lower training.validation and training.test"
            )
        size = min(max(config.batch_size, fewest), len(self.train))
        self.batch_size = size // ranks.world * ranks.world
        self.steps_per_epoch = len(self.train) // self.batch_size
        self.total = self._total(config)
        self._order: tuple[int, Tensor] = (-1, self.train)

    def picked(self, step: int) -> Tensor:
        """Return (b,) int64: the units of a step that this rank works on."""
        epoch, at = divmod(step, self.steps_per_epoch)
        if self._order[0] != epoch:
            generator = torch.Generator().manual_seed(seed_of(self.seed, "order", epoch))
            order = torch.randperm(len(self.train), generator=generator)
            self._order = (epoch, self.train[order])
        batch = self._order[1][at * self.batch_size : (at + 1) * self.batch_size]
        return batch[self.ranks.rank :: self.ranks.world]

    def _split(self, sequences: Sequences, config: TrainingConfig) -> tuple[Tensor, Tensor, Tensor]:
        by_user = shares(sequences.users, config.validation, config.test, config.seed)
        of_unit = torch.from_numpy(by_user)[self.rows]
        train, valid, test = (torch.nonzero(of_unit == n).flatten() for n in range(3))
        generator = torch.Generator().manual_seed(seed_of(config.seed, "validation"))
        kept = torch.randperm(len(valid), generator=generator)[:_VALIDATION_UNITS]
        return train, valid[kept.sort().values], test

    def _total(self, config: TrainingConfig) -> int:
        limits = [config.max_steps or math.inf]
        epochs = config.epochs
        if (config.epochs, config.max_steps, config.max_minutes) == (None, None, None):
            epochs = DEFAULT_EPOCHS
        if epochs is not None:
            limits.append(max(round(epochs * self.steps_per_epoch), 1))
        return 1 << 40 if limits == [math.inf] else int(min(limits))


def _checked(rows: Tensor, users: int, sampler: str) -> Tensor:
    if not isinstance(rows, Tensor) or rows.dim() != 1 or rows.dtype != torch.int64:
        found = type(rows).__name__
        if isinstance(rows, Tensor):
            found = f"{tuple(rows.shape)} {rows.dtype}"
        raise ContractError(f"sampler {sampler!r}: units() returned {found}; wanted (n,) int64")
    rows = rows.cpu()
    if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < users:
        raise ContractError(
            f"sampler {sampler!r}: units() returned rows {int(rows.min())} to {int(rows.max())}; "
            f"there are {users:,} users"
        )
    return rows
