"""Vectors of items by which users have them in common, and embeddings that begin with them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from unirep_feast.batch import FIRST_ITEM
from unirep_feast.item_vectors import START, begin_items, cooccurrence_vectors, prepare_start
from unirep_feast.plugins import load_plugins
from unirep_feast.sequences import Sequences
from unirep_feast.testing.world import make_world

#: Encoders whose items can begin so: name, settings, the table, and the code of its first row.
TABLES = {
    "clue": ({}, "tokens.weight", 0),
    "icl": ({"behavior": "id"}, "behaviors.items.weight", 0),
    "userbert": ({"preset": "gru4rec", "dim": 16}, "behaviors.items.weight", 0),
    "guim": ({"item_dim": 16}, "f_j.ids.weight", FIRST_ITEM - 1),
}


def past(seed: int = 0) -> Sequences:
    sequences = make_world(seed=seed).sequences
    return sequences.before(sequences.until)


def bags(sequences: Sequences) -> list[set[int]]:
    """Of every user the different items of the vocabulary."""
    found = []
    for start, end in zip(sequences.starts.tolist(), sequences.ends.tolist(), strict=True):
        codes = sequences.codes[start:end].tolist()
        found.append({c for c in codes if FIRST_ITEM <= c < len(sequences.vocabulary)})
    return found


def information(sequences: Sequences) -> np.ndarray:
    """Positive pointwise mutual information, pair by pair, in float64."""
    count = len(sequences.vocabulary)
    together = np.zeros((count, count))
    for bag in bags(sequences):
        for one in bag:
            for other in bag - {one}:
                together[one, other] += 1
    found = np.zeros((count, count))
    for one in range(count):
        for other in range(count):
            if together[one, other]:
                alone = together[one].sum() * together[other].sum()
                chance = together[one, other] * together.sum() / alone
                found[one, other] = max(math.log(chance), 0.0)
    return found


@given(st.integers(0, 50))
@settings(max_examples=10, deadline=None)
def test_vectors_factorise_the_information_of_pairs(seed: int) -> None:
    """At full rank they are U sqrt(S) of the loop's matrix, rows of length one."""
    sequences = past(seed)
    wanted = information(sequences)
    found = cooccurrence_vectors(sequences, len(wanted)).double().numpy()

    left, spread, _ = np.linalg.svd(wanted)
    rows = left * np.sqrt(spread)
    met = wanted.any(1)
    rows[met] /= np.linalg.norm(rows[met], axis=1, keepdims=True)
    rows[~met] = 0

    # Vectors are known but for a rotation, so their products are compared.
    np.testing.assert_allclose(found @ found.T, rows @ rows.T, atol=1e-4)


def test_codes_that_were_never_met_beside_another_have_none() -> None:
    """PAD, MASK and UNK first of all; the others have length one, and any width may be asked."""
    sequences = past()
    met = information(sequences).any(1)

    for dim in (1, 5, len(met) + 7):
        vectors = cooccurrence_vectors(sequences, dim)
        assert vectors.shape == (len(met), dim)
        assert not vectors[:FIRST_ITEM].any()
        torch.testing.assert_close(vectors.norm(dim=1), torch.tensor(met, dtype=torch.float32))


def test_the_same_log_gives_the_same_vectors_and_draws_nothing() -> None:
    """Whatever was drawn before; and the caller's own draws go on as if nothing had happened."""
    torch.manual_seed(1)
    first = cooccurrence_vectors(past(), 8)
    drawn = torch.rand(3)
    torch.manual_seed(1)

    assert torch.equal(drawn, torch.rand(3))
    assert torch.equal(first, cooccurrence_vectors(past(), 8))


def test_a_log_with_too_many_pairs_is_counted_in_part() -> None:
    """Users are drawn until the pairs are used up: fewer items are met, none is invented."""
    sequences = past()
    whole = cooccurrence_vectors(sequences, 4).any(1)
    pairs = sum(len(bag) ** 2 for bag in bags(sequences))
    part = cooccurrence_vectors(sequences, 4, pairs // 8).any(1)

    assert 0 < part.sum() < whole.sum()
    assert not (part & ~whole).any()
    assert not cooccurrence_vectors(sequences, 4, 0).any()


def test_rows_keep_the_length_they_were_drawn_with() -> None:
    """Those with a vector point where it does; the others stay as they are."""
    weight = torch.randn(6, 4)
    before = weight.clone()
    vectors = torch.nn.functional.normalize(torch.randn(9, 4), dim=1)
    vectors[4] = 0
    begin_items(weight, {START: vectors}, first=2)

    known = [0, 1, 3, 4, 5]
    length = before[known].norm(dim=1).mean()
    torch.testing.assert_close(weight[known], vectors[[2, 3, 5, 6, 7]] * length)
    assert torch.equal(weight[2], before[2])


def test_nothing_is_fitted_for_a_random_start() -> None:
    """And a table then stays as it was drawn."""
    weight = torch.randn(5, 4)
    before = weight.clone()
    begin_items(weight, prepare_start("random", past(), 4))

    assert torch.equal(weight, before)


@pytest.mark.parametrize("name", TABLES)
def test_encoders_begin_where_their_setting_says(name: str) -> None:
    """`start: cooccurrence` turns every item's row to its vector; `random` fits nothing."""
    given_, table, first = TABLES[name]
    sequences = past()
    part = load_plugins().get("encoder", name)

    def built(start: str) -> Tensor:
        parsed = part.settings.model_validate({**given_, "start": start})
        assert part.prepare is not None
        state = part.prepare(parsed, sequences.vocabulary, sequences, None)
        assert (START in state) == (start == "cooccurrence")
        torch.manual_seed(0)
        weights = part.build(parsed, sequences.vocabulary, state).state_dict()
        rows = weights[table][FIRST_ITEM - first : len(sequences.vocabulary) - first]
        return rows.float()

    cosine = torch.nn.functional.cosine_similarity
    rows = built("cooccurrence")
    wanted = cooccurrence_vectors(sequences, rows.shape[1])[FIRST_ITEM:]
    met = wanted.any(1)
    assert met.sum() > 5
    torch.testing.assert_close(cosine(rows, wanted)[met], torch.ones(int(met.sum())))
    assert cosine(built("random"), wanted)[met].mean() < 0.5


@pytest.mark.parametrize("name", ["icl", "userbert"])
def test_words_cannot_begin_so(name: str) -> None:
    """Items of titles have no row of their own; the refusal names what to set."""
    part = load_plugins().get("encoder", name)
    text = {"behavior": "text"} if name == "icl" else {"preset": "naml"}

    with pytest.raises(ValueError, match=r"set `behavior: id`"):
        part.settings.model_validate({**text, "start": "cooccurrence"})
