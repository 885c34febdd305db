"""One step shared by several processes: torch's DistributedDataParallel, made safe to wrap."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from unirep_feast.ranks import Ranks


def freeze_unused(module: nn.Module, loss: Callable[[], Tensor], ranks: Ranks) -> None:
    """Freeze the parameters that get no gradient on any rank, or DDP waits for them for ever.

    An encoder may hold parameters that another paper's objective never touches.

    Args:
        module: all parameters; buffers are left as they were.
        loss: computes the loss of one batch.
        ranks: must agree, so what one of them uses stays.
    """
    buffers = [buffer.clone() for buffer in module.buffers()]
    loss().backward()  # type: ignore[no-untyped-call]
    parameters = list(module.parameters())
    used = torch.tensor([p.grad is not None for p in parameters])
    used = ranks.any_of(used.to(parameters[0].device)).cpu()
    for parameter, keep in zip(parameters, used.tolist(), strict=True):
        parameter.requires_grad_(keep)
        parameter.grad = None
    for buffer, before in zip(module.buffers(), buffers, strict=True):
        buffer.copy_(before)


def distribute(module: nn.Module, device: torch.device) -> nn.Module:
    """Wrap a module whose parameters all get gradients; rank 0's weights go to all ranks."""
    ids = [device.index] if device.type == "cuda" else None
    return DistributedDataParallel(module, device_ids=ids)


def equalise(module: nn.Module, ranks: Ranks) -> None:
    """Give every rank rank 0's parameters and buffers (batch norm counts on each its own)."""
    if ranks.world == 1:
        return
    with torch.no_grad():
        for value in module.state_dict().values():
            dist.broadcast(value, 0)
