from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pyarrow as pa
import pytest
import torch
from torch import Tensor

from unirep_feast.batch import MASK, PAD, UNK, SequenceBatch
from unirep_feast.encoder import Encoder
from unirep_feast.items import ItemTable, Vocabulary
from unirep_feast_clue.encoder import ClueEncoder

BACKBONES = ["sasrec", "gru", "nextitnet", "caser"]
WITH_STEPS = ["sasrec", "gru", "nextitnet"]

Batches = Callable[..., SequenceBatch]
Rows = Callable[..., list[list[int]]]
Encoders = Callable[..., ClueEncoder]


@pytest.fixture(params=BACKBONES)
def model(request: pytest.FixtureRequest, encoder: Encoders) -> ClueEncoder:
    return encoder(backbone=request.param)


def test_declares_what_it_is(model: ClueEncoder) -> None:
    """Every backbone fulfils the contract, and only Caser has no hidden state per event."""
    assert isinstance(model, Encoder)
    assert (model.num_vectors, model.dim, model.depends_on_as_of) == (1, 8, False)
    assert model.window.max_events == 12

    steps = type(model.backbone).__name__ != "Caser"
    assert ("steps" in model.provides) == steps
    assert {"items", "batch_independent"} <= model.provides


def test_vectors_are_finite_with_and_without_events(model: ClueEncoder, batch_of: Batches) -> None:
    """Users without events, and batches without users, give finite vectors of the right shape."""
    some = model(batch_of([[3, 4], [], [5]])).users
    none = model(batch_of([[], []], width=3)).users
    nobody = model(batch_of([], width=3)).users

    assert some.shape == (3, 1, 8) and none.shape == (2, 1, 8) and nobody.shape == (0, 1, 8)
    assert torch.isfinite(some).all() and torch.isfinite(none).all()


def test_padding_changes_nothing(model: ClueEncoder, batch_of: Batches, random_rows: Rows) -> None:
    """The width of the padded rows is invisible."""
    rows = random_rows(16)
    narrow, wide = model(batch_of(rows)).users, model(batch_of(rows, width=40)).users

    torch.testing.assert_close(narrow, wide, rtol=0, atol=1e-6)


def test_the_pad_embedding_is_never_read(
    model: ClueEncoder, batch_of: Batches, random_rows: Rows
) -> None:
    """Whatever stands in the PAD row of the table, vectors stay the same to the bit."""
    batch = batch_of(random_rows(16), width=20)
    before = model(batch).users
    with torch.no_grad():
        model.tokens.weight[PAD] = 1e3

    assert torch.equal(before, model(batch).users)


def test_row_order_only_permutes(model: ClueEncoder, batch_of: Batches, random_rows: Rows) -> None:
    """Rows in another order give the same vectors in that order, to the bit."""
    batch = batch_of(random_rows(16), width=12)
    order = torch.randperm(16)

    assert torch.equal(model(batch).users[order], model(batch.take(order)).users)


def test_batch_mates_change_no_bit(
    model: ClueEncoder, batch_of: Batches, random_rows: Rows
) -> None:
    """A row's vector is bit-equal beside other rows, at an equal number of rows and width."""
    rows = random_rows(16)
    mates = random_rows(15, seed=1)
    beside = [*mates[:9], rows[0], *mates[9:]]

    first = model(batch_of(rows, width=12)).users[0]
    assert torch.equal(first, model(batch_of(beside, width=12)).users[9])


def test_full_size_batch_mates_change_no_bit(encoder: Encoders, random_rows: Rows) -> None:
    """The same holds at the paper's sizes, where matrix products run through other kernels."""
    model = encoder(codes=30, dim=64, heads=4, max_events=50)
    rows = random_rows(64, longest=50)
    order = torch.randperm(64)
    whole = _batch(rows, 50)
    half = _batch([*rows[:32], *random_rows(32, longest=50, seed=2)], 50)

    users = model(whole).users
    assert torch.equal(users[order], model(whole.take(order)).users)
    assert torch.equal(users[:32], model(half).users[:32])


@pytest.mark.parametrize("backbone", WITH_STEPS)
def test_hidden_states_look_back_only(
    backbone: str, encoder: Encoders, batch_of: Batches, random_rows: Rows
) -> None:
    """Changing an event leaves the hidden states of earlier events as they were."""
    model = encoder(backbone=backbone)
    batch = batch_of([row + [3] * (12 - len(row)) for row in random_rows(6)])
    changed = batch.with_codes(torch.where(batch.steps >= 7, 29, batch.codes))
    before, after = model(batch, steps=True).steps, model(changed, steps=True).steps

    assert before is not None and after is not None
    assert before.shape == (72, 8)
    assert torch.equal(before[batch.steps < 7], after[batch.steps < 7])
    assert not torch.equal(before[batch.steps == 7], after[batch.steps == 7])


@pytest.mark.parametrize("backbone", WITH_STEPS)
def test_asking_for_steps_gives_the_same_users(
    backbone: str, encoder: Encoders, batch_of: Batches, random_rows: Rows
) -> None:
    """The last block's shortcut to the [UR] place computes what the whole block computes."""
    model = encoder(backbone=backbone)
    batch = batch_of([*random_rows(16), []])

    with_steps = model(batch, steps=True)
    torch.testing.assert_close(model(batch).users, with_steps.users, rtol=0, atol=1e-6)


def test_shortcut_gives_the_same_gradients(
    encoder: Encoders, batch_of: Batches, random_rows: Rows
) -> None:
    """Training through the shortcut is training the whole block."""
    model = encoder().double()
    batch = batch_of(random_rows(8))
    grads = []
    for steps in (False, True):
        model.zero_grad()
        model(batch, steps=steps).users.pow(3).sum().backward()
        grads.append([p.grad.clone() for p in model.parameters() if p.grad is not None])

    for short, full in zip(*grads, strict=True):
        torch.testing.assert_close(short, full)


def test_equals_plain_loops(encoder: Encoders, batch_of: Batches) -> None:
    """SASRec equals Eq 1-3 written as loops over users, places and heads in float64."""
    model = encoder(blocks=2).double()
    rows = [[3, 7, 5, 3], [9], []]
    encoded = model(batch_of(rows, width=6), steps=True)

    users, steps = zip(*(_sasrec(model, row) for row in rows), strict=True)
    torch.testing.assert_close(encoded.users[:, 0], torch.stack(users))
    torch.testing.assert_close(encoded.steps, torch.cat(steps))


def test_caser_equals_plain_loops(encoder: Encoders, batch_of: Batches) -> None:
    """Caser equals its filters written as loops over windows that end at an event."""
    model = encoder(backbone="caser", horizontal=2, vertical=3).double()
    caser = model.backbone
    rows = [[3, 7, 5, 3], [9]]
    for row, user in zip(rows, model(batch_of(rows, width=7)).users[:, 0], strict=True):
        x = model.tokens.weight[row]
        parts = []
        for height, filters in zip(caser.heights, caser.filters, strict=True):
            padded = torch.cat((x.new_zeros(height - 1, 8), x))
            windows = [padded[end : end + height].flatten() for end in range(len(row))]
            parts.append(torch.stack([filters(w).relu() for w in windows]).amax(0))
        sums = sum(
            caser.vertical[len(row) - 1 - place][:, None] * x[place] for place in range(len(row))
        )
        expected = caser.top(torch.cat((*parts, sums.flatten()))).relu()

        torch.testing.assert_close(user, expected)


def test_causal_convolution_equals_torch(encoder: Encoders) -> None:
    """NextItNet's matrix product over shifted copies is a dilated convolution, padded in front."""
    conv = encoder(backbone="nextitnet").backbone.blocks[0].far
    x = torch.randn(3, 9, 8)
    weight = conv.mix.weight.view(8, 3, 8).permute(0, 2, 1)  # (out, in, kernel)
    padded = torch.nn.functional.pad(x.transpose(1, 2), (4, 0))
    expected = torch.nn.functional.conv1d(padded, weight, conv.mix.bias, dilation=2)

    torch.testing.assert_close(conv(x), expected.transpose(1, 2))


def test_unknown_items_are_unk(model: ClueEncoder, batch_of: Batches) -> None:
    """Items that the catalogue has grown by since training read the UNK row, not garbage."""
    vocabulary = Vocabulary(pa.array([f"i{n:02}" for n in range(27)]), pa.array([1] * 27))
    more = pa.array([f"i{n:02}" for n in range(40)])
    table = pa.table(
        {
            "item_id": more,
            "title": pa.nulls(40, pa.string()),
            "category": pa.nulls(40, pa.list_(pa.string())),
        }
    )
    grown = ItemTable.build(vocabulary, table)
    assert len(grown) == 43
    model.bind(grown)

    seen = model(batch_of([[3, UNK, 5]])).users
    assert torch.equal(seen, model(batch_of([[3, 30, 5]])).users)
    assert torch.equal(seen, model(batch_of([[3, 42, 5]])).users)
    assert torch.equal(model.embed_items(torch.tensor([4, 30, 42])), model.tokens.weight[[4, 2, 2]])


def test_mask_has_a_vector_of_its_own(model: ClueEncoder, batch_of: Batches) -> None:
    """[MASK] is neither nothing nor UNK."""
    masked = model(batch_of([[3, MASK, 5]])).users

    assert not torch.equal(masked, model(batch_of([[3, UNK, 5]])).users)
    assert not torch.equal(masked, model(batch_of([[3, 5]])).users)


def test_user_token_stands_behind_the_latest_event(encoder: Encoders, batch_of: Batches) -> None:
    """The user vector is the [UR] token's: its embedding moves users, not hidden states."""
    model = encoder()
    batch = batch_of([[3, 4, 5], [6]])
    before = model(batch, steps=True)
    with torch.no_grad():
        model.tokens.weight[30] *= -3
    after = model(batch, steps=True)

    assert torch.equal(before.steps, after.steps)
    assert not torch.isclose(before.users, after.users).any(-1).all()


def test_only_codes_are_read(model: ClueEncoder, batch_of: Batches) -> None:
    """Times and the as-of time leave the vectors as they are."""
    batch = batch_of([[3, 4, 5], [6]])
    later = replace(batch, times=batch.times + 9, as_of=batch.as_of + 99)

    assert torch.equal(model(batch).users, model(later).users)


def test_every_parameter_gets_a_gradient(
    model: ClueEncoder, batch_of: Batches, random_rows: Rows
) -> None:
    """Nothing in the model is dead weight (which DDP would wait for)."""
    model.train()
    model(batch_of(random_rows(32))).users.pow(2).sum().backward()

    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_dropout_makes_two_views(model: ClueEncoder, batch_of: Batches, random_rows: Rows) -> None:
    """In training the same events give two vectors, repeatable by the seed; in eval, one."""
    batch = batch_of(random_rows(8))
    assert torch.equal(model(batch).users, model(batch).users)

    model.train()
    torch.manual_seed(1)
    first, second = model(batch).users, model(batch).users
    torch.manual_seed(1)
    assert torch.equal(first, model(batch).users)
    assert not torch.isclose(first, second).all()


def test_long_histories_take_the_fused_kernel(
    encoder: Encoders, random_rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond the explicit size attention runs through torch's own kernel, with the same result."""
    model = encoder(max_events=300)
    batch = _batch(random_rows(4, longest=200), 200)
    fused = model(batch, steps=True)
    monkeypatch.setattr("unirep_feast_clue.sasrec._EXPLICIT_STEPS", 1000)
    explicit = model(batch, steps=True)

    torch.testing.assert_close(fused.steps, explicit.steps, rtol=0, atol=1e-5)
    torch.testing.assert_close(fused.users, explicit.users, rtol=0, atol=1e-5)


def _batch(rows: list[list[int]], width: int) -> SequenceBatch:
    lengths = torch.tensor([len(row) for row in rows])
    codes = torch.tensor([code for row in rows for code in row])
    return SequenceBatch(codes, codes, lengths, lengths, lengths, width)


def _norm(x: Tensor, layer: torch.nn.LayerNorm) -> Tensor:
    centred = x - x.mean()
    return centred / (centred.pow(2).mean() + layer.eps).sqrt() * layer.weight + layer.bias


def _sasrec(model: ClueEncoder, row: list[int]) -> tuple[Tensor, Tensor]:
    """One history through Eq 1-3, place by place: the user vector and (n, d) hidden states."""
    sasrec = model.backbone
    tokens = [*row, model.codes]
    n = len(row)
    x = [model.tokens.weight[t] + sasrec.positions.weight[n - i] for i, t in enumerate(tokens)]
    for block in [*sasrec.blocks, sasrec.last]:
        heads = block.attention.heads
        width = model.dim // heads
        W = block.attention.qkv.weight.view(3, heads, width, model.dim)
        normed = [_norm(token, block.attention_norm) for token in x]
        new = []
        for i in range(n + 1):
            mixed = []
            for head in range(heads):
                q = W[0, head] @ normed[i]
                scores = [
                    math.exp((q @ (W[1, head] @ normed[j])).item() / math.sqrt(width))
                    for j in range(i + 1)
                ]
                mixed.append(
                    sum(s / sum(scores) * (W[2, head] @ normed[j]) for j, s in enumerate(scores))
                )
            token = x[i] + block.attention.out.weight @ torch.cat(mixed)
            feed = block.feed
            inner = (feed.inner.weight @ _norm(token, block.feed_norm) + feed.inner.bias).relu()
            new.append(token + feed.outer.weight @ inner + feed.outer.bias)
        x = new
    states = torch.stack([_norm(token, sasrec.norm) for token in x])
    return states[n], states[:n]
