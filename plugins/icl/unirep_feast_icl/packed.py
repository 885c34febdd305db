"""Arithmetic over packed behaviors: each distinct item once, rows by segments, nothing padded."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from unirep_feast.batch import PAD, SequenceBatch

#: Rows per matrix product: another number of rows can change a product's last bits.
BLOCK = 256


class Distinct(NamedTuple):
    """The items of a batch, each once, filled up with PAD to whole blocks.

    Attributes:
        codes: (U,) int64, U a multiple of :data:`BLOCK`, never 0.
        place: (N,) int64, where in ``codes`` each behavior's item is.
    """

    codes: Tensor
    place: Tensor


def distinct_items(batch: SequenceBatch) -> Distinct:
    """Find the distinct items of a batch, so that what is of an item alone is computed once."""
    codes, place = torch.unique(batch.codes, return_inverse=True)
    missing = -len(codes) % BLOCK if len(codes) else BLOCK
    return Distinct(F.pad(codes, (0, missing), value=PAD), place)


def block_linear(x: Tensor, weight: Tensor) -> Tensor:
    """Multiply in blocks of one size: a row's product has the same bits beside any other rows.

    Shape:
        x: (n, D).
        weight: (M, D).
        returns: (n, M), in x's precision under autocast too.
    """
    filled = F.pad(x, (0, 0, 0, -len(x) % BLOCK))
    product = torch.cat([F.linear(block, weight) for block in torch.split(filled, BLOCK)])
    return product[: len(x)].to(x.dtype)


def row_sums(x: Tensor, place: Tensor, batch: SequenceBatch, mode: str = "sum") -> Tensor:
    """Sum (or average) over each row's behaviors; rows without any are zeros.

    Shape:
        x: (U, M), of which row ``place[n]`` is behavior n's.
        returns: (B, M).
    """
    return F.embedding_bag(place, x, batch.offsets[:-1], mode=mode)


def row_softmax(scores: Tensor, batch: SequenceBatch) -> Tensor:
    """Softmax over each row's behaviors, column by column.

    Shape:
        scores: (N, K).
        returns: (N, K); each column sums to 1 within a row.
    """
    if not len(scores):
        return scores
    top = torch.segment_reduce(scores.detach(), "max", lengths=batch.lengths, axis=0)  # (B, K)
    weights = (scores - top[batch.rows]).exp()
    total = torch.segment_reduce(weights, "sum", lengths=batch.lengths, axis=0)
    return weights / F.embedding(batch.rows, total)


def row_mixes(x: Tensor, weights: Tensor, place: Tensor, batch: SequenceBatch) -> Tensor:
    """Mix each row's behaviors K times, without copying them out for each.

    Shape:
        x: (U, D), of which row ``place[n]`` is behavior n's.
        weights: (N, K).
        returns: (B, K, D); zeros for rows without behaviors.
    """
    N, K = weights.shape
    # K bags per row, one weight column after the other.
    column = N * torch.arange(K, device=place.device)
    offsets = (column[:, None] + batch.offsets[:-1]).flatten()
    mixes = F.embedding_bag(
        place.repeat(K), x, offsets, mode="sum", per_sample_weights=weights.T.reshape(-1)
    )
    return mixes.view(K, len(batch), x.shape[1]).transpose(0, 1)
