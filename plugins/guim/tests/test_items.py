"""f_j: what an item's vector is made of."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa
import pytest
import torch
import torch.nn.functional as F

from unirep_feast.batch import FIRST_ITEM, UNK
from unirep_feast.errors import CheckpointError
from unirep_feast.items import ItemTable
from unirep_feast_guim.catalogue import Categories, category_names, fit_catalogue
from unirep_feast_guim.config import EncoderSettings
from unirep_feast_guim.encoder import GuimEncoder

Encoders = Callable[..., GuimEncoder]
Tables = Callable[..., ItemTable]


def _vectors(encoder: GuimEncoder, *codes: int) -> torch.Tensor:
    with torch.no_grad():
        return encoder.embed_items(torch.tensor(codes))


def test_equals_the_equation(encoder: Encoders, items: Tables) -> None:
    """GELU of a linear layer over [category ; id ; mean word], written out for one item."""
    table = items(4, titles=["red lamp", "red mug", "", None])
    model = encoder(table, text={"language": "none"}).double()
    words = model.f_j.words
    vocabulary = words.vocabulary.words.to_pylist()
    rows = [vocabulary.index(word) + 2 for word in ("red", "mug")]
    mean = (words.words.weight[rows[0]] + words.words.weight[rows[1]]) / 2
    category = model.f_j.category.names.to_pylist().index("top\x1fleaf 1") + 1
    parts = (model.f_j.category.table.weight[category], model.f_j.ids.weight[2], mean)
    linear = model.f_j.project[0]
    expected = F.gelu(linear.weight @ torch.cat(parts) + linear.bias)

    torch.testing.assert_close(_vectors(model, FIRST_ITEM + 1)[0], expected.detach())


def test_unlisted_items_of_equal_category_and_title_have_equal_vectors(
    encoder: Encoders, items: Tables
) -> None:
    """Beyond the top X, and beyond the vocabulary; another title or category tells them apart."""
    titles = ["lamp", "mug", "lamp", "lamp", "mug", "lamp", "lamp"]
    categories = [["a"], ["a"], ["a"], ["a"], ["a"], ["b"], ["a"]]
    table = items(7, known=6, titles=titles, categories=categories)
    model = encoder(table, top_items=2)
    with torch.no_grad():
        model.f_j.ids.weight[0].normal_()
    first, _, third, fourth, mug, other, appended = _vectors(model, *range(3, 10))

    assert torch.equal(third, fourth) and torch.equal(third, appended)
    assert not torch.equal(third, mug) and not torch.equal(third, other)
    assert not torch.equal(first, third), "the most frequent items have ids of their own"


def test_every_item_of_a_small_vocabulary_has_its_own_id(encoder: Encoders) -> None:
    """X is more than there are items: no two have the same vector."""
    vectors = _vectors(encoder(), *range(FIRST_ITEM, FIRST_ITEM + 20))

    assert len(torch.unique(vectors, dim=0)) == 20


def test_codes_beyond_the_catalogue_are_unknown(encoder: Encoders) -> None:
    """What nothing is known of has the vector of UNK."""
    unknown, beyond = _vectors(encoder(), UNK, 1000)

    assert torch.equal(unknown, beyond)


def test_training_and_inference_give_the_same_vectors(encoder: Encoders) -> None:
    """Distinct items are embedded once in training, all are in eval()."""
    model = encoder()
    codes = torch.tensor([[5, 3, 5], [1, 22, 3]])
    before = model.embed_items(codes)
    model.train()

    torch.testing.assert_close(before, model.embed_items(codes))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("path", ["a\x1fb", "b", None, None, "a\x1f"]),
        ("last", ["b", "b", None, None, ""]),
    ],
)
def test_a_category_is_the_path_or_its_last_level(kind: str, expected: list[str | None]) -> None:
    """An item without a category has none; a null level is an empty one."""
    column = pa.array([["x"], ["a", "b"], ["b"], [], None, ["a", None]], pa.list_(pa.string()))

    assert category_names(column.slice(1), kind).to_pylist() == expected  # type: ignore[arg-type]


def test_categories_are_fitted_on_known_items_and_survive(items: Tables) -> None:
    """Only items with events in training count; categories that came later are unknown."""
    table = items(4, known=2, categories=[["a"], ["b"], ["c"], ["a"]])
    prepared = fit_catalogue(EncoderSettings(), table)
    read = Categories(prepared, "path", 4)
    read.bind(table)

    assert read.names.to_pylist() == ["a", "b"]
    assert read._ids.tolist() == [0, 0, 0, 1, 2, 0, 1]


def test_a_catalogue_without_categories_works(items: Tables) -> None:
    """Nobody has a category: one row, the unknown one."""
    table = items(3, categories=[None, None, None])
    read = Categories(fit_catalogue(EncoderSettings(), table), "path", 4)
    read.bind(table)

    assert read.table.weight.shape == (1, 4)
    assert read(torch.tensor([3, 4, 5])).shape == (3, 4)


def test_prepared_state_without_categories_is_refused(items: Tables) -> None:
    """A damaged checkpoint is named as such."""
    prepared = fit_catalogue(EncoderSettings(), items())
    del prepared["categories.bytes"]

    with pytest.raises(CheckpointError, match=r"categories\.bytes not found"):
        Categories(prepared, "path", 4)
