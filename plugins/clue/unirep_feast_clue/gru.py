"""Recurrent backbone (GRU4Rec)."""

from __future__ import annotations

from torch import Tensor, nn

from unirep_feast_clue.backbone import Backbone, at_place
from unirep_feast_clue.config import EncoderSettings
from unirep_feast_clue.dropout import Dropout


class GRU(Backbone):
    """Stacked GRU layers with dropout before each; [UR] is the last input.

    Dropout at the input is ours: with implicit augmentation the views would else be the same.
    """

    gives_steps = True

    def __init__(self, settings: EncoderSettings) -> None:
        super().__init__()
        d = settings.dim
        self.layers = nn.ModuleList(nn.GRU(d, d, batch_first=True) for _ in range(settings.blocks))
        self.dropout = Dropout(settings.dropout)

    def forward(self, tokens: Tensor, lengths: Tensor, steps: bool) -> tuple[Tensor, Tensor | None]:
        """Encode rows of tokens, see :class:`Backbone`."""
        x = tokens
        for layer in self.layers:
            x, _ = layer(self.dropout(x))
        return at_place(x, lengths), x if steps else None
