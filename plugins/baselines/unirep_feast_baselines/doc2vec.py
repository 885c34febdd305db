"""A history as a document: PV-DBOW, item vectors by gensim, user vectors by their own optimum."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from unirep_feast.batch import SequenceBatch
from unirep_feast.encoder import Encoded
from unirep_feast.sequences import Sequences
from unirep_feast_baselines.config import Doc2VecSettings
from unirep_feast_baselines.corpus import written
from unirep_feast_baselines.counting import count_items
from unirep_feast_baselines.extras import needs
from unirep_feast_baselines.padding import spread
from unirep_feast_baselines.untrained import Untrained


class Doc2VecEncoder(Untrained):
    """The document vector that best tells a history's items from noise, the items given.

    Le and Mikolov (2014), PV-DBOW with negative sampling. gensim infers a new document by a few
    random gradient steps; here the same objective, with a Gaussian prior so that it has one optimum
    and a fixed sample as the noise, is maximised for all users at once, by steps that never
    overshoot (the bound of Böhning and Lindsay 1988). Nothing is random, and a longer history is
    further from the origin only as far as it tells something.

    Args:
        settings: see :class:`Doc2VecSettings`.
        prepared: from :func:`prepare_doc2vec`.
    """

    table: Tensor
    noise: Tensor

    def __init__(self, settings: Doc2VecSettings, prepared: Mapping[str, Tensor]) -> None:
        super().__init__(settings.dim)
        self.settings = settings
        self.register_buffer("table", prepared["doc2vec.items"].double())
        self.register_buffer("noise", prepared["doc2vec.noise"].double())

    def forward(self, batch: SequenceBatch, *, steps: bool = False) -> Encoded:
        """Encode a batch to (B, 1, D)."""
        s = self.settings
        counts = count_items(batch, len(self.table))
        weight = spread(counts, counts.counts.double(), batch.width)  # (B, T)
        items = spread(counts, self.table[counts.terms], batch.width)  # (B, T, D)
        negatives = weight.sum(1, keepdim=True) * s.negatives  # (B, 1)
        prior = s.prior * torch.eye(self.dim, dtype=items.dtype, device=items.device)
        spread_of_noise = self.noise.T @ self.noise / len(self.noise)
        curvature = torch.bmm((items * weight[..., None]).transpose(1, 2), items)
        curvature = (curvature + negatives[..., None] * spread_of_noise) / 4 + prior
        # Inverted once: a product per step is a quarter of the cost of two triangular solutions.
        step = torch.cholesky_inverse(torch.linalg.cholesky(curvature))
        users = items.new_zeros(len(batch), self.dim)
        for _ in range(s.iterations):
            hit = torch.sigmoid(-torch.bmm(items, users[..., None]).squeeze(-1)) * weight
            pull = torch.bmm(hit[:, None], items).squeeze(1)  # (B, D)
            miss = torch.sigmoid(users @ self.noise.T)  # (B, M)
            push = miss @ self.noise * (negatives / len(self.noise))
            gradient = pull - push - s.prior * users
            users = users + torch.bmm(step, gradient[..., None]).squeeze(-1)
        return Encoded(users.float()[:, None])


def prepare_doc2vec(settings: Doc2VecSettings, sequences: Sequences) -> dict[str, Tensor]:
    """Train gensim's PV-DBOW on histories, in one thread, and keep the items' output vectors.

    Raises:
        UnirepError: gensim is not installed.
    """
    with needs("gensim", "word2vec"):
        from gensim.models.doc2vec import Doc2Vec
    known = sequences.items.known
    table = torch.zeros(known, settings.dim)
    noise = torch.zeros(1, settings.dim)
    with written(sequences, split=False) as corpus:
        if corpus.words:
            model = Doc2Vec(
                corpus_file=str(corpus.path),
                vector_size=settings.dim,
                negative=settings.negatives,
                epochs=settings.epochs,
                seed=settings.seed,
                min_count=1,
                dm=0,
                workers=1,
            )
            codes = torch.tensor([int(code) for code in model.wv.index_to_key])
            outputs = torch.from_numpy(model.syn1neg.copy())
            table[codes] = outputs
            noise = outputs[_noise(model, settings.noise)]
    return {"doc2vec.items": table, "doc2vec.noise": noise}


def _noise(model: object, count: int) -> Tensor:
    """(M,) rows that stand for the noise distribution: its evenly spaced quantiles."""
    cumulated = model.cum_table.astype(np.float64)  # type: ignore[attr-defined]
    points = (np.arange(count) + 0.5) / count * cumulated[-1]
    return torch.from_numpy(np.searchsorted(cumulated, points).clip(0, len(cumulated) - 1))
