"""Training-only heads: projector and predictor, as SimSiam builds them."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Projector(nn.Sequential):
    """Map user vectors to where views are compared.

    "We employ 3 fully connected (FC) layers, equipped with batch normalization (BN) operation for
    each layer" (section IV-A.1); the last one has no ReLU (Chen & He 2021). Its batch norm learns
    scale and shift as the others do: without a shift no two users could ever come closer than batch
    norm holds them apart, and the collapse of the ablations would stop half way.

    Args:
        dim: numbers per user, K x D.
        width: of all three layers.

    Shape:
        input (B, dim), output (B, width); B >= 2 in training.
    """

    def __init__(self, dim: int, width: int) -> None:
        super().__init__(
            nn.Linear(dim, width, bias=False),
            nn.BatchNorm1d(width),
            nn.ReLU(inplace=True),
            nn.Linear(width, width, bias=False),
            nn.BatchNorm1d(width),
            nn.ReLU(inplace=True),
            nn.Linear(width, width, bias=False),
            nn.BatchNorm1d(width),
        )


class Predictor(nn.Sequential):
    """Predict the other view's projection, on the student's side only.

    "We employ a 2 FC layer equipped with BN operation" (section IV-A.2). Batch norm stands
    on the hidden layer alone, as in SimSiam.

    Args:
        width: of input and output, the projector's.
        bottleneck: of the hidden layer.

    Shape:
        input (B, width), output (B, width); B >= 2 in training.
    """

    def __init__(self, width: int, bottleneck: int) -> None:
        super().__init__(
            nn.Linear(width, bottleneck, bias=False),
            nn.BatchNorm1d(bottleneck),
            nn.ReLU(inplace=True),
            nn.Linear(bottleneck, width),
        )


def normalizes_batches(module: nn.Module) -> bool:
    """Whether some batch norm of the module would take its statistics from the batch at hand."""
    return any(isinstance(m, nn.BatchNorm1d) and m.training for m in module.modules())


def full_precision(x: Tensor) -> Tensor:
    """Return half-precision numbers (autocast) as float32, others untouched."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
