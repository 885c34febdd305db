"""Tokens of a batch in one flat list, and as padded rows where attention needs them so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from unirep_feast.batch import SequenceBatch


class Chosen(NamedTuple):
    """Some tokens of each row.

    Attributes:
        tokens: (B, Q) int64 flat tokens, those [CLS] first; filled up with any.
        cells: (m,) int64 cell, ``row * Q + q``, of each chosen event.
    """

    tokens: Tensor
    cells: Tensor


@dataclass(frozen=True)
class Layout:
    """Where the tokens of each row lie: C tokens [CLS] first, events behind, oldest first.

    All that works on a token by itself works on a flat list of tokens. In training that list holds
    no padding at all: all rows' tokens [CLS], then all packed events. In ``eval()`` it holds every
    cell of the padded rows, because only fixed shapes give a row the same bits in other company.

    Attributes:
        batch: the packed events.
        heads: C.
        packed: whether the flat list leaves padding out.
        mask: (B, L) bool: whether a cell is a token; L = C + T.
        cells: (n,) int64 cell, ``row * L + step``, of each flat token, if packed.
        places: (B * L,) int64 flat token of each cell, if packed; 0 for cells without one.
    """

    batch: SequenceBatch
    heads: int
    packed: bool
    mask: Tensor
    cells: Tensor
    places: Tensor

    @classmethod
    def of(cls, batch: SequenceBatch, heads: int, packed: bool) -> Layout:
        """Lay out a batch with ``heads`` tokens in front of each row."""
        mask = F.pad(batch.mask, (heads, 0), value=True)
        nothing = batch.rows[:0]
        if not packed:
            return cls(batch, heads, packed, mask, nothing, nothing)
        B, L = mask.shape
        ahead = torch.arange(B, device=mask.device)[:, None] * L
        ahead = ahead + torch.arange(heads, device=mask.device)
        cells = torch.cat((ahead.flatten(), batch.rows * L + heads + batch.steps))
        places = cells.new_zeros(B * L)
        places[cells] = torch.arange(len(cells), device=mask.device)
        return cls(batch, heads, packed, mask, cells, places)

    def join(self, heads: Tensor, events: Tensor) -> Tensor:
        """Put tokens in line: (C, d) for all rows, and (N, d) or, padded, (B, T, d), to (n, d)."""
        B, d = len(self.batch), heads.shape[1]
        ahead = heads.expand(B, -1, -1)
        if self.packed:
            return torch.cat((ahead.reshape(-1, d), events))
        return torch.cat((ahead, events), 1).view(-1, d)

    def chosen(self, events: Tensor) -> Chosen:
        """Line up the tokens [CLS] and some events of each row; only if packed.

        Args:
            events: (m,) int64 packed positions, ascending.
        """
        B, C = len(self.batch), self.heads
        rows = self.batch.rows[events]
        counts = torch.bincount(rows, minlength=B)
        place = torch.arange(len(events), device=events.device) - (counts.cumsum(0) - counts)[rows]
        most = int(counts.max()) if len(events) else 0
        heads = torch.arange(B * C, device=events.device).view(B, C)
        tokens = torch.cat((heads, heads.new_zeros(B, most)), 1)
        cells = rows * (C + most) + C + place
        return Chosen(tokens.flatten().scatter(0, cells, B * C + events).view(B, -1), cells)

    def heads_of(self, flat: Tensor) -> Tensor:
        """(n, d) to (B, C, d): the tokens [CLS]."""
        B = len(self.batch)
        if self.packed:
            return flat[: B * self.heads].view(B, self.heads, -1)
        return flat.view(*self.mask.shape, -1)[:, : self.heads]

    def events_of(self, flat: Tensor) -> Tensor:
        """(n, d) to (N, d): the packed events."""
        if self.packed:
            return flat[len(self.batch) * self.heads :]
        return self.batch.unpad(flat.view(*self.mask.shape, -1)[:, self.heads :])

    def pad(self, flat: Tensor) -> Tensor:
        """(n, d) to (B, L, d); cells without a token hold some other token's."""
        if self.packed:
            # Embedding's backward adds rows up several times as fast on a CPU as indexing's.
            flat = F.embedding(self.places, flat)
        return flat.view(*self.mask.shape, -1)

    def unpad(self, padded: Tensor) -> Tensor:
        """Undo :meth:`pad`: (B, L, d) to (n, d)."""
        flat = padded.reshape(-1, padded.shape[-1])
        return F.embedding(self.cells, flat) if self.packed else flat
