"""A batch in length-sorted chunks gives what the batch gives at once."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from unirep_feast.batch import SequenceBatch
from unirep_feast.chunking import ChunkedEncoder, TrioModule
from unirep_feast.encoder import Encoded
from unirep_feast.errors import ContractError
from unirep_feast.objective import Losses
from unirep_feast.plugins import load_plugins
from unirep_feast.spec_file import parse_spec
from unirep_feast.testing.world import World, make_world
from unirep_feast.trio import build_encoder, choose

pytestmark = pytest.mark.usefixtures("lab")


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(users=10, items=25)


def make_encoder(world: World, **settings: Any) -> Any:
    raw = {"name": "shop", "events": {"path": "made"}, "plugin": "lab"}
    raw["encoder"] = {"settings": {"max_events": None, **settings}}
    torch.manual_seed(0)
    choice = choose(parse_spec(raw, "spec"), load_plugins())
    return build_encoder(choice, world.vocabulary, world.past.items, {})


def make_batch(lengths: list[int], width: int | None = None) -> SequenceBatch:
    random = torch.Generator().manual_seed(1)
    events = sum(lengths)
    size = torch.tensor(lengths)
    return SequenceBatch(
        codes=torch.randint(2, 20, (events,), generator=random),
        times=torch.arange(events),
        lengths=size,
        users=torch.arange(len(lengths)),
        as_of=torch.full_like(size, 10**6),
        width=width or max(lengths),
        columns={"value": torch.rand(events, generator=random)},
    )


RAGGED = [1, 200, 3, 0, 7, 90, 2, 2, 12, 1, 40, 0, 5, 5, 150, 8, *range(20), 64, 33, 17, 5, 3, 9]


@pytest.mark.parametrize("steps", [False, True])
@pytest.mark.parametrize("chunks", [2, 4])
def test_chunks_give_the_same(world: World, steps: bool, chunks: int) -> None:
    """Users, hidden states and extras of a ragged batch equal the unchunked call's, in order."""
    encoder = make_encoder(world, vectors=2, slots=True, penalty=True)
    batch = make_batch(RAGGED)
    calls: list[SequenceBatch] = []

    def call(piece: SequenceBatch, *, steps: bool) -> Encoded:
        calls.append(piece)
        return encoder(piece, steps=steps)

    proxy = ChunkedEncoder(encoder, call, steps=steps, chunks=chunks)
    found, wanted = proxy(batch), encoder(batch, steps=steps)

    assert len(calls) == chunks
    assert sum(len(c) * c.width for c in calls) < 0.8 * len(batch) * batch.width
    torch.testing.assert_close(found.users, wanted.users)
    assert torch.equal(found.extras["slots"], wanted.extras["slots"])
    torch.testing.assert_close(proxy.extras()["norms"], wanted.extras["norms"])
    if steps:
        torch.testing.assert_close(found.steps, wanted.steps)
    else:
        assert found.steps is None


def test_every_row_is_in_one_chunk(world: World) -> None:
    """Rows stay together with their events, columns and times, whatever their order."""
    batch = make_batch(RAGGED)
    seen: dict[int, list[int]] = {}

    class Spy(nn.Module):
        provides = frozenset({"batch_independent"})

        def forward(self, piece: SequenceBatch, *, steps: bool = False) -> Encoded:
            for row, user in enumerate(piece.users.tolist()):
                part = slice(int(piece.offsets[row]), int(piece.offsets[row + 1]))
                assert user not in seen
                seen[user] = piece.times[part].tolist()
                assert piece.columns["value"][part].shape == piece.codes[part].shape
            assert int(piece.lengths.max()) <= piece.width
            return Encoded(piece.users[:, None, None].float())

    encoded = ChunkedEncoder(Spy())(batch)

    assert encoded.users[:, 0, 0].tolist() == list(range(len(RAGGED)))
    for user, length in enumerate(RAGGED):
        start = int(batch.offsets[user])
        assert seen[user] == list(range(start, start + length))


@pytest.mark.parametrize(
    ("lengths", "provides"),
    [
        ([5, 200] * 8, {"batch_independent"}),  # too few rows
        ([1, 30] * 16, {"batch_independent"}),  # too few cells
        ([50] * 64, {"batch_independent"}),  # nothing to save
        ([0] * 64, {"batch_independent"}),  # nothing at all
        (RAGGED, set()),  # not declared
        (RAGGED, {"batch_independent", "packed"}),  # no padding is computed anyway
    ],
)
def test_a_batch_is_not_cut_where_it_would_not_pay(lengths: list[int], provides: set[str]) -> None:
    """Small, even, batch-dependent or packed: the encoder sees the batch as it is."""
    batch = make_batch(lengths, width=max(*lengths, 8))
    calls = []

    class Spy(nn.Module):
        def forward(self, piece: SequenceBatch, *, steps: bool = False) -> Encoded:
            calls.append(piece)
            return Encoded(torch.zeros(len(piece), 1, 1))

    spy = Spy()
    spy.provides = frozenset(provides)
    ChunkedEncoder(spy)(batch)

    assert calls == [batch]


def test_gradients_flow_through_chunks(world: World) -> None:
    """The gradient of a loss over chunks is that of the loss over the batch."""
    encoder = make_encoder(world)
    batch = make_batch(RAGGED)
    gradients = []
    for call in (ChunkedEncoder(encoder, steps=True), encoder):
        encoder.zero_grad()
        encoded = call(batch, steps=True)
        (encoded.users.square().sum() + encoded.steps.tanh().sum()).backward()
        gradients.append(encoder.items.weight.grad.clone())

    torch.testing.assert_close(gradients[0], gradients[1])


def test_the_proxy_has_what_the_encoder_has(world: World) -> None:
    """An objective reads attributes and calls methods of the encoder behind it."""
    encoder = make_encoder(world, vectors=3)
    proxy = ChunkedEncoder(encoder)

    assert (proxy.num_vectors, proxy.dim) == (3, 8)
    assert torch.equal(proxy.embed_items(torch.tensor([4])), encoder.embed_items(torch.tensor([4])))
    assert proxy.training
    with pytest.raises(AttributeError, match="nonsense"):
        proxy.nonsense  # noqa: B018


class Sum(nn.Module):
    requires = views = frozenset()
    trains_encoder, validate_with_dropout = True, False

    def __init__(self, term: str = "sum") -> None:
        super().__init__()
        self.term = term

    def forward(self, encoder: Any, views: Any) -> Losses:
        total = sum(encoder(view).users.sum() for view in views.values())
        return Losses({self.term: total}, {})


def test_penalties_see_all_rows_of_all_views(world: World) -> None:
    """The encoder's whole-batch terms are over every row of a step, chunked or not."""
    encoder = make_encoder(world, penalty=True)
    module = TrioModule(encoder, Sum())
    one, two = make_batch(RAGGED), make_batch([3, 4, 5])

    losses = module({"one": one, "two": two})

    norms = torch.cat([encoder(view).users.flatten(1).norm(dim=1) for view in (one, two)])
    assert set(losses.terms) == {"sum", "spread"}
    torch.testing.assert_close(losses.terms["spread"], norms.var() * 0.01)


def test_terms_of_one_name_are_refused(world: World) -> None:
    """A penalty that would hide a term of the objective is an error that names it."""
    module = TrioModule(make_encoder(world, penalty=True), Sum("spread"))

    with pytest.raises(ContractError, match="share the names spread; rename one"):
        module({"one": make_batch([1, 2])})


def test_a_frozen_encoder_stays_in_eval(world: World) -> None:
    """trains_encoder False: no gradient, and train() leaves it alone."""
    objective = Sum()
    objective.trains_encoder = False
    module = TrioModule(make_encoder(world, dropout=0.5), objective)

    module.train()

    assert module.training and objective.training and not module.encoder.training
    assert not any(parameter.requires_grad for parameter in module.encoder.parameters())
