"""The time aggregation module: a GRU over the periods of each row (section 3.2.2)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from unirep_feast_lurm.blocks import BLOCK


class PeriodGRU(nn.Module):
    """The last hidden state of a GRU over packed periods.

    A period without behaviors is a step with zeros; beyond a row's last period there is no step.
    Where gradients are wanted torch's GRU runs over the packed sequences; else steps come in blocks
    of one size, so that a row has the same bits beside any other rows.

    Args:
        dim: H, of input and state.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gru = nn.GRU(dim, dim)

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
        # Rows still going on at each step; sorted by length, they are the first ones.
        going = torch.searchsorted(
            -lengths, -torch.arange(1, longest + 1, device=steps.device), right=True
        )
        if not longest:
            return periods.new_zeros(len(steps), periods.shape[1]) + periods.sum()
        if torch.is_grad_enabled():
            states = self._packed(periods, starts, going.cpu())
        else:
            states = self._stepped(periods, starts, going.tolist())
        out = states.new_zeros(len(steps), periods.shape[1])
        return out.index_copy(0, order[: len(states)], states)

    def _packed(self, periods: Tensor, starts: Tensor, going: Tensor) -> Tensor:
        """Run torch's GRU; returns (r, H), the longest row first, empty ones left out."""
        rows = torch.cat([starts[:n] + t for t, n in enumerate(going.tolist())])
        _, last = self.gru(PackedSequence(periods[rows], going))
        states: Tensor = last[0]
        return states

    def _stepped(self, periods: Tensor, starts: Tensor, going: list[int]) -> Tensor:
        """Run the same GRU in blocks of rows, step by step; returns as :meth:`_packed`."""
        w_ih, w_hh, b_ih, b_hh = self.gru.all_weights[0]
        rows = -(-going[0] // BLOCK) * BLOCK
        states = periods.new_zeros(rows, periods.shape[1])
        for t, n in enumerate(going):
            for low in range(0, n, BLOCK):
                x = periods[starts[low : min(low + BLOCK, n)] + t]
                kept = len(x)
                x = F.pad(x, (0, 0, 0, BLOCK - kept))  # what comes of these rows is not kept
                new = torch.gru_cell(x, states[low : low + BLOCK], w_ih, w_hh, b_ih, b_hh)
                states[low : low + kept] = new[:kept]
        return states[: going[0]]
