"""Rows of all processes of a step, with gradients: in-batch negatives under DDP."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor


class Gathered(NamedTuple):
    """Rows of all ranks, rank after rank.

    DDP averages gradients over ranks. A loss over the joined rows therefore trains as one process
    with the joined batch would, if every rank

    - computes it whole, or
    - computes the mean over its own rows, where all ranks have equally many, or
    - computes the sum over its own rows and multiplies it by ``ranks``.

    Attributes:
        tensors: (B, ...) each, the rows of all ranks.
        start: where this rank's rows begin in them.
        ranks: how many there are; 1 where nothing was gathered.
    """

    tensors: tuple[Tensor, ...]
    start: int
    ranks: int


def gather_rows(*tensors: Tensor) -> Gathered:
    """Join the rows of all ranks, so that an objective can contrast a user with all of the step.

    Without gradients nothing is gathered: validation scores the same units on every rank. Gather
    what belongs together in one call, after everything is encoded, so that all ranks exchange
    gradients in the same order.

    Args:
        tensors: (b, ...) each, with the same number of rows, which may differ between ranks;
            gradients flow through floating-point ones.
    """
    if not (dist.is_available() and dist.is_initialized() and torch.is_grad_enabled()):
        return Gathered(tensors, 0, 1)
    world = dist.get_world_size()
    if world == 1:
        return Gathered(tensors, 0, 1)
    rows = {len(tensor) for tensor in tensors}
    if len(rows) != 1:
        raise ValueError(f"gather_rows: tensors have {sorted(rows)} rows, wanted equally many")
    own = torch.tensor([rows.pop()], device=tensors[0].device)
    counts = [torch.empty_like(own) for _ in range(world)]
    dist.all_gather(counts, own)
    sizes = [int(count) for count in counts]
    joined = tuple(_GatherRows.apply(tensor, sizes) for tensor in tensors)  # type: ignore[no-untyped-call]
    return Gathered(joined, sum(sizes[: dist.get_rank()]), world)


class _GatherRows(torch.autograd.Function):
    """Gather forward; backward, sum what every rank's loss says of this rank's rows."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, sizes: list[int]) -> Tensor:
        ctx.sizes = sizes
        filled = tensor.new_zeros(max(sizes), *tensor.shape[1:])
        filled[: len(tensor)] = tensor
        pieces = [torch.empty_like(filled) for _ in sizes]
        dist.all_gather(pieces, filled)
        return torch.cat([piece[:size] for piece, size in zip(pieces, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        start = sum(ctx.sizes[: dist.get_rank()])
        return total[start : start + ctx.sizes[dist.get_rank()]], None
