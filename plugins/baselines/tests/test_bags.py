"""TF-IDF, word2vec, doc2vec and ALS are what their libraries and equations say."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import scipy.sparse
import torch
import torch.nn.functional as F
from implicit.cpu.als import AlternatingLeastSquares
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfTransformer

from unirep_feast.batch import FIRST_ITEM, SequenceBatch
from unirep_feast.encoder import Encoder
from unirep_feast.errors import EventsError, UnirepError
from unirep_feast.events import TIME_TYPE
from unirep_feast.sequences import Sequences, fit_vocabulary
from unirep_feast.testing import World, make_world, registered
from unirep_feast.testing.world import START, pack_table
from unirep_feast_baselines.corpus import written


def build(name: str, past: Sequences, **settings: Any) -> Encoder:
    """Fit and build an encoder as the host does."""
    recipe = registered(f"baselines.{name}", settings={"encoder": settings})
    return recipe.build(past).encoder


def histories(past: Sequences) -> SequenceBatch:
    rows = torch.nonzero(past.lengths).flatten()
    return past.histories(rows)


def matrix(batch: SequenceBatch, size: int) -> scipy.sparse.csr_matrix:
    """Counts of users by items, one event after the other."""
    counts = np.zeros((len(batch), size))
    for row, code in zip(batch.rows.tolist(), batch.codes.tolist(), strict=True):
        if code >= FIRST_ITEM:
            counts[row, code] += 1
    return scipy.sparse.csr_matrix(counts)


@pytest.mark.parametrize("sublinear", [True, False])
def test_tfidf_is_scikit_learns(world: World, sublinear: bool) -> None:
    """Users' vectors are what TfidfTransformer and TruncatedSVD make of their counts."""
    encoder = build("tfidf", world.past, dim=5, sublinear=sublinear)
    batch = histories(world.past)
    counts = matrix(batch, world.past.items.known)
    weighted = TfidfTransformer(sublinear_tf=sublinear).fit_transform(counts)
    expected = TruncatedSVD(5, n_iter=7, random_state=0).fit(weighted).transform(weighted)

    actual = encoder(batch).users[:, 0]

    np.testing.assert_allclose(actual.numpy(), expected, atol=1e-4)


def test_a_history_of_one_item_has_the_items_vector(world: World) -> None:
    """`similar --items` compares like with like."""
    encoder = build("tfidf", world.past, dim=5)
    batch = histories(world.past)
    single = batch.take(torch.nonzero(batch.lengths == 1).flatten())
    known = (single.codes >= FIRST_ITEM) & (single.codes < world.past.items.known)
    assert bool(known.any())

    torch.testing.assert_close(
        encoder(single).users[known, 0], encoder.embed_items(single.codes[known])
    )


def test_words_count_in_titles(world: World) -> None:
    """With `terms: words` two items of one title are one and the same."""
    encoder = build("tfidf", world.past, dim=4, terms="words")
    batch = histories(world.past)
    items, places = world.past.items, np.arange(len(world.past.items) - FIRST_ITEM)
    a, b = FIRST_ITEM, FIRST_ITEM + 1
    places[b - FIRST_ITEM] = a - FIRST_ITEM  # the second has title and category of the first
    like = pa.array(places)
    encoder.bind(
        replace(items, titles=items.titles.take(like), categories=items.categories.take(like))
    )
    swapped = batch.with_codes(torch.where(batch.codes == a, b, batch.codes))

    assert bool((batch.codes == a).any()) and not torch.equal(batch.codes, swapped.codes)
    torch.testing.assert_close(encoder(batch).users, encoder(swapped).users)


def test_words_need_titles() -> None:
    """A log without titles is refused in one line that names the setting."""
    made = make_world(users=10)
    past = Sequences.from_packed(made.packed, made.vocabulary, None).before(made.until)

    with pytest.raises(EventsError, match="terms: items"):
        build("tfidf", past, terms="words")


def test_word2vec_averages_events(world: World) -> None:
    """A user's vector is the mean over events, repeated items as often as they occur."""
    encoder = build("word2vec", world.past, dim=6, epochs=1)
    batch = histories(world.past)
    known = (batch.codes >= FIRST_ITEM) & (batch.codes < world.past.items.known)
    expected = torch.zeros(len(batch), 6)
    for row in range(len(batch)):
        mine = batch.codes[(batch.rows == row) & known]
        if len(mine):
            expected[row] = encoder.embed_items(mine).mean(0)

    torch.testing.assert_close(encoder(batch).users[:, 0], expected)


def test_word2vec_learns_what_occurs_together() -> None:
    """Items of one user group come to lie closer to each other than to those of another."""
    random = np.random.default_rng(0)
    users = np.repeat(np.arange(200), 12)
    items = random.integers(0, 10, len(users)) + 10 * (users % 2)
    times = START + np.arange(len(users)) * 60_000_000
    table = pa.table(
        {"user_id": users, "item_id": items, "event_timestamp": pa.array(times, TIME_TYPE)}
    )
    packed = pack_table(table)
    past = Sequences.from_packed(packed, fit_vocabulary(packed, int(times[-1]) + 1))
    encoder = build("word2vec", past, dim=8, epochs=20)
    codes = torch.arange(FIRST_ITEM, past.items.known)
    group = torch.from_numpy(past.items.item_ids.to_numpy() >= 10)

    cosine = F.normalize(encoder.embed_items(codes), dim=-1)
    cosine = cosine @ cosine.T
    same = group[:, None] == group

    assert float(cosine[same].mean()) > float(cosine[~same].mean()) + 0.5


def test_als_folds_in_as_implicit_does(world: World) -> None:
    """A user's factors solve implicit's own system for that user."""
    encoder = build("als", world.past, dim=4, iterations=4, alpha=3.0)
    batch = histories(world.past)
    counts = matrix(batch, world.past.items.known).astype(np.float32)
    counts.data = (1 + 3.0 * np.log1p(counts.data)).astype(np.float32)
    model = AlternatingLeastSquares(
        factors=4, regularization=0.1, iterations=4, random_state=0, num_threads=1
    )
    model.fit(counts, show_progress=False)
    expected = model.recalculate_user(np.arange(len(batch)), counts)

    np.testing.assert_allclose(encoder(batch).users[:, 0].numpy(), expected, atol=2e-3)


def test_doc2vec_is_at_the_optimum_of_its_objective(world: World) -> None:
    """Eq of PV-DBOW with negative sampling and a prior: no step from there gains anything."""
    encoder = build("doc2vec", world.past, dim=6, epochs=3, iterations=200)
    batch = histories(world.past)
    users = encoder(batch).users[:, 0].double().detach().requires_grad_()
    table, noise = encoder.table, encoder.noise  # type: ignore[attr-defined]
    known = (batch.codes >= FIRST_ITEM) & (batch.codes < len(table))

    total = torch.zeros((), dtype=torch.float64)
    for row in range(len(batch)):
        mine = table[batch.codes[(batch.rows == row) & known]]
        total = total + F.logsigmoid(mine @ users[row]).sum() - users[row].square().sum() / 2
        total = total + 5 * len(mine) * F.logsigmoid(-(noise @ users[row])).mean()
    total.backward()

    assert users.grad is not None
    assert float(users.grad.abs().max()) < 1e-3
    assert float(users.detach().abs().max()) > 1e-3


def test_doc2vec_converges_within_its_default_iterations(world: World) -> None:
    """The default number of steps is enough for three digits."""
    batch = histories(world.past)
    short = build("doc2vec", world.past, dim=6, epochs=3)(batch).users
    long = build("doc2vec", world.past, dim=6, epochs=3, iterations=300)(batch).users

    assert float((short - long).abs().max()) < 1e-2 * float(long.abs().max())


@pytest.mark.parametrize("split", [True, False])
def test_long_histories_are_cut_into_lines(
    world: World, split: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """gensim cuts off what is longer than 10,000 words: split, nothing is lost and none joined."""
    monkeypatch.setattr("unirep_feast_baselines.corpus.LONGEST", 4)
    batch = histories(world.past)
    known = (batch.codes >= FIRST_ITEM) & (batch.codes < world.past.items.known)
    expected: list[list[int]] = []
    for row in range(len(batch)):
        mine = batch.codes[(batch.rows == row) & known].tolist()
        pieces = [mine[n : n + 4] for n in range(0, len(mine), 4)] if split else [mine[-4:]]
        expected += [piece for piece in pieces if piece]

    with written(world.past, split) as corpus:
        lines = corpus.path.read_text().splitlines()

    assert [[int(word) for word in line.split()] for line in lines] == expected
    assert (corpus.lines, corpus.words) == (len(expected), sum(map(len, expected)))


def test_a_missing_library_is_one_line(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It names the extra to install."""
    monkeypatch.setitem(sys.modules, "implicit", None)
    monkeypatch.setitem(sys.modules, "implicit.cpu.als", None)

    with pytest.raises(UnirepError, match=r"pip install 'unirep-feast-baselines\[als\]'"):
        build("als", world.past)
