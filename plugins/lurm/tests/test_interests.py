from __future__ import annotations

import builtins
import logging
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor

from unirep_feast.batch import FIRST_ITEM, MASK, PAD, UNK
from unirep_feast.encoder import Encoder
from unirep_feast.errors import EventsError, UnirepError
from unirep_feast.instants import MICROSECONDS_PER_DAY
from unirep_feast.items import ItemTable
from unirep_feast.sequences import Sequences
from unirep_feast.testing.recipe import fit
from unirep_feast.testing.world import make_sequences
from unirep_feast.text import TextSettings
from unirep_feast_lurm.clustering import assign
from unirep_feast_lurm.config import EncoderSettings, InterestSettings, ItemSettings
from unirep_feast_lurm.encoder import LurmEncoder
from unirep_feast_lurm.interests import Interests, prepare_interests, prepare_items, prepare_words
from unirep_feast_lurm.items import ItemEncoder, ResidualBlock


@pytest.fixture
def past() -> Sequences:
    return make_sequences(users=40, items=60, longest=20)


def settings_of(**changes: Any) -> InterestSettings:
    return InterestSettings.model_validate(
        {"item_dim": 8, "item_steps": 5, "interests": 7, **changes}
    )


def interests_of(
    settings: InterestSettings, past: Sequences, prepared: dict[str, Tensor]
) -> Interests:
    built = Interests(len(past.vocabulary), settings, prepared)
    built.bind(past.items)
    return built


def with_more(items: ItemTable, titles: list[str | None]) -> ItemTable:
    """The catalogue with further items, whose ids come last."""
    last = items.item_ids[-1].as_py()
    more = pa.array(range(last + 1, last + 1 + len(titles)), items.item_ids.type)
    return ItemTable(
        pa.concat_arrays([items.item_ids, more]),
        pa.concat_arrays([items.titles, pa.array(titles, items.titles.type)]),
        pa.concat_arrays([items.categories, pa.nulls(len(titles), items.categories.type)]),
        items.known,
    )


@pytest.mark.parametrize("clustering", ["hdsc", "kmeans"])
@pytest.mark.parametrize("items", ["text", "id", "word2vec", "cooccurrence"])
def test_every_item_with_a_vector_has_an_interest(
    past: Sequences, items: str, clustering: str
) -> None:
    """Others, and PAD, MASK and UNK, have none; and no interest is without an item."""
    settings = settings_of(items=items, clustering=clustering)
    prepared = prepare_interests(settings, past, fit)

    vectors, shares = prepared["items.vectors"], prepared["interests.shares"]
    there = (vectors != 0).any(1)
    assert torch.equal(shares[:, 0] == 1, there)
    assert not bool(there[:FIRST_ITEM].any()) and bool(there[FIRST_ITEM:].any())
    used = prepared["interests.places"][there].unique()
    assert used.tolist() == list(range(len(prepared["interests.centres"])))
    assert len(used) <= 7
    nearest = assign(vectors[there], prepared["interests.centres"], 1, 1.0)[0]
    assert torch.equal(prepared["interests.places"][there], nearest)


def test_soft_assignment_shares_an_item_out(past: Sequences) -> None:
    """Among the nearest interests, nearest first; shares sum to 1."""
    settings = settings_of(assignment="soft", nearest=3, items="id")
    prepared = prepare_interests(settings, past, fit)

    shares = prepared["interests.shares"][FIRST_ITEM:]
    assert shares.shape[1] == 3
    assert torch.allclose(shares.sum(1), torch.ones(len(shares)))
    assert bool((shares[:, :-1] >= shares[:, 1:]).all())


def test_preparing_repeats(past: Sequences) -> None:
    """The same seed gives the same prepared state to the last bit; another one does not."""
    found = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        found.append(prepare_interests(settings_of(assignment="soft"), past, fit))

    for name, tensor in found[0].items():
        assert torch.equal(tensor, found[1][name]), name
    assert not torch.equal(found[0]["interests.centres"], found[2]["interests.centres"])


def test_unseen_items_go_to_the_nearest_centre_and_move_nothing(past: Sequences) -> None:
    """Trained assignments stay as the catalogue grows, step by step and between."""
    settings = settings_of()
    prepared = prepare_interests(settings, past, fit)
    built = interests_of(settings, past, prepared)
    known = torch.arange(len(past.vocabulary))
    before = [part.clone() for part in built.of(known)]
    first_title = next(title for title in past.items.titles.to_pylist() if title)
    titles = [first_title, None, "entirely new words", *(["red lamp"] * 600)]
    grown = with_more(past.items, titles)
    built.bind(grown)

    for found, was in zip(built.of(known), before, strict=True):
        assert torch.equal(found, was)
    new = torch.arange(len(past.items), len(grown))
    places, shares = built.of(new)
    assert shares[:3, 0].tolist() == [1.0, 0.0, 0.0]  # no known word, no interest
    encoder = ItemEncoder(len(past.vocabulary), settings, prepared)
    encoder.bind(grown)
    with torch.no_grad():
        wanted = assign(encoder.embed_items(new), prepared["interests.centres"], 1, 1.0)[0]
    assert torch.equal(places[shares[:, 0] > 0], wanted[shares[:, 0] > 0])
    same = past.items.titles.to_pylist().index(first_title) + FIRST_ITEM
    assert int(places[0]) == int(built.of(torch.tensor([same]))[0])
    again = interests_of(settings, replace(past, items=with_more(past.items, titles[:3])), prepared)
    assert torch.equal(again.of(new[:3])[0], places[:3])


def test_id_only_unseen_items_have_no_interest(past: Sequences) -> None:
    """There is nothing to tell one from another by."""
    settings = settings_of(items="id")
    built = interests_of(settings, past, prepare_interests(settings, past, fit))
    built.bind(with_more(past.items, ["red lamp"]))
    codes = torch.tensor([PAD, MASK, UNK, past.items.known, len(past.items)])

    assert built.of(codes)[1].sum() == 0


def test_more_interests_than_items_are_one_per_item(
    past: Sequences, caplog: pytest.LogCaptureFixture
) -> None:
    """Distinct vectors are centres of their own; it is logged, and both numbers are named."""
    settings = settings_of(items="id", interests=100_000)
    with caplog.at_level(logging.WARNING):
        prepared = prepare_interests(settings, past, fit)

    items = len(past.vocabulary) - FIRST_ITEM
    assert len(prepared["interests.centres"]) == items
    places = prepared["interests.places"][FIRST_ITEM:, 0]
    assert places.sort().values.tolist() == list(range(items))
    assert f"{items} distinct item vectors for 100,000 interests" in caplog.text


def test_centres_are_found_on_a_sample(past: Sequences) -> None:
    """With a sample of 9 items there are at most 9 centres, and all items are assigned."""
    settings = settings_of(items="id", interests=20, sample=9)
    prepared = prepare_interests(settings, past, fit)

    assert len(prepared["interests.centres"]) <= 9
    assert bool((prepared["interests.shares"][FIRST_ITEM:, 0] == 1).all())


def test_word_limit_covers_the_asked_share(past: Sequences) -> None:
    """95 % of titles stay whole unless the spec sets a limit of its own."""
    titles = pa.array(
        [" ".join(["red"] * (1 + n % 20)) for n in range(len(past.items) - FIRST_ITEM)]
    )
    long = replace(past, items=replace(past.items, titles=titles))

    fitted = int(prepare_words(settings_of(), long)["words.limit"])
    own = int(prepare_words(settings_of(text={"max_words": 4}), long)["words.limit"])

    lengths = np.sort([1 + n % 20 for n in range(past.items.known - FIRST_ITEM)])
    assert fitted == lengths[math.ceil(0.95 * len(lengths)) - 1]
    assert own == 4


def test_words_do_not_depend_on_unseen_items(past: Sequences) -> None:
    """Neither the vocabulary nor the word limit nor what is trained on them."""
    grown = replace(past, items=with_more(past.items, ["other words " * 30] * 50))
    found = []
    for one in (past, grown):
        torch.manual_seed(3)
        found.append(prepare_interests(settings_of(items="word2vec"), one, fit))

    for name, tensor in found[0].items():
        assert torch.equal(tensor, found[1][name]), name


def test_item_vectors_are_those_of_the_equation(past: Sequences) -> None:
    """Eq 1 by loops: mean of word embeddings, two residual blocks, length one."""
    settings = ItemSettings(item_dim=8, text=TextSettings(language="none"))
    torch.manual_seed(1)
    encoder = ItemEncoder(len(past.vocabulary), settings, prepare_words(settings, past)).double()
    encoder.bind(past.items)
    table: Any = encoder.table
    words = {word: n + 2 for n, word in enumerate(table.vocabulary.words.to_pylist())}

    for code, title in enumerate(past.items.titles.to_pylist()[:20], start=FIRST_ITEM):
        if title is None:
            continue
        x = torch.stack([table.words.weight[words[word]] for word in title.split()]).mean(0)
        for block in encoder.project:
            assert isinstance(block, ResidualBlock)
            inner = torch.relu(block.inner.weight @ x + block.inner.bias)
            x = x + block.outer.weight @ inner + block.outer.bias
        with torch.no_grad():
            found = encoder.embed_items(torch.tensor([code]))[0]
        assert torch.allclose(found, x / x.norm())


def test_item_vectors_are_fitted_with_the_hosts_loop(past: Sequences) -> None:
    """``prepare`` lends it an encoder, an objective and a sampler that fit, and its settings."""
    asked: list[dict[str, Any]] = []

    def lent(
        encoder: Encoder, objective: Any, sampler: Any, log: Sequences, **training: Any
    ) -> Encoder:
        asked.append(training)
        assert (objective.temperature, sampler.reach) == (0.2, 2 * MICROSECONDS_PER_DAY - 1)
        return fit(encoder, objective, sampler, log, **training)

    settings = settings_of(item_steps=4, item_batch=32, beta_days=2, item_temperature=0.2)
    prepare_items(settings, past, lent)

    (training,) = asked
    assert (training["max_steps"], training["batch_size"]) == (4, 32)
    assert training["epochs"] is None and training["validation"] == 0


def test_texts_without_words_are_refused(past: Sequences) -> None:
    """In one line that says what to set instead."""
    nothing = pa.nulls(len(past.items.titles), past.items.titles.type)
    bare = replace(past, items=replace(past.items, titles=nothing))

    for items in ("text", "word2vec"):
        with pytest.raises(EventsError, match="items: id") as caught:
            prepare_interests(settings_of(items=items), bare, fit)
        assert "\n" not in str(caught.value)
    assert len(prepare_interests(settings_of(items="id"), bare, fit)["interests.centres"]) > 0


def test_word2vec_without_gensim_is_refused(
    past: Sequences, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one line that says what to install."""
    real = builtins.__import__

    def without(name: str, *arguments: Any, **named: Any) -> Any:
        if name.startswith("gensim"):
            raise ImportError(name)
        return real(name, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UnirepError, match=r"unirep-feast-lurm\[word2vec\]"):
        prepare_items(settings_of(items="word2vec"), past, fit)


def test_word2vec_brings_words_of_one_context_together() -> None:
    """Words that stand among the same words end up closer than words that do not."""
    from unirep_feast.text import WordVocabulary, tokenize
    from unirep_feast_lurm.word2vec import fit_word2vec

    random = np.random.default_rng(0)
    kitchen, garden = (["mug", "cup", "plate", "bowl"], ["spade", "rake", "hose", "seed"])
    titles = [" ".join(random.permutation(kitchen if n % 2 else garden)[:3]) for n in range(2000)]
    tokens = tokenize(pa.array(titles))
    words = WordVocabulary.fit(tokens)
    vectors = fit_word2vec(tokens, words, 16, 5, seed=0)

    code = {word: n + 2 for n, word in enumerate(words.words.to_pylist())}
    mug, cup, rake = (vectors[code[word]] for word in ("mug", "cup", "rake"))
    assert torch.cosine_similarity(mug, cup, 0) > torch.cosine_similarity(mug, rake, 0) + 0.2
    assert not bool(vectors[:2].any())


def test_interest_embeddings_begin_with_their_centres(past: Sequences) -> None:
    """Only where their widths agree; a refusal says which they are."""
    wide = {"items": "cooccurrence", "start": "centres", "item_dim": 8, "dim": 8, "interests": 7}
    settings = EncoderSettings.model_validate(wide)
    prepared = prepare_interests(settings, past, fit)
    encoder = LurmEncoder(len(past.vocabulary), settings, prepared)

    assert torch.equal(encoder.anchors.interests.detach(), prepared["interests.centres"])
    with pytest.raises(ValueError, match=r"needs `dim` equal to `item_dim`, found 16 and 8"):
        EncoderSettings.model_validate({**wide, "dim": 16})
