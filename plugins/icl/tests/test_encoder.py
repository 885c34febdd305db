"""The interest dictionary against plain loops over the paper's equations, in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from unirep_feast.batch import FIRST_ITEM, MASK, UNK, SequenceBatch
from unirep_feast.errors import EventsError
from unirep_feast.items import ItemTable
from unirep_feast_icl.behaviors import prepare_behaviors
from unirep_feast_icl.config import BehaviorSettings, EncoderSettings
from unirep_feast_icl.dictionary import InterestDictionary, regulariser
from unirep_feast_icl.encoder import IclEncoder
from unirep_feast_icl.packed import block_linear, row_softmax

Batches = Callable[..., SequenceBatch]
Rows = Callable[..., list[list[int]]]
Encoders = Callable[..., IclEncoder]


def _dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def _norm(a: list[float]) -> float:
    return math.sqrt(_dot(a, a))


def _aggregate(
    behaviors: list[list[float]], interests: list[list[float]], K: int
) -> tuple[list[list[float]], list[int], list[float]]:
    """Eq 3 to 8 for one history that is not empty."""
    scores = []
    for c in interests:
        scores.append(sum(_dot(c, e) / (_norm(c) * _norm(e)) for e in behaviors))  # Eq 3, 4
    ranked = sorted(range(len(interests)), key=lambda i: (-scores[i], i))[:K]  # Eq 5
    vectors = []
    for i in ranked:
        weights = [math.exp(_dot(interests[i], e)) for e in behaviors]
        shares = [w / sum(weights) for w in weights]  # Eq 7
        columns = range(len(behaviors[0]))
        vectors.append(
            [sum(a * e[d] for a, e in zip(shares, behaviors, strict=True)) for d in columns]
        )  # Eq 8
    return vectors, ranked, scores


@pytest.mark.parametrize("behavior", ["text", "id"])
def test_equals_plain_loops(
    behavior: str, encoder: Encoders, batch_of: Batches, random_rows: Rows
) -> None:
    """Vectors, chosen interests and scores of every history are those of Eq 3 to 8."""
    model = encoder(behavior=behavior)
    rows = random_rows(20)
    batch = batch_of(rows)
    found = model(batch)

    table = model.embed_items(torch.arange(FIRST_ITEM + 27)).tolist()
    interests = model.dictionary.interests.tolist()
    for row, codes in enumerate(rows):
        if not codes:
            assert not found.users[row].any() and not found.extras["filled"][row]
            continue
        vectors, ranked, scores = _aggregate([table[c] for c in codes], interests, 3)
        np.testing.assert_allclose(found.users[row].tolist(), vectors, rtol=1e-10)
        assert found.extras["slots"][row].tolist() == ranked
        np.testing.assert_allclose(found.extras["scores"][row].tolist(), scores, rtol=1e-10)


def test_a_behavior_is_the_mean_of_its_words(encoder: Encoders, titles: list[str | None]) -> None:
    """Eq 2; MASK and items without words have a vector each, never nothing."""
    model = encoder(behavior="text", text={"language": "none"})
    words = model.behaviors.titles
    names = ["PAD", "UNK", *words.vocabulary.words.to_pylist()]
    found = model.embed_items(torch.arange(FIRST_ITEM + len(titles)))

    for code, title in enumerate(titles, FIRST_ITEM):
        if title is None:
            assert torch.equal(found[code], found[UNK])
            continue
        rows = [words.words.weight[names.index(word)] for word in title.split()]
        torch.testing.assert_close(found[code], torch.stack(rows).mean(0))
    assert found[MASK].any() and found[UNK].any() and not torch.equal(found[MASK], found[UNK])


def test_ids_share_a_vector_beyond_the_vocabulary(encoder: Encoders) -> None:
    """An item that was appended later is UNK."""
    model = encoder()

    unseen = model.embed_items(torch.tensor([FIRST_ITEM + 27, UNK]))
    assert torch.equal(unseen[0], unseen[1])


def test_equal_scores_go_to_the_lowest_interest(batch_of: Batches) -> None:
    """Interests that are the same vector are chosen in order of their index."""
    dictionary = InterestDictionary(6, 4, 5).double()
    with torch.no_grad():
        dictionary.interests[:] = dictionary.interests[2].clone()
        dictionary.interests[3] = -dictionary.interests[2]
    e = dictionary.interests[2:3].detach() + torch.randn(4, 5, dtype=torch.float64) * 0.01
    batch = batch_of([[3, 4, 5], [6]])

    slots = dictionary(e, torch.arange(4), batch).slots
    assert slots.tolist() == [[0, 1, 2, 4], [0, 1, 2, 4]]


def test_the_choice_has_no_gradient_and_the_rest_has(
    encoder: Encoders, batch_of: Batches, random_rows: Rows
) -> None:
    """User vectors reach chosen interests only; the regulariser reaches all."""
    model = encoder(interests=20, vectors=1)
    batch = batch_of([row for row in random_rows(4) if row])
    encoded = model(batch)
    used = set(encoded.extras["slots"].flatten().tolist())
    (gradient,) = torch.autograd.grad(
        encoded.users.square().sum(), model.dictionary.interests, retain_graph=True
    )
    assert set(torch.nonzero(gradient.abs().sum(1)).flatten().tolist()) <= used

    term = model.penalties(encoded.extras)["regulariser"]
    (gradient,) = torch.autograd.grad(term, model.dictionary.interests)
    assert bool((gradient.abs().sum(1) > 0).all())


def test_gradients_are_right(encoder: Encoders, batch_of: Batches) -> None:
    """gradcheck of vectors and scores with respect to behaviors and interests."""
    dictionary = InterestDictionary(5, 2, 3).double()
    batch = batch_of([[3, 4, 3], [], [5, 6]])
    place = torch.tensor([0, 1, 0, 2, 3])

    def run(e: Tensor, interests: Tensor) -> tuple[Tensor, Tensor]:
        chosen = torch.func.functional_call(dictionary, {"interests": interests}, (e, place, batch))
        return chosen.users, chosen.scores

    e = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    interests = dictionary.interests.detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(run, (e, interests))


def test_regulariser_is_the_sum_of_squared_deviations() -> None:
    """Eq 9 and 10 as loops; rows without behaviors are no sample; equal use costs nothing."""
    scores = torch.randn(6, 4, dtype=torch.float64)
    filled = torch.tensor([True, True, False, True, True, False])
    scores = scores * filled[:, None]
    kept = [row for row, yes in zip(scores.tolist(), filled.tolist(), strict=True) if yes]
    mean = [sum(row[i] for row in kept) / len(kept) for i in range(4)]
    wanted = sum((p - sum(mean) / 4) ** 2 for p in mean)

    assert regulariser(scores, filled).item() == pytest.approx(wanted, rel=1e-12)
    assert regulariser(torch.ones(3, 4), torch.ones(3, dtype=torch.bool)).item() == 0
    assert regulariser(torch.zeros(3, 4), torch.zeros(3, dtype=torch.bool)).item() == 0
    check = torch.autograd.gradcheck
    assert check(lambda x: regulariser(x, filled), (scores.requires_grad_(),))


def test_gamma_weighs_the_regulariser(
    encoder: Encoders, batch_of: Batches, random_rows: Rows
) -> None:
    """gamma 0 is the ablation: nothing is added and nothing is kept for it."""
    batch = batch_of(random_rows(8))
    once, twice, never = (encoder(regulariser=gamma) for gamma in (1, 2, 0))
    twice.load_state_dict(once.state_dict())
    terms = [model.penalties(model(batch).extras) for model in (once, twice)]

    torch.testing.assert_close(terms[1]["regulariser"], 2 * terms[0]["regulariser"])
    assert never.penalties(never(batch).extras) == {}
    assert set(never(batch).extras) == {"slots"}


def test_without_a_dictionary_a_user_is_the_average_behavior(
    encoder: Encoders, batch_of: Batches
) -> None:
    """The ablation has one vector, no interests, no regulariser."""
    model = encoder(aggregation="mean", vectors=1)
    found = model(batch_of([[3, 4, 4], [], [5]]))
    table = model.embed_items(torch.arange(8))

    torch.testing.assert_close(found.users[0, 0], (table[3] + 2 * table[4]) / 3)
    torch.testing.assert_close(found.users[2, 0], table[5])
    assert not found.users[1].any() and not found.extras
    assert [name for name, _ in model.named_parameters()] == ["behaviors.items.weight"]


def test_user_vectors_are_mixes_of_behaviors(
    encoder: Encoders, batch_of: Batches, random_rows: Rows
) -> None:
    """Every vector lies within the box of its user's behaviors, so items share its space."""
    model = encoder()
    rows = [row for row in random_rows(12) if row]
    users = model(batch_of(rows)).users
    for row, codes in enumerate(rows):
        e = model.embed_items(torch.tensor(codes))
        assert bool((users[row] <= e.max(0).values + 1e-12).all())
        assert bool((users[row] >= e.min(0).values - 1e-12).all())


def test_the_order_of_behaviors_does_not_matter(encoder: Encoders, batch_of: Batches) -> None:
    """A history is a set."""
    model = encoder()
    one, two = (model(batch_of([row])) for row in ([3, 9, 9, 14, 20], [9, 20, 3, 14, 9]))

    torch.testing.assert_close(one.users, two.users)
    assert torch.equal(one.extras["slots"], two.extras["slots"])


def test_scores_ignore_the_scale_of_behaviors_and_interests(batch_of: Batches) -> None:
    """Eq 3 is a cosine: which interests are chosen does not depend on lengths."""
    dictionary = InterestDictionary(9, 3, 4).double()
    batch, place = batch_of([[3, 4, 5], [6]]), torch.arange(4)
    e = torch.randn(4, 4, dtype=torch.float64)
    before = dictionary(e, place, batch)
    with torch.no_grad():
        dictionary.interests *= torch.rand(9, 1) * 5 + 0.1
    after = dictionary(e * torch.tensor([[3.0], [0.2], [7.0], [1.0]]), place, batch)

    torch.testing.assert_close(before.scores, after.scores)
    assert torch.equal(before.slots, after.slots)


def test_softmax_is_stable_and_by_row(batch_of: Batches) -> None:
    """Large scores do not overflow; each column of a row sums to 1; nothing leaks over rows."""
    batch = batch_of([[3, 4, 5], [], [6, 7]])
    scores = torch.randn(5, 2, dtype=torch.float64) * 1000
    found = row_softmax(scores, batch)

    torch.testing.assert_close(found[:3], scores[:3].softmax(0))
    torch.testing.assert_close(found[3:], scores[3:].softmax(0))
    assert torch.autograd.gradcheck(
        lambda x: row_softmax(x, batch), (torch.randn_like(scores).requires_grad_(),)
    )


def test_products_have_the_same_bits_beside_any_rows() -> None:
    """Blocks of one size: a row's product does not depend on how many rows there are, or where."""
    x, weight = torch.randn(700, 256), torch.randn(100, 256)
    whole = block_linear(x, weight)
    for part in (slice(0, 1), slice(13, 14), slice(5, 300), slice(255, 700)):
        assert torch.equal(block_linear(x[part], weight), whole[part])
    torch.testing.assert_close(whole, x @ weight.T)


@pytest.mark.parametrize("rows", [[], [[]], [[], []]])
def test_nothing_is_encoded_to_zeros(
    rows: list[list[int]], encoder: Encoders, batch_of: Batches
) -> None:
    """A batch without any behavior does not crash."""
    model = encoder(behavior="text")
    found = model(batch_of(rows))

    assert found.users.shape == (len(rows), 3, 8) and not found.users.any()
    assert model.penalties(found.extras)["regulariser"].item() == 0


def test_titles_are_needed_for_text(catalogue: ItemTable) -> None:
    """Without any word the error says what to set."""
    bare = ItemTable(
        catalogue.item_ids,
        catalogue.titles.filter([False] * 27),
        catalogue.categories,
        catalogue.known,
    )
    with pytest.raises(EventsError, match=r"encoder\.settings\.behavior: id"):
        prepare_behaviors(BehaviorSettings(), bare)
    assert prepare_behaviors(BehaviorSettings(behavior="id"), bare) == {}


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"vectors": 5, "interests": 4}, "`vectors` must be at most `interests`"),
        ({"aggregation": "mean"}, "set `vectors: 1`"),
        ({"text": {"language": "de"}}, "'en', 'zh' or 'none'"),
        ({"behaviour": "id"}, "behaviour"),
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, Any], says: str) -> None:
    """Each message says what is allowed."""
    with pytest.raises(ValueError, match=says):
        EncoderSettings.model_validate(wrong)


def test_defaults_are_the_papers() -> None:
    """Table 1 and section 4.2, industrial: M 100, K 5, 256 numbers, 320 behaviors of 8 words."""
    settings = EncoderSettings()

    assert (settings.interests, settings.vectors, settings.dim) == (100, 5, 256)
    assert (settings.max_events, settings.text.max_words) == (320, 8)
    assert (settings.text.max_size, settings.regulariser) == (178_422, 1)
