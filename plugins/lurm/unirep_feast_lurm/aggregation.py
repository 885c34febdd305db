"""The time aggregation module: a GRU over the periods of each row (section 3.2.2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unirep_feast_lurm.blocks import in_blocks

#: Rows per block: few, or the anchors of one user with a long life would step with mere filling.
_ROWS = 64


class PeriodGRU(nn.Module):
    """The last hidden state of a GRU over packed periods.

    A period without behaviors is a step with zeros; beyond a row's last period there is no step.
    Rows are stepped together, longest first, so that those still going on are always the first
    ones. Without gradients a step comes in blocks of one size, and a row has the same bits beside
    any other rows. (torch's own GRU over packed sequences does neither: its backward pass fills
    as many zeros per step as there are periods in all.)

    Args:
        dim: H, of input and state.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.cell = nn.GRUCell(dim, dim)

    def forward(self, periods: Tensor, steps: Tensor) -> Tensor:
        """Read rows of periods.

        Args:
            periods: (P, H) packed, row after row, oldest first.
            steps: (R,) int64 periods per row, summing to P; 0 is allowed.

        Returns:
            (R, H); zeros for rows without a period.
        """
        lengths, order = torch.sort(steps, descending=True, stable=True)
        starts = (steps.cumsum(0) - steps)[order]
        longest = int(lengths[0]) if len(lengths) else 0
        number = torch.arange(longest, device=steps.device)
        # (N,) how many rows have a period at each step.
        going = torch.searchsorted(-lengths, -number).tolist()
        places = torch.cat([starts[:0], *(starts[:n] + t for t, n in enumerate(going))])
        state = periods.new_zeros(int((steps > 0).sum()), periods.shape[1])
        ended = []
        for x in torch.split(periods[places], going) if going else ():
            if len(x) < len(state):
                state, done = torch.split(state, [len(x), len(state) - len(x)])
                ended.append(done)
            state = self._step(torch.cat((x, state), 1))
        states = torch.cat((state, *reversed(ended)))  # the longest row first
        return states.new_zeros(len(steps), periods.shape[1]).index_copy(
            0, order[: len(states)], states
        )

    def _step(self, both: Tensor) -> Tensor:
        """Step rows of inputs and states, (n, 2H) to (n, H)."""
        if torch.is_grad_enabled():
            return self._cell(both)
        return in_blocks(self._cell, both, _ROWS)

    def _cell(self, both: Tensor) -> Tensor:
        state: Tensor = self.cell(*both.tensor_split(2, 1))
        return state
