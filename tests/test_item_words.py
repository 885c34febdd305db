"""Item texts as words: kept in a checkpoint, packed by item code, averaged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from unirep_feast.batch import FIRST_ITEM, MASK, PAD
from unirep_feast.batch import UNK as UNK_ITEM
from unirep_feast.errors import CheckpointError
from unirep_feast.item_words import ItemWords, MeanWords, fit_words, load_words
from unirep_feast.items import ItemTable, Vocabulary
from unirep_feast.text import UNK, TextSettings, WordVocabulary, joined

TITLES = ["Red lamps", None, "red mug", "green LAMP", "", "a teapot, red"]
PLAIN = TextSettings(language="none", max_size=None)


def table(
    titles: list[str | None] = TITLES, known: int = 4, categories: list[list[str]] | None = None
) -> ItemTable:
    """Items 0, 1, … of which the vocabulary knows the first ones."""
    ids = pa.array(range(len(titles)), pa.int64())
    vocabulary = Vocabulary(ids.slice(0, known), pa.array([1] * known))
    paths = pa.array(categories or [None] * len(titles), pa.list_(pa.string()))
    catalogue = pa.table(
        {"item_id": ids, "title": pa.array(titles, pa.string()), "category": paths}
    )
    return ItemTable.build(vocabulary, catalogue)


def words_of(items: ItemTable, settings: TextSettings) -> list[str]:
    return load_words(fit_words(items, settings)).words.to_pylist()


def mean_words(items: ItemTable, settings: TextSettings = PLAIN, dim: int = 4) -> MeanWords:
    torch.manual_seed(0)
    module = MeanWords(fit_words(items, settings), settings, dim)
    module.bind(items)
    return module


def test_words_are_of_items_seen_before_the_cut_off() -> None:
    """Words that only appended items have get no code, by falling count and then alphabet."""
    assert words_of(table(), PLAIN) == ["red", "green", "lamp", "lamps", "mug"]
    assert words_of(table(known=6), PLAIN)[:2] == ["red", "a"]


def test_settings_decide_which_words_count() -> None:
    """Stemming, the least count, the largest vocabulary, and words of categories."""
    assert words_of(table(), TextSettings(language="en")) == ["lamp", "red", "green", "mug"]
    assert words_of(table(), TextSettings(language="none", min_count=2)) == ["red"]
    assert words_of(table(), TextSettings(language="none", max_size=2)) == ["red", "green"]
    paths = [["Home", "Light"], ["Home"], [], ["Light"], [], []]
    both = TextSettings(language="none", categories=True)
    assert set(words_of(table(categories=paths), both)) >= {"home", "light", "red"}
    assert "home" not in words_of(table(categories=paths), PLAIN)


def test_words_of_no_language_but_the_known_are_refused() -> None:
    """The setting itself says which languages there are."""
    with pytest.raises(ValueError, match="'en', 'zh' or 'none'"):
        TextSettings.model_validate({"language": "xx"})


@given(st.lists(st.text(max_size=8), max_size=8))
def test_words_survive_a_checkpoint(titles: list[str]) -> None:
    """Any words, none too, come back from the tensors they are kept as."""
    items = table(titles, known=len(titles))
    prepared = fit_words(items, PLAIN)
    again = load_words(prepared)

    assert all(isinstance(value, torch.Tensor) for value in prepared.values())
    lists = [[w] for t in titles for w in _split(t)]
    fitted = WordVocabulary.fit(pa.array(lists, pa.list_(pa.string())))
    assert again.words.to_pylist() == fitted.words.to_pylist()
    assert again.counts.to_pylist() == fitted.counts.to_pylist()


def _split(title: str) -> list[str]:
    from unirep_feast.text import tokenize

    return tokenize(pa.array([title])).to_pylist()[0]


def test_words_survive_safetensors(tmp_path: Path) -> None:
    """A file keeps them, of an empty catalogue too."""
    for name, items in (("some", table(["灯 é", "x"])), ("none", table([], known=0))):
        save_file(fit_words(items, PLAIN), tmp_path / name)

        kept = load_words(load_file(tmp_path / name)).words.to_pylist()
        assert kept == (["x", "é", "灯"] if name == "some" else [])


def test_damaged_words_are_refused() -> None:
    """A missing tensor, bytes that are no text and a repeated word are told in one line."""
    prepared = fit_words(table(), PLAIN)
    with pytest.raises(CheckpointError, match=r"words\.counts not found"):
        load_words({k: v for k, v in prepared.items() if k != "words.counts"})
    for wrong in (
        {"words.bytes": torch.full_like(prepared["words.bytes"], 0xFF)},
        {"words.bytes": prepared["words.bytes"][:3]},
        {"words.lengths": torch.zeros_like(prepared["words.lengths"])},
    ):
        with pytest.raises(CheckpointError, match="the checkpoint is damaged"):
            load_words({**prepared, **wrong})


def test_packs_words_by_item_code() -> None:
    """PAD, MASK, UNK and items without a title have none; appended items have theirs."""
    items = table()
    words = load_words(fit_words(items, PLAIN))
    packed = ItemWords.pack(items, words, PLAIN)

    assert packed.counts.tolist() == [0, 0, 0, 2, 0, 2, 2, 0, 3]
    values, lengths = packed.take(torch.tensor([8, 3, MASK, 8]))
    names = ["PAD", "UNK", *words.words.to_pylist()]
    assert [names[v] for v in values] == ["UNK", "UNK", "red", "red", "lamps", "UNK", "UNK", "red"]
    assert lengths.tolist() == [3, 2, 0, 3]


def test_texts_are_cut_before_unknown_words_are_left_out() -> None:
    """``max_words`` counts words of the text, known or not."""
    items = table()
    words = load_words(fit_words(items, PLAIN))
    two = TextSettings(language="none", max_words=2)

    assert ItemWords.pack(items, words, two).counts.tolist() == [0, 0, 0, 2, 0, 2, 2, 0, 2]
    known = ItemWords.pack(items, words, two, unknown=False)
    assert known.counts.tolist() == [0, 0, 0, 2, 0, 2, 2, 0, 0]
    assert bool((known.values != UNK).all())


def test_title_and_categories_are_read_as_one_text() -> None:
    """Nulls, in lists too, are empty; what is there stays."""
    found = joined(
        pa.array(["a b", None]), pa.array([["x", None, "y"], None], pa.list_(pa.string()))
    )

    assert [text.split() for text in found.to_pylist()] == [["a", "b", "x", "y"], []]


def test_an_item_is_the_mean_of_its_words() -> None:
    """Equal to a loop over words; unknown words do not count, items without any are zeros."""
    items = table()
    module = mean_words(items).double()
    codes = torch.tensor([[PAD, MASK, UNK_ITEM], [3, 4, 8], [6, 3, 7]])
    found = module(codes)

    names = ["PAD", "UNK", *module.vocabulary.words.to_pylist()]
    table_ = module.words.weight.detach().numpy()
    for place, code in np.ndenumerate(codes.numpy()):
        title = TITLES[code - FIRST_ITEM] if code >= FIRST_ITEM else None
        split = (title or "").lower().replace(",", "").split()
        known = [table_[names.index(word)] for word in split if word in names]
        wanted = np.mean(known, axis=0) if known else np.zeros(4)
        np.testing.assert_allclose(found[place].detach().numpy(), wanted, rtol=1e-12)
    assert module.known(codes).tolist() == [
        [False, False, False],
        [True, False, True],
        [True, True, False],
    ]
    assert torch.equal(module.rows(codes.flatten()), found.flatten(0, 1))


def test_gradients_reach_the_words_of_what_was_looked_up() -> None:
    """And are right, through items that share words and come twice."""
    module = mean_words(table()).double()
    codes = torch.tensor([3, 6, 3, 4])

    def run(weight: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(module, {"words.weight": weight}, (codes,))

    weight = module.words.weight.detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(run, (weight,))
    module(codes).sum().backward()
    names = ["PAD", "UNK", *module.vocabulary.words.to_pylist()]
    reached = module.words.weight.grad.abs().sum(1) > 0
    looked_up = {"red", "lamps", "green", "lamp"}
    assert {n for n, r in zip(names, reached.tolist(), strict=True) if r} == looked_up


def test_company_and_catalogue_change_no_bit() -> None:
    """An item looks the same beside other items, in another order, in a grown catalogue."""
    random = np.random.default_rng(0)
    names = [f"w{n}" for n in range(50)]
    titles = [" ".join(random.choice(names, random.integers(0, 12))) for _ in range(300)]
    module = mean_words(table(titles, known=200), dim=37)
    codes = torch.arange(len(titles) + FIRST_ITEM)
    with torch.no_grad():
        whole = module(codes)
        order = torch.randperm(len(codes))
        assert torch.equal(module(codes[order]), whole[order])
        for code in codes[::17]:
            assert torch.equal(module(code[None]), whole[code][None])
        module.bind(table([*titles, "w1 w2"], known=200))
        assert torch.equal(module(codes), whole)


def test_the_run_time_words_are_no_state() -> None:
    """A checkpoint holds the embeddings alone, and loads beside any catalogue."""
    module = mean_words(table())
    other = MeanWords(fit_words(table(), PLAIN), PLAIN, 4)
    other.load_state_dict(module.state_dict(), strict=True)
    other.bind(table([*TITLES, "mug"]))

    assert list(module.state_dict()) == ["words.weight"] and not list(module.buffers())
    assert torch.equal(other(torch.tensor([3])), module(torch.tensor([3])))
    nobody = torch.tensor([], dtype=torch.int64)
    assert module(nobody).shape == (0, 4)
