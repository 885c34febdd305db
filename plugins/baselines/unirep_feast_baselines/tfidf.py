"""TF-IDF of whole histories and its singular value decomposition, fitted by scikit-learn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from unirep_feast.batch import FIRST_ITEM, SequenceBatch
from unirep_feast.encoder import Encoded
from unirep_feast.errors import EventsError
from unirep_feast.item_words import ItemWords, fit_words, load_words
from unirep_feast.items import ItemTable
from unirep_feast.sequences import Sequences
from unirep_feast_baselines.config import TfidfSettings
from unirep_feast_baselines.counting import Counts, count_items, count_matrix
from unirep_feast_baselines.extras import needs
from unirep_feast_baselines.untrained import Untrained


class TfidfEncoder(Untrained):
    """A history as the sum of its terms' factors, weighted by TF-IDF.

    The terms are items, or the words of their titles. What scikit-learn's ``TfidfTransformer`` and
    ``TruncatedSVD`` would transform a history to, in any company the same to the last bit.

    Args:
        settings: see :class:`TfidfSettings`.
        prepared: from :func:`prepare_tfidf`.
    """

    idf: Tensor
    factors: Tensor

    def __init__(self, settings: TfidfSettings, prepared: Mapping[str, Tensor]) -> None:
        super().__init__(settings.dim)
        self.settings = settings
        self.register_buffer("idf", prepared["tfidf.idf"])
        self.register_buffer("factors", prepared["tfidf.factors"])
        self.terms = Terms(settings, prepared)
        if settings.terms == "items":
            self.provides = frozenset({"items", "batch_independent"})

    def bind(self, items: ItemTable) -> None:
        """Take in titles, where words are read."""
        self.terms.bind(items)

    def forward(self, batch: SequenceBatch, *, steps: bool = False) -> Encoded:
        """Encode a batch to (B, 1, D)."""
        counts = self.terms.count(batch, len(self.idf))
        tf = counts.counts.double()
        weights = (tf.log() + 1 if self.settings.sublinear else tf) * self.idf[counts.terms]
        if self.settings.normalise:
            norm = counts.sums(weights.square()).sqrt()
            weights = weights / norm[counts.rows]
        users = F.embedding_bag(
            counts.terms,
            self.factors,
            counts.starts,
            mode="sum",
            per_sample_weights=weights.to(self.factors.dtype),
        )
        return Encoded(users[:, None])

    def embed_items(self, codes: Tensor) -> Tensor:
        """Return (n, D) vectors of (n,) codes: of histories of that item alone; else zeros."""
        known = (codes >= FIRST_ITEM) & (codes < len(self.idf))
        rows = self.factors[codes * known]
        if not self.settings.normalise:
            rows = rows * self.idf[codes * known, None].to(rows.dtype)
        return rows * known[:, None]


class Terms:
    """What a history is a bag of.

    Args:
        settings: which terms.
        prepared: the words, where they are read.
    """

    def __init__(self, settings: TfidfSettings, prepared: Mapping[str, Tensor]) -> None:
        self._settings = settings
        self._words = load_words(prepared) if settings.terms == "words" else None
        self._of_items: ItemWords | None = None

    @property
    def size(self) -> int | None:
        """How many words there are; None where items are the terms."""
        return None if self._words is None else len(self._words)

    def bind(self, items: ItemTable) -> None:
        """Look up the words of every title."""
        if self._words is not None:
            text = self._settings.text
            self._of_items = ItemWords.pack(items, self._words, text, unknown=False)

    def count(self, batch: SequenceBatch, size: int) -> Counts:
        """Count the terms below ``size`` of every history."""
        if self._of_items is None:
            return count_items(batch, size)
        if self._of_items.offsets.device != batch.device:
            self._of_items = self._of_items.to(batch.device)
        words, lengths = self._of_items.take(batch.codes)
        return Counts.of(torch.repeat_interleave(batch.rows, lengths), words, len(batch), size)


def prepare_tfidf(settings: TfidfSettings, sequences: Sequences) -> dict[str, Tensor]:
    """Fit inverse document frequencies and factors on the histories before the cut-off.

    Raises:
        EventsError: words are asked for and no title has one.
        UnirepError: scikit-learn is not installed.
    """
    with needs("scikit-learn", "tfidf"):
        import scipy.sparse
        from sklearn.decomposition import TruncatedSVD
        from sklearn.feature_extraction.text import TfidfTransformer
    prepared: dict[str, Tensor] = {}
    if settings.terms == "words":
        prepared = fit_words(sequences.items, settings.text)
        if not len(prepared["words.lengths"]):
            raise EventsError(
                "baselines.tfidf: terms: words needs item titles, but none of the items seen "
                "before the training cut-off has any; name a table with titles under `items`, or "
                "set encoder.settings.terms: items"
            )
    terms = Terms(settings, prepared)
    terms.bind(sequences.items)
    size = terms.size or sequences.items.known
    data, indices, offsets, users = count_matrix(
        sequences, lambda batch: terms.count(batch, size), size
    )
    matrix: Any = scipy.sparse.csr_matrix((data, indices, offsets), shape=(users, size))
    tfidf = TfidfTransformer(
        sublinear_tf=settings.sublinear, norm="l2" if settings.normalise else None
    )
    weighted = tfidf.fit_transform(matrix)
    factors = torch.zeros(size, settings.dim)
    rank = min(settings.dim, users, len(set(indices.tolist())))
    if rank:
        svd = TruncatedSVD(rank, n_iter=7, random_state=settings.seed).fit(weighted)
        factors[:, :rank] = torch.from_numpy(svd.components_.T.copy())
    idf = torch.from_numpy(tfidf.idf_.copy()).double()
    return {**prepared, "tfidf.idf": idf, "tfidf.factors": factors}
