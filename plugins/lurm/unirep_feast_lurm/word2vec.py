"""Word vectors by word2vec, trained on the titles: the paper's setting on Amazon (section 4.4)."""

from __future__ import annotations

import pyarrow as pa
import torch
from torch import Tensor

from unirep_feast.errors import UnirepError
from unirep_feast.text import FIRST_WORD, WordVocabulary


def fit_word2vec(
    tokens: pa.ListArray, words: WordVocabulary, dim: int, epochs: int, seed: int
) -> Tensor:
    """Train word2vec with gensim, in one thread so that it repeats.

    Args:
        tokens: (n,) list<string>, the words of each title.
        words: which words get a vector; others are left out of the titles.
        dim: numbers per word.
        epochs: passes over the titles.
        seed: of everything random.

    Returns:
        (W, dim) float32 by word code; zeros for PAD and UNK.

    Raises:
        UnirepError: gensim is not installed.
    """
    try:
        from gensim.models import Word2Vec
    except ImportError:
        raise UnirepError(
            "encoder.settings.items: word2vec needs gensim, which is not installed; "
            "pip install 'unirep-feast-lurm[word2vec]', or set items: text"
        ) from None
    listed = words.words.to_pylist()
    kept = set(listed)
    titles = [[word for word in title or () if word in kept] for title in tokens.to_pylist()]
    model = Word2Vec(
        vector_size=dim, min_count=1, epochs=epochs, seed=seed % 2**32, workers=1, window=5
    )
    model.build_vocab(titles)
    model.train(titles, total_examples=model.corpus_count, epochs=model.epochs)
    vectors = torch.zeros(len(words), dim)
    found = [n for n, word in enumerate(listed) if word in model.wv]
    rows = torch.from_numpy(model.wv[[listed[n] for n in found]].copy())
    vectors[torch.tensor(found, dtype=torch.int64) + FIRST_WORD] = rows
    return vectors
