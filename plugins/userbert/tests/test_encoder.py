"""The user model: presets, candidates without a place, and titles that are read once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pyarrow as pa
import pytest
import torch
from pydantic import ValidationError

from unirep_feast.sequences import Sequences
from unirep_feast.testing import Recipe
from unirep_feast.testing.recipe import module_of
from unirep_feast_userbert.aggregators import Aggregator
from unirep_feast_userbert.attention import AttentivePooling, SelfAttention
from unirep_feast_userbert.config import PRESETS, EncoderSettings
from unirep_feast_userbert.context import Context


def test_an_explicit_setting_replaces_a_part_of_its_preset() -> None:
    """All else stays the preset's."""
    settings = EncoderSettings(preset="nrms", aggregator="max")

    assert settings.parts == PRESETS["nrms"]._replace(aggregator="max")
    assert [EncoderSettings(preset=name).parts for name in PRESETS] == list(PRESETS.values())


@pytest.mark.parametrize("wrong", [{"window": 2}, {"heads": 7}], ids=str)
def test_shapes_that_cannot_be_are_refused(wrong: dict[str, int]) -> None:
    """An even filter has no middle; heads must divide the width."""
    with pytest.raises(ValidationError):
        EncoderSettings.model_validate(wrong)


def test_a_place_counts_back_from_the_latest_behavior(
    recipe: Callable[..., Recipe], past: Sequences
) -> None:
    """Candidates have none: an item's vector is its embedding, whatever places hold."""
    encoder = module_of(recipe(encoder={"preset": "gru4rec"}).build(past).encoder).eval()
    codes = torch.arange(3, 20)
    before = encoder.embed_items(codes)
    with torch.no_grad():
        encoder.places.weight.normal_()

    assert torch.equal(before, encoder.embed_items(codes))


@pytest.mark.parametrize("preset", ["naml", "nrms"])
def test_items_read_anew_equal_items_kept(
    recipe: Callable[..., Recipe], past: Sequences, preset: str
) -> None:
    """Kept vectors follow the weights, with and without gradients, one by one and together."""
    encoder = module_of(recipe(encoder={"preset": preset}).build(past).encoder).eval()
    codes = torch.arange(past.items.known)
    with torch.no_grad():
        kept = encoder.embed_items(codes)
        single = torch.cat([encoder.embed_items(codes[n : n + 1]) for n in range(len(codes))])
    encoder.train()
    with torch.no_grad():
        encoder.behaviors.words.weight.mul_(2)
    encoder.eval()
    with torch.no_grad():
        changed = encoder.embed_items(codes)

    assert torch.equal(kept, single)
    assert not torch.allclose(kept, changed)
    assert torch.allclose(changed, encoder.embed_items(codes).detach(), atol=1e-6)


def test_equal_titles_are_equal_items(recipe: Callable[..., Recipe], past: Sequences) -> None:
    """A text encoder reads nothing but the title."""
    trio = recipe(encoder={"preset": "naml"}).build(past)
    encoder = module_of(trio.encoder).eval()
    title = next(t for t in past.items.titles.to_pylist() if t)
    titles = past.items.titles.to_pylist()
    titles[0] = titles[1] = title
    encoder.bind(replace(past.items, titles=pa.array(titles, past.items.titles.type)))
    with torch.no_grad():
        one, other = encoder.embed_items(torch.tensor([3, 4]))

    assert torch.equal(one, other)


@pytest.mark.parametrize("kind", ["max", "mean", "attentive", "last"])
def test_aggregators_equal_a_loop(kind: str) -> None:
    """Over each row's own behaviors, zeros for a row of none."""
    torch.manual_seed(0)
    pool = Aggregator(kind, 3, 5).double()  # type: ignore[arg-type]
    hidden, lengths = torch.randn(4, 6, 3).double(), [6, 3, 1, 0]
    mask = torch.arange(6) < torch.tensor(lengths)[:, None]
    found = pool(hidden, mask)

    for row, n in enumerate(lengths):
        own = hidden[row, :n]
        if n == 0:
            wanted = torch.zeros(3).double()
        elif kind == "max":
            wanted = own.max(0).values
        elif kind == "mean":
            wanted = sum(own) / n
        elif kind == "last":
            wanted = own[-1]
        else:
            part = pool.attentive
            a = [float(part.query(torch.tanh(part.hidden(h))).detach()) for h in own]
            weights = torch.tensor(a).double().softmax(0)
            wanted = sum(w * h for w, h in zip(weights, own, strict=True))
        assert torch.allclose(found[row], wanted, atol=1e-6)


@pytest.mark.parametrize("context", ["attention", "gru", "cnn"])
def test_the_latest_place_alone_equals_that_of_all_places(context: str) -> None:
    """What nobody asks for is not computed; values and gradients stay, empty rows are zeros."""
    torch.manual_seed(0)
    settings = EncoderSettings(dim=8, heads=2, dropout=0, context=context, layers=2)  # type: ignore[arg-type]
    layers = Context(settings).double()
    mask = torch.arange(6) < torch.tensor([6, 3, 1, 0])[:, None]
    x = (torch.randn(4, 6, 8).double() * mask[:, :, None]).requires_grad_()
    found, wanted = layers.last(x, mask), layers(x, mask)
    picked = torch.stack([wanted[0, 5], wanted[1, 2], wanted[2, 0], torch.zeros(8).double()])

    torch.testing.assert_close(found, picked)
    assert not found[3].any()
    one, all_ = (torch.autograd.grad(y.square().sum(), x)[0] for y in (found, picked))
    torch.testing.assert_close(one, all_)


def test_attention_has_right_gradients_beside_empty_rows() -> None:
    """gradcheck, with one row of nothing and one of a single place."""
    torch.manual_seed(0)
    attend, pool = SelfAttention(4, 2).double(), AttentivePooling(4, 3).double()
    mask = torch.arange(3) < torch.tensor([3, 1, 0])[:, None]

    def run(x: torch.Tensor) -> torch.Tensor:
        return pool(attend(x, mask), mask)

    x = torch.randn(3, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(run, x, fast_mode=True)
