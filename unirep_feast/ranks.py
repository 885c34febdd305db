"""Where this process stands among those that torchrun started, and on which device it works."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
import torch.distributed as dist

from unirep_feast.errors import TrainingError


def pick_device(wanted: str) -> torch.device:
    """Choose a device: ``auto`` takes CUDA where there is one.

    Raises:
        TrainingError: CUDA is asked for and there is none.
    """
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if wanted == "auto":
        wanted = f"cuda:{local}" if torch.cuda.is_available() else "cpu"
    elif wanted == "cuda":
        wanted = f"cuda:{local}"
    try:
        device = torch.device(wanted)
    except RuntimeError:
        raise TrainingError(f"device {wanted!r}: wanted auto, cpu, cuda or cuda:N") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise TrainingError(
            f"device {wanted!r}: this torch {torch.__version__} finds no CUDA device; set "
            "training.device: cpu, or install a CUDA build of torch"
        )
    return device


@dataclass(frozen=True)
class Ranks:
    """Rank and number of processes; one process alone is rank 0 of 1."""

    rank: int = 0
    world: int = 1

    @classmethod
    def join(cls, device: torch.device) -> Ranks:
        """Join the process group that torchrun announces in the environment, if there is one."""
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return cls()
        if not dist.is_initialized():
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        return cls(dist.get_rank(), dist.get_world_size())

    @property
    def first(self) -> bool:
        """Whether this process writes files and decides."""
        return self.rank == 0

    def decide(self, value: float, device: torch.device) -> float:
        """Return rank 0's value on every rank, so that all take the same turn."""
        if self.world == 1:
            return value
        box = torch.tensor([value], dtype=torch.float64, device=device)
        dist.broadcast(box, 0)
        return float(box)

    def wait(self) -> None:
        """Wait until every rank is here."""
        if self.world > 1:
            dist.barrier()
