"""What a backbone must do; the paper's framework takes any (section IV-D)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

#: Spread of what all users share at the start, [UR] and positions: small beside the items', or it
#: is most of every user vector, and matching two views of one user teaches little about the user.
SHARED_STD = 0.02


class Backbone(nn.Module, ABC):
    """Reads rows of embedded tokens and never looks ahead, so that right padding is invisible.

    Attributes:
        gives_steps: whether there is a hidden state per event.
    """

    gives_steps: ClassVar[bool]

    @abstractmethod
    def forward(self, tokens: Tensor, lengths: Tensor, steps: bool) -> tuple[Tensor, Tensor | None]:
        """Encode rows of tokens.

        Args:
            tokens: (B, T + 1, D) float; row b holds its events, then [UR] at place ``lengths[b]``,
                then zeros.
            lengths: (B,) int64 events per row, 0 allowed.
            steps: whether hidden states are wanted; without them work may be left out.

        Returns:
            User vectors (B, D), and hidden states (B, T + 1, D) if wanted and given.
        """


def at_place(x: Tensor, place: Tensor) -> Tensor:
    """Pick one token per row: (B, L, D) and (B,) int64 to (B, D)."""
    return x[torch.arange(x.shape[0], device=x.device), place]
