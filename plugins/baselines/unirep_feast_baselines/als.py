"""Matrix factorisation of implicit feedback: item factors by `implicit`, users folded in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unirep_feast.batch import SequenceBatch
from unirep_feast.encoder import Encoded
from unirep_feast.sequences import Sequences
from unirep_feast_baselines.config import AlsSettings
from unirep_feast_baselines.counting import count_items, count_matrix
from unirep_feast_baselines.extras import needs
from unirep_feast_baselines.padding import solve, spread
from unirep_feast_baselines.untrained import ItemTableEncoder


class AlsEncoder(ItemTableEncoder):
    """A user's factors, the item factors given: Eq 4 of Hu, Koren and Volinsky (2008).

    x = (Y'Y + Y'(C - 1)Y + λ)^-1 Y'C p, with confidences c = 1 + α log(1 + count). New users and
    longer histories need no new factorisation. `implicit` counts only what it was fitted on; here
    the same system is solved for a batch of users at once.

    Args:
        settings: see :class:`AlsSettings`.
        prepared: from :func:`prepare_als`.
    """

    gram: Tensor

    def __init__(self, settings: AlsSettings, prepared: Mapping[str, Tensor]) -> None:
        super().__init__(prepared["als.items"])
        self.alpha = settings.alpha
        y = self.table.double()
        self.register_buffer("gram", y.T @ y + settings.regularisation * torch.eye(self.dim))

    def forward(self, batch: SequenceBatch, *, steps: bool = False) -> Encoded:
        """Encode a batch to (B, 1, D)."""
        counts = count_items(batch, len(self.table))
        sure = self.alpha * counts.counts.double().log1p()  # c - 1
        sure = spread(counts, sure, batch.width)[..., None]  # (B, T, 1)
        items = spread(counts, self.table[counts.terms].double(), batch.width)  # (B, T, D)
        left = self.gram + torch.bmm((items * sure).transpose(1, 2), items)
        right = (items * (sure + 1)).sum(1)
        return Encoded(solve(torch.linalg.cholesky(left), right).float()[:, None])


def prepare_als(settings: AlsSettings, sequences: Sequences) -> dict[str, Tensor]:
    """Factorise the histories before the cut-off, in one thread: it repeats.

    Raises:
        UnirepError: implicit is not installed.
    """
    with needs("implicit", "als"):
        import scipy.sparse
        from implicit.cpu.als import AlternatingLeastSquares
        from threadpoolctl import threadpool_limits
    known = sequences.items.known
    data, indices, offsets, users = count_matrix(
        sequences, lambda batch: count_items(batch, known), known
    )
    confidence = (1 + settings.alpha * np.log1p(data)).astype(np.float32)
    matrix: Any = scipy.sparse.csr_matrix((confidence, indices, offsets), shape=(users, known))
    with threadpool_limits(1, "blas"):
        model = AlternatingLeastSquares(
            factors=settings.dim,
            regularization=settings.regularisation,
            iterations=settings.iterations,
            random_state=settings.seed,
            num_threads=1,
        )
        model.fit(matrix, show_progress=False)
    return {"als.items": torch.from_numpy(np.ascontiguousarray(model.item_factors)).float()}
