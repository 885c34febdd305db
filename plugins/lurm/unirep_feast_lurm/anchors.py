"""The multi-anchor module: each interest's behaviors, shared out over M anchors (Eq 5 and 6)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unirep_feast_lurm.bag import Bag
from unirep_feast_lurm.blocks import full_precision, in_blocks


class MultiAnchor(nn.Module):
    """M low-dimensional views of a bag of interests, from its non-zeros alone.

    The weights of Eq 6 depend on an interest and on parameters only, so each interest that a batch
    touches gets them once. Neither a dense bag nor the M-fold of every entry ever exists.

    Args:
        interests: D.
        anchors: M.
        dim: H.
    """

    def __init__(self, interests: int, anchors: int, dim: int) -> None:
        super().__init__()
        self.anchors, self.dim = anchors, dim
        self.interests = nn.Parameter(torch.randn(interests, dim) * dim**-0.5)  # W^e
        self.anchor = nn.Parameter(torch.randn(anchors, dim) * dim**-0.5)  # W^a
        self.key = nn.Linear(dim, dim, bias=False)  # W^p

    def weights(self, embedded: Tensor) -> Tensor:
        """Share interests out over the anchors, Eq 6: (u, H) embeddings to (u, M)."""
        keys = self.key(F.relu(embedded))
        shares = full_precision(F.linear(keys, self.anchor)).softmax(-1)
        return shares.to(embedded.dtype)

    def forward(self, bag: Bag) -> Tensor:
        """Aggregate every period of a bag, Eq 5.

        Returns:
            (P, M, H), P the periods of all rows, row after row; zeros for empty periods.
        """
        P = int(bag.steps.sum())
        touched, place = torch.unique(bag.interests, return_inverse=True)
        if not len(touched):
            touched = touched.new_zeros(1)
        embedded = self.interests[touched]  # (u, H)
        shares = in_blocks(self.weights, embedded)  # (u, M)
        entries = shares[place] * bag.values[:, None].to(shares.dtype)  # (E, M)
        starts = torch.searchsorted(bag.places, torch.arange(P, device=place.device))
        # M bags per period, one column of weights after the other.
        E, M = len(place), self.anchors
        column = E * torch.arange(M, device=place.device)
        sums = F.embedding_bag(
            place.repeat(M),
            embedded,
            (column[:, None] + starts).flatten(),
            mode="sum",
            per_sample_weights=entries.T.reshape(-1),
        )
        return F.relu(sums).view(M, P, self.dim).transpose(0, 1)
