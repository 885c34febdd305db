"""Clusters of item vectors by cosine: HDSC, spherical mini-batch k-means, and nearest centres.

Everything is matrix products over chunks, on whatever device the vectors are on; sums go over
sorted places, so that a seed gives the same centres again.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from unirep_feast_lurm.blocks import in_blocks

#: Similarities held at once, in numbers.
_AT_ONCE = {"cpu": 1 << 23, "cuda": 1 << 28}

#: Vectors per centre in a batch of k-means, and in the first piece of HDSC.
_PER_CENTRE = 2
_LEAST_BATCH = 4096


def kmeans(x: Tensor, clusters: int, passes: int, generator: torch.Generator) -> Tensor:
    """Find centres by spherical mini-batch k-means (Sculley 2010, by cosine).

    Centres begin at random vectors. Each batch moves a centre to the direction of the sum of what
    it got so far; what earlier passes gave counts half. A centre that got nothing in a pass moves
    to one of the vectors that lie farthest from their centres.

    Args:
        x: (n, d) float of length one, n >= clusters.
        clusters: D.
        passes: over x.
        generator: on the CPU.

    Returns:
        (D, d) float of length one.
    """
    n = len(x)
    centres = _random_rows(x, clusters, generator)
    counts = x.new_ones(clusters)
    batch = min(n, max(_LEAST_BATCH, _PER_CENTRE * clusters))
    for number in range(passes):
        similarity = x.new_empty(n)
        got = torch.zeros_like(counts)
        for picked in torch.split(torch.randperm(n, generator=generator).to(x.device), batch):
            rows = x[picked]
            nearest, similarity[picked] = nearest_centre(rows, centres)
            sums, new = cluster_sums(rows, nearest, clusters)
            moved = centres * counts[:, None] + sums
            centres = torch.where(new[:, None] > 0, _unit(moved, centres), centres)
            counts, got = counts + new, got + new
        counts = counts / 2
        if number < passes - 1:
            empty = torch.nonzero(got == 0).flatten()
            farthest = similarity.topk(len(empty), largest=False, sorted=True).indices
            centres[empty], counts[empty] = x[farthest], 1.0
    return centres


def hdsc(x: Tensor, clusters: int, sparsity: float, generator: torch.Generator) -> Tensor:
    """Find sparse centres in a single pass (Yi et al. 2014, by cosine).

    The vectors come in pieces of doubling size. Those of a piece go to their nearest centres, and
    each centre becomes the l1-regularised mean of what it got: the mean, soft-thresholded. The
    threshold falls by the square root of 2 per piece, as the error of a mean does. Centres begin
    at random vectors; one that gets nothing stays.

    Args:
        x: (n, d) float of length one, n >= clusters.
        clusters: D.
        sparsity: the first piece's threshold, on means of vectors of length one.
        generator: on the CPU.

    Returns:
        (D, d) float of length one.
    """
    n = len(x)
    centres = _random_rows(x, clusters, generator)
    order = torch.randperm(n, generator=generator).to(x.device)
    for number, size in enumerate(_doubling(n, max(_LEAST_BATCH, _PER_CENTRE * clusters))):
        picked, order = order[:size], order[size:]
        nearest, _ = nearest_centre(x[picked], centres)
        sums, counts = cluster_sums(x[picked], nearest, clusters)
        sparse = F.softshrink(sums / counts.clamp(min=1)[:, None], sparsity * 2 ** (-number / 2))
        centres = torch.where(counts[:, None] > 0, _unit(sparse, centres), centres)
    return centres


def nearest_centre(x: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """Return each vector's nearest centre, (n,) int64, and its cosine, (n,); in chunks.

    Args:
        x: (n, d) of length one.
        centres: (D, d) of length one.
    """
    rows = max(_AT_ONCE.get(x.device.type, 1 << 23) // len(centres), 1)
    found = [(chunk @ centres.T).max(1) for chunk in torch.split(x, rows)]
    return torch.cat([one.indices for one in found]), torch.cat([one.values for one in found])


def assign(x: Tensor, centres: Tensor, nearest: int, softness: float) -> tuple[Tensor, Tensor]:
    """Assign vectors to their nearest centres, in blocks of one size.

    Args:
        x: (n, d) of length one.
        centres: (D, d) of length one.
        nearest: S, how many centres share a vector; 1 is hard assignment.
        softness: temperature of the shares.

    Returns:
        (n, S) int64 centres, nearest first, and (n, S) float shares that sum to 1.
    """

    def shares(block: Tensor) -> Tensor:
        cosines, places = (block @ centres.T).topk(min(nearest, len(centres)), dim=1)
        # One tensor out of a block: places fit doubles exactly.
        return torch.stack((places.double(), (cosines.double() / softness).softmax(1)), -1)

    found = in_blocks(shares, x)  # (n, S, 2)
    return found[..., 0].long(), found[..., 1].to(x.dtype)


def cluster_sums(x: Tensor, cluster: Tensor, clusters: int) -> tuple[Tensor, Tensor]:
    """Sum vectors per cluster, in the order they have.

    Args:
        x: (n, d).
        cluster: (n,) int64 below ``clusters``.
        clusters: D.

    Returns:
        (D, d) sums and (D,) counts in x's type.
    """
    cluster, order = torch.sort(cluster, stable=True)
    starts = torch.searchsorted(cluster, torch.arange(clusters, device=x.device))
    sums = F.embedding_bag(order, x, starts, mode="sum")
    ends = torch.cat((starts[1:], starts.new_tensor([len(x)])))
    return sums, (ends - starts).to(x.dtype)


def _random_rows(x: Tensor, rows: int, generator: torch.Generator) -> Tensor:
    return x[torch.randperm(len(x), generator=generator)[:rows].to(x.device)].clone()


def _unit(x: Tensor, otherwise: Tensor) -> Tensor:
    """Rows of length one; a row of zeros stays what it was."""
    norm = x.norm(dim=1, keepdim=True)
    return torch.where(norm > 0, x / norm.clamp(min=torch.finfo(x.dtype).tiny), otherwise)


def _doubling(n: int, least: int) -> list[int]:
    """Cut n into pieces, each about twice as large as the one before and the first no less."""
    pieces = max((n // least + 1).bit_length() - 1, 1)
    unit = n / (2**pieces - 1)
    ends = [round(unit * (2 ** (k + 1) - 1)) for k in range(pieces)]
    return [end - start for start, end in zip([0, *ends], ends, strict=False)]
