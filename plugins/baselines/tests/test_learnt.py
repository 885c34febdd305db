"""SUMN, NT-Xent and the supervised models by the letter of their equations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from unirep_feast.batch import FIRST_ITEM, SequenceBatch
from unirep_feast.errors import EventsError
from unirep_feast.sequences import Sequences
from unirep_feast.testing import World, make_world, registered
from unirep_feast.testing.recipe import draw_views, train
from unirep_feast_baselines.contrast import nt_xent
from unirep_feast_baselines.sumn import SumnEncoder
from unirep_feast_baselines.supervised import AttentiveGru, TextCnnEncoder


def test_nt_xent_is_the_loop(tau: float = 0.5) -> None:
    """Eq 4 of CL4SRec, one anchor after the other."""
    x, y = (F.normalize(torch.randn(5, 7, dtype=torch.float64), dim=-1) for _ in "12")
    views = torch.cat((x, y))
    losses = []
    for i in range(10):
        mate = (i + 5) % 10
        others = [float(torch.exp(views[i] @ views[j] / tau)) for j in range(10) if j != i]
        losses.append(-float(views[i] @ views[mate]) / tau + float(np.log(sum(others))))

    found, _ = nt_xent(x, y, tau)

    assert float(found) == pytest.approx(float(np.mean(losses)))


def test_nt_xent_has_the_gradient_of_its_value() -> None:
    """By finite differences."""
    x, y = (F.normalize(torch.randn(3, 4, dtype=torch.float64), dim=-1) for _ in "12")

    assert torch.autograd.gradcheck(lambda a, b: nt_xent(a, b, 0.5)[0], (x.requires_grad_(), y))


def test_consistency_is_the_loop(world: World) -> None:
    """Cross-entropy of a softmax over the batch's later items with log(1 + count) as targets."""
    trio = registered("baselines.sumn", settings={"encoder": {"dim": 8}}).build(world.past)
    assert trio.objective is not None and isinstance(trio.objective, nn.Module)
    views = draw_views(trio, world.past)
    first, second = views["first"], views["second"]
    assert isinstance(first, SequenceBatch) and isinstance(second, SequenceBatch)
    users = trio.encoder(first).users[:, 0]
    known = second.codes >= FIRST_ITEM
    candidates = sorted(set(second.codes[known].tolist()))
    scores = users @ trio.objective.project(trio.encoder.embed_items(torch.tensor(candidates))).T  # type: ignore[attr-defined]
    losses = []
    for row in range(len(second)):
        mine = second.codes[(second.rows == row) & known].tolist()
        if not mine:
            continue
        weights = torch.tensor([np.log1p(mine.count(code)) for code in candidates])
        losses.append(-(weights / weights.sum() * scores[row].log_softmax(-1)).sum())

    found = trio.objective(trio.encoder, views).terms["consistency"]

    torch.testing.assert_close(found.double(), torch.stack(losses).mean().double())


def test_sumn_learns_what_comes_next(world: World) -> None:
    """The loss falls by far more than chance within a hundred steps on a small world."""
    trio = registered("baselines.sumn", settings={"encoder": {"dim": 16}}).build(world.past)

    losses = train(trio, world.past, steps=100)

    assert np.mean(losses[-10:]) < np.mean(losses[:10]) - 0.2


def test_the_hops_ask_with_what_was_found(world: World) -> None:
    """One hop is plain attention with the learnt query; the second asks with its result."""
    trio = registered("baselines.sumn", settings={"encoder": {"dim": 6}}).build(world.past)
    encoder = trio.encoder
    assert isinstance(encoder, SumnEncoder)
    batch = world.past.limit(encoder.window).histories(world.past.all_users())
    row = int(batch.lengths.argmax())
    behaviors = encoder.embed_items(batch.codes[batch.rows == row])
    asked, hops = encoder.query, []
    for key, ask, score in zip(encoder.keys, encoder.asks, encoder.scores, strict=True):
        weights = score(torch.tanh(key(behaviors) + ask(asked))).softmax(0)
        asked = (weights * behaviors).sum(0)
        hops.append(asked)

    expected = torch.tanh(encoder.join(torch.cat(hops)))

    torch.testing.assert_close(encoder(batch).users[row, 0], expected)


def test_the_two_pieces_share_no_moment(world: World) -> None:
    """What shares the cut's time is all in the second piece; nobody is cut into nothing."""
    trio = registered("baselines.sumn", settings={"encoder": {"max_events": 50}}).build(world.past)
    for step in range(5):
        views = draw_views(trio, world.past, step)
        first, second = views["first"], views["second"]
        assert isinstance(first, SequenceBatch) and isinstance(second, SequenceBatch)
        assert bool((first.lengths > 0).all()) and bool((second.lengths > 0).all())
        assert bool((first.times[first.last] < second.times[second.first]).all())
        assert torch.equal(first.lengths + second.lengths, world.past.lengths[first.users])


def test_attention_reads_both_ways() -> None:
    """The backward GRU reads each row from its own end, wherever that is."""
    reader = AttentiveGru(3, 4).double()
    x = torch.randn(2, 6, 3, dtype=torch.float64)
    mask = torch.arange(6) < torch.tensor([[6], [2]])
    states = torch.cat((reader.ahead(x[1:, :2])[0], reader.back(x[1:, :2].flip(1))[0].flip(1)), -1)
    scores = (torch.tanh(reader.key(states)) * reader.query).sum(-1).softmax(-1)

    expected = (scores[..., None] * states).sum(1)

    torch.testing.assert_close(reader(x, mask)[1:], expected)


def test_textcnn_takes_the_maximum_over_the_words(world: World) -> None:
    """Kim's model on one history, word by word."""
    settings = {"heights": (2,), "filters": 3, "word_dim": 4, "dim": 5, "dropout": 0.0}
    recipe = registered("baselines.textcnn", settings={"encoder": settings})
    encoder = recipe.build(world.past).encoder
    assert isinstance(encoder, TextCnnEncoder)
    batch = world.past.limit(encoder.window).histories(world.past.all_users())
    row = int(batch.lengths.argmax())
    words = encoder.reader.by_user(batch, encoder.most)[row]
    x = encoder.reader.words(words[words > 0])
    x = torch.cat((x, torch.zeros(1, 4)))
    (filters,) = encoder.filters
    assert isinstance(filters, nn.Conv1d)
    hidden = torch.stack(
        [
            torch.einsum("fwk,kw->f", filters.weight, x[n : n + 2]) + filters.bias
            for n in range(len(x) - 1)
        ]
    )

    expected = encoder.out(hidden.relu().max(0).values)

    torch.testing.assert_close(encoder(batch).users[row, 0], expected)


@pytest.mark.parametrize("model", ["textcnn", "han"])
def test_supervised_models_learn_labels_they_can_read(
    model: str, tmp_path: Any, label_table: Callable[[World, Any], str]
) -> None:
    """Through clue.classify: who has an item of one title is told apart within 60 steps."""
    world = make_world(users=120, items=12, longest=10)
    path = label_table(world, tmp_path)
    recipe = registered(
        f"baselines.{model}",
        objective="clue.classify",
        sampler="clue.labels",
        settings={
            "encoder": {"word_dim": 16, "dim": 16, "dropout": 0.0},
            "sampler": {"path": path},
        },
    )
    trio = recipe.build(world.past)

    losses = train(trio, world.past, steps=60)

    assert np.mean(losses[-5:]) < 0.35  # ln 2 = 0.69 is chance


@pytest.fixture
def label_table() -> Callable[[World, Any], str]:
    """Write a table that says who has ever had one of the two most frequent items."""

    def write(world: World, folder: Any) -> str:
        past = world.past
        label = [
            int((past.codes[start:end] < FIRST_ITEM + 2).any())
            for start, end in zip(past.starts.tolist(), past.ends.tolist(), strict=True)
        ]
        path = folder / "labels.parquet"
        pq.write_table(pa.table({"user_id": past.users, "label": label}), path)
        return str(path)

    return write


@pytest.mark.parametrize("name", ["textcnn", "han"])
def test_models_that_read_need_titles(name: str) -> None:
    """A log without titles is refused in one line."""
    made = make_world(users=10)
    past = Sequences.from_packed(made.packed, made.vocabulary, None).before(made.until)

    with pytest.raises(EventsError, match="name a table with titles under `items`"):
        registered(f"baselines.{name}").build(past)
