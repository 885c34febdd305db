"""Convolutional backbone: horizontal and vertical filters over the latest events (Caser)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unirep_feast_clue.backbone import Backbone
from unirep_feast_clue.config import EncoderSettings
from unirep_feast_clue.dropout import Dropout


class Caser(Backbone):
    """Caser's two kinds of filters, without its user embedding: new users must be encodable.

    Horizontal filters slide over the events and their largest answer is kept; only windows that
    end at an event count, and before the first event there are zeros. Vertical filters are weighted
    sums of all events, with a weight per place counted from the end. [UR] takes no part: the fully
    connected layer on top is what reads a whole history here.
    """

    gives_steps = False

    def __init__(self, settings: EncoderSettings) -> None:
        super().__init__()
        d, n = settings.dim, settings.max_events
        self.heights = settings.heights
        self.filters = nn.ModuleList(
            nn.Linear(height * d, settings.horizontal) for height in settings.heights
        )
        self.vertical = nn.Parameter(torch.empty(n, settings.vertical))
        nn.init.normal_(self.vertical, std=n**-0.5)
        width = len(settings.heights) * settings.horizontal + settings.vertical * d
        self.top = nn.Linear(width, d)
        self.dropout = Dropout(settings.dropout)

    def forward(self, tokens: Tensor, lengths: Tensor, steps: bool) -> tuple[Tensor, Tensor | None]:
        """Encode rows of tokens, see :class:`Backbone`."""
        L = tokens.shape[1]
        place = torch.arange(L, device=tokens.device)
        event = place < lengths[:, None]  # (B, L)
        x = tokens * event[..., None]
        reach = max(self.heights) - 1
        padded = F.pad(x, (0, 0, reach, 0))
        answers = []
        for height, filters in zip(self.heights, self.filters, strict=True):
            taps = [padded[:, reach - height + 1 + k :][:, :L] for k in range(height)]
            answer = F.relu(filters(torch.cat(taps, -1)))  # (B, L, filters)
            # Answers are never negative, so a 0 where there is no event leaves the largest.
            answers.append((answer * event[..., None]).amax(1))
        back = (lengths[:, None] - 1 - place).clamp(0, len(self.vertical) - 1)
        weights = self.vertical[back] * event[..., None]  # (B, L, vertical)
        sums = torch.bmm(weights.transpose(1, 2), x).flatten(1)  # (B, vertical * d)
        users: Tensor = F.relu(self.top(self.dropout(torch.cat((*answers, sums), -1))))
        return users, None
