"""Where item embeddings may begin: at what a log already says of which items go together."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unirep_feast.batch import FIRST_ITEM
from unirep_feast.sequences import Sequences

#: random: as the papers do; cooccurrence: see :func:`cooccurrence_vectors`.
Start = Literal["random", "cooccurrence"]

#: Of the prepared state.
START = "items.start"

#: Pairs of one user's items that are counted at most; of a larger log users are drawn.
PAIRS = 400_000_000
_SEED = 20_141_208
_OVERSAMPLED, _PASSES = 16, 4


def prepare_start(start: Start, sequences: Sequences, dim: int) -> dict[str, Tensor]:
    """Fit what item embeddings begin with, for an encoder's ``prepare``; nothing for ``random``."""
    return {START: cooccurrence_vectors(sequences, dim)} if start == "cooccurrence" else {}


def cooccurrence_vectors(sequences: Sequences, dim: int, pairs: int = PAIRS) -> Tensor:
    """Vectors of items by which users have them in common.

    The positive pointwise mutual information of two items in one history, factorised by a truncated
    singular value decomposition: what word2vec with a window over the whole history approximates
    (Levy and Goldberg, 2014, *Neural Word Embedding as Implicit Matrix Factorization*), in seconds.

    Args:
        sequences: before the training cut-off.
        dim: numbers per vector.
        pairs: counted at most; where histories have more, users are drawn until they are reached.
            Memory follows the different pairs among them.

    Returns:
        (V, dim) float32 rows of length one by item code; zeros for PAD, MASK, UNK and for items
        that were never met beside another.
    """
    with warnings.catch_warnings(), torch.no_grad():
        # Torch warns once per process that its sparse tensors are young, whoever asks.
        warnings.filterwarnings("ignore", "Sparse")
        return _factors(_information(sequences, pairs), dim)


@torch.no_grad()
def begin_items(weight: Tensor, prepared: Mapping[str, Tensor], first: int = 0) -> None:
    """Let rows of a table of item embeddings begin with what was fitted, if anything was.

    They keep the length that rows drawn at random have there; items without a vector keep theirs.

    Args:
        weight: (n, D) table, changed in place; row r is of item code ``first + r``.
        prepared: with what :func:`prepare_start` gave.
        first: the code of its first row.
    """
    if START not in prepared:
        return
    vectors = prepared[START][first : first + len(weight)].to(weight)
    known = torch.zeros(len(weight), dtype=torch.bool, device=weight.device)
    known[: len(vectors)] = vectors.any(1)
    length = weight[known].norm(dim=1).mean()
    weight[known] = vectors[known[: len(vectors)]] * length


def _information(sequences: Sequences, pairs: int) -> Tensor:
    """(V, V) sparse: positive pointwise mutual information of items in one history."""
    count = len(sequences.vocabulary)
    counts = _cooccurrences(sequences, count, pairs)
    (row, column), value = counts.indices(), counts.values().double()
    total = torch.zeros(count, dtype=torch.float64).index_add(0, row, value)
    information = (value * total.sum() / (total[row] * total[column])).log()
    kept = information > 0
    places = torch.stack((row[kept], column[kept]))
    return torch.sparse_coo_tensor(places, information[kept].float(), (count, count)).coalesce()


def _factors(matrix: Tensor, dim: int) -> Tensor:
    """(V, dim) rows of U √S of a symmetric sparse matrix, of length one, or zeros."""
    count = len(matrix)
    vectors = torch.zeros(count, dim)
    met = torch.zeros(count, dtype=torch.bool)
    met[matrix.indices()[0]] = True
    if not bool(met.any()):
        return vectors
    rank = min(dim, count)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        left, spread, _ = torch.svd_lowrank(matrix, min(rank + _OVERSAMPLED, count), niter=_PASSES)
    vectors[:, :rank] = left[:, :rank] * spread[:rank].sqrt()
    return F.normalize(vectors * met[:, None], dim=1)


def _cooccurrences(sequences: Sequences, count: int, pairs: int) -> Tensor:
    """(V, V) sparse: how many users have both of two different items."""
    users, items = _distinct(sequences, count)
    sizes = torch.bincount(users, minlength=len(sequences)).double()
    order = torch.from_numpy(np.random.default_rng(_SEED).permutation(len(sizes)))
    drawn = torch.zeros(len(sizes), dtype=torch.bool)
    drawn[order] = sizes[order].square().cumsum(0) <= pairs
    kept = drawn[users]
    bags = torch.sparse_coo_tensor(
        torch.stack((users[kept], items[kept])),
        torch.ones(int(kept.sum())),
        (len(sizes), count),
    ).coalesce()
    both = torch.sparse.mm(bags.t().coalesce(), bags).coalesce()
    row, column = both.indices()
    different = row != column
    return torch.sparse_coo_tensor(
        both.indices()[:, different], both.values()[different], (count, count)
    ).coalesce()


def _distinct(sequences: Sequences, count: int) -> tuple[Tensor, Tensor]:
    """Users and codes of the log, every pair once, without PAD, MASK and UNK."""
    lengths = sequences.lengths.cpu()
    users = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
    first = lengths.cumsum(0) - lengths
    place = torch.arange(len(users)) - first[users] + sequences.starts.cpu()[users]
    codes = sequences.codes.cpu()[place].long()
    known = (codes >= FIRST_ITEM) & (codes < count)
    keys = torch.unique(users[known] * count + codes[known])
    return keys // count, keys % count
