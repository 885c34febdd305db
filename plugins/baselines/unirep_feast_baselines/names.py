"""Names as tensors: what ``prepare`` fits is stored as tensors only."""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor


def pack(value: Any) -> Tensor:
    """Anything JSON can hold, as (n,) uint8."""
    return torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)


def unpack(tensor: Tensor) -> Any:
    """Undo :func:`pack`."""
    return json.loads(bytes(tensor.cpu().numpy().tobytes()))
