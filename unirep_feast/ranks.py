"""Where this process stands among those that torchrun started, and on which device it works."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from unirep_feast.errors import TrainingError, one_line


def pick_device(wanted: str) -> torch.device:
    """Choose a device: ``auto`` takes CUDA where there is one.

    Args:
        wanted: ``auto``, ``cpu``, ``cuda`` (under torchrun each process its own) or ``cuda:N``.

    Raises:
        TrainingError: it is none of these, or there is no such device.
    """
    local = _environment("LOCAL_RANK", 0)
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cuda":
        wanted = f"cuda:{local}"
    if wanted != "cpu" and not re.fullmatch(r"cuda:\d+", wanted):
        raise TrainingError(f"device {wanted!r}: wanted auto, cpu, cuda or cuda:N")
    device = torch.device(wanted)
    if device.type == "cuda":
        found = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if device.index >= found:
            raise TrainingError(
                f"device {wanted!r}: this torch {torch.__version__} finds {found} CUDA devices; "
                "set device: cpu, install a CUDA build of torch, or start fewer processes"
            )
    return device


@dataclass(frozen=True)
class Ranks:
    """Rank and number of processes; one process alone is rank 0 of 1."""

    rank: int = 0
    world: int = 1

    @classmethod
    def join(cls, device: torch.device) -> Ranks:
        """Join the process group that torchrun announces in the environment, if there is one.

        Raises:
            TrainingError: the environment announces one that cannot be joined.
        """
        if _environment("WORLD_SIZE", 1) == 1:
            return cls()
        if not dist.is_initialized():
            if device.type == "cuda":
                torch.cuda.set_device(device)
            try:
                dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
            except (ValueError, RuntimeError) as error:
                raise TrainingError(
                    f"cannot join the other processes: {one_line(error)}; start all of them with "
                    "torchrun"
                ) from error
        return cls(dist.get_rank(), dist.get_world_size())

    @classmethod
    @contextmanager
    def joined(cls, device: torch.device) -> Iterator[Ranks]:
        """Join for as long as the block runs; a group that was joined before is left alone.

        After a failure nothing is left: the others may never come to say goodbye.
        """
        before = dist.is_available() and dist.is_initialized()
        yield cls.join(device)
        if not before and dist.is_available() and dist.is_initialized():
            dist.destroy_process_group()

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

    def share(self, text: str) -> str:
        """Return rank 0's text on every rank."""
        if self.world == 1:
            return text
        box = [text]
        dist.broadcast_object_list(box, 0)
        return box[0]

    def any_of(self, flags: Tensor) -> Tensor:
        """Return (n,) bool: what is true on any rank."""
        if self.world == 1:
            return flags
        counts = flags.to(torch.int32)
        dist.all_reduce(counts)
        return counts > 0

    def wait(self) -> None:
        """Wait until every rank is here."""
        if self.world > 1:
            dist.barrier()


def first_rank() -> bool:
    """Whether this process is the first of those that torchrun started, or the only one."""
    return _environment("RANK", 0) == 0


def _environment(name: str, default: int) -> int:
    text = os.environ.get(name, "")
    return int(text) if text.isdigit() else default
