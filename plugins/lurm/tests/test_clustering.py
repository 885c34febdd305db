from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from unirep_feast_lurm.clustering import (
    _doubling,
    assign,
    cluster_sums,
    hdsc,
    kmeans,
    nearest_centre,
)

Cluster = Callable[[Tensor, int, torch.Generator], Tensor]

WAYS: dict[str, Cluster] = {
    "kmeans": lambda x, clusters, generator: kmeans(x, clusters, 6, generator),
    "hdsc": lambda x, clusters, generator: hdsc(x, clusters, 0.02, generator),
}


def planted(clusters: int = 12, each: int = 900, d: int = 64) -> tuple[Tensor, Tensor]:
    """Unit vectors about sparse centres, shuffled, and which centre each is of."""
    generator = torch.Generator().manual_seed(3)
    centres = torch.zeros(clusters, d)
    for n in range(clusters):
        centres[n, torch.randperm(d, generator=generator)[:6]] = 1.0
    truth = torch.arange(clusters).repeat_interleave(each)
    x = F.normalize(centres, dim=1)[truth]
    x = F.normalize(x + 0.05 * torch.randn(x.shape, generator=generator), dim=1)
    order = torch.randperm(len(x), generator=generator)
    return x[order], truth[order]


def purity(found: Tensor, truth: Tensor) -> float:
    """The share of vectors whose cluster is mostly of their own kind."""
    table = torch.zeros(int(found.max()) + 1, int(truth.max()) + 1)
    table.index_put_((found, truth), torch.ones(len(found)), accumulate=True)
    return float(table.max(1).values.sum() / len(found))


@pytest.mark.parametrize("way", WAYS)
def test_planted_clusters_are_found(way: str) -> None:
    """With room for two centres each, almost every cluster is of one kind."""
    x, truth = planted()
    centres = WAYS[way](x, 48, torch.Generator().manual_seed(0))

    assert torch.allclose(centres.norm(dim=1), torch.ones(48), atol=1e-5)
    assert purity(nearest_centre(x, centres)[0], truth) > 0.95


@pytest.mark.parametrize("way", WAYS)
def test_clustering_is_better_than_its_start(way: str) -> None:
    """Mean cosine to the nearest centre rises well above that of random vectors as centres."""
    x, _ = planted()
    start = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:48]]
    centres = WAYS[way](x, 48, torch.Generator().manual_seed(0))

    before, after = (float(nearest_centre(x, c)[1].mean()) for c in (start, centres))

    assert after > before + 0.03


@pytest.mark.parametrize("way", WAYS)
def test_a_seed_gives_the_same_centres_again(way: str) -> None:
    """To the last bit; another seed gives others."""
    x, _ = planted(each=500)
    one, again, other = (WAYS[way](x, 30, torch.Generator().manual_seed(s)) for s in (1, 1, 2))

    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_hdsc_centres_are_sparse_and_see_each_vector_once() -> None:
    """Around sparse kinds most numbers of a centre are exactly zero; no piece overlaps another."""
    x, _ = planted()
    centres = hdsc(x, 12, 0.05, torch.Generator().manual_seed(0))

    assert float((centres == 0).float().mean()) > 0.5
    for n, least in ((10, 4096), (100_000, 4096), (200_000, 20_000)):
        pieces = _doubling(n, least)
        assert sum(pieces) == n
        assert len(pieces) == 1 or (pieces[0] >= least and pieces[1] <= 2 * pieces[0] + 1)


def test_kmeans_moves_centres_that_got_nothing() -> None:
    """Eight copies of one vector as a start: seven get nothing, and move to the other vectors."""
    copies = F.normalize(torch.ones(1, 16), dim=1).repeat(9000, 1)
    others = F.normalize(torch.randn(10, 16), dim=1)
    x = torch.cat((copies, others))
    start = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:8]]
    assert len(start.unique(dim=0)) == 1

    centres = kmeans(x, 8, 4, torch.Generator().manual_seed(0))

    assert nearest_centre(x, centres)[0].unique().tolist() == list(range(8))
    assert float(nearest_centre(others, centres)[1].mean()) > 0.8


def test_sums_are_those_of_a_loop() -> None:
    """Per cluster in the order of the vectors; empty clusters are zeros."""
    x, cluster = torch.randn(50, 4), torch.randint(7, (50,)) * 2
    sums, counts = cluster_sums(x, cluster, 15)

    for n in range(15):
        assert torch.allclose(sums[n], x[cluster == n].sum(0), atol=1e-5)
        assert int(counts[n]) == int((cluster == n).sum())


def test_soft_shares_are_a_softmax_over_the_nearest() -> None:
    """The nearest first, shares by temperature; hard assignment is all of the nearest."""
    x, centres = (F.normalize(torch.randn(n, 6), dim=1) for n in (300, 9))
    places, shares = assign(x, centres, 3, 0.2)

    cosines = x @ centres.T
    top = cosines.sort(1, descending=True)
    assert torch.equal(places, top.indices[:, :3])
    assert torch.allclose(shares, (top.values[:, :3] / 0.2).softmax(1), atol=1e-5)
    assert torch.equal(assign(x, centres, 1, 1.0)[0][:, 0], nearest_centre(x, centres)[0])
    assert torch.equal(assign(x, centres, 1, 1.0)[1], torch.ones(300, 1))


def test_fewer_centres_than_nearest_share_among_all() -> None:
    """Shares of two centres where three are asked for still sum to 1."""
    x, centres = (F.normalize(torch.randn(n, 6), dim=1) for n in (4, 2))

    assert assign(x, centres, 3, 0.2)[1].sum(1).tolist() == pytest.approx([1.0] * 4)
