"""Item vectors by word2vec over histories (item2vec), and their mean as the user's."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from unirep_feast.batch import SequenceBatch
from unirep_feast.encoder import Encoded
from unirep_feast.sequences import Sequences
from unirep_feast_baselines.config import Word2VecSettings
from unirep_feast_baselines.corpus import written
from unirep_feast_baselines.counting import count_items
from unirep_feast_baselines.extras import needs
from unirep_feast_baselines.untrained import ItemTableEncoder


class Word2VecEncoder(ItemTableEncoder):
    """The mean of the vectors of a history's events; unknown items are left out.

    Args:
        table: from :func:`prepare_word2vec`.
    """

    def forward(self, batch: SequenceBatch, *, steps: bool = False) -> Encoded:
        """Encode a batch to (B, 1, D)."""
        counts = count_items(batch, len(self.table))
        weight = counts.counts.double()
        weight = weight / counts.sums(weight)[counts.rows]
        users = F.embedding_bag(
            counts.terms,
            self.table,
            counts.starts,
            mode="sum",
            per_sample_weights=weight.to(self.table.dtype),
        )
        return Encoded(users[:, None])


def prepare_word2vec(settings: Word2VecSettings, sequences: Sequences) -> dict[str, Tensor]:
    """Train gensim's skip-gram with negative sampling on histories, in one thread: it repeats.

    Raises:
        UnirepError: gensim is not installed.
    """
    with needs("gensim", "word2vec"):
        from gensim.models import Word2Vec
    table = torch.zeros(sequences.items.known, settings.dim)
    with written(sequences, split=True) as corpus:
        if corpus.words:
            model = Word2Vec(
                corpus_file=str(corpus.path),
                vector_size=settings.dim,
                window=settings.window,
                negative=settings.negatives,
                epochs=settings.epochs,
                seed=settings.seed,
                min_count=1,
                sg=1,
                workers=1,
            )
            codes = torch.tensor([int(code) for code in model.wv.index_to_key])
            table[codes] = torch.from_numpy(model.wv.vectors.copy())
    return {"word2vec.items": table}
