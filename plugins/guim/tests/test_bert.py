"""Transformer layers against torch's own and against plain sums."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from unirep_feast.batch import SequenceBatch
from unirep_feast_guim.bert import HeadVectors, Layer, one_layer
from unirep_feast_guim.dropout import Dropout
from unirep_feast_guim.layout import Layout

Batches = Callable[..., SequenceBatch]


@pytest.fixture
def batch(batch_of: Batches) -> SequenceBatch:
    """Rows of 3, 0 and 2 events, padded to 4."""
    return batch_of([[(3, 3), (4, 2), (5, 1)], [], [(6, 2), (7, 1)]], width=4)


def _padded(x: Tensor, layout: Layout) -> Tensor:
    return layout.pad(x).masked_fill(~layout.mask[..., None], 0)


def _tokens(batch: SequenceBatch, packed: bool, d: int = 8) -> tuple[Layout, Tensor]:
    """The same random tokens, whatever the layout."""
    layout = Layout.of(batch, 2, packed)
    generator = torch.Generator().manual_seed(3)
    heads = torch.randn(2, d, generator=generator, dtype=torch.float64)
    events = torch.randn(len(batch.codes), d, generator=generator, dtype=torch.float64)
    return layout, layout.join(heads, events if packed else batch.pad(events))


@pytest.mark.parametrize("packed", [True, False])
def test_layer_equals_torchs_post_norm_encoder_layer(packed: bool, batch: SequenceBatch) -> None:
    """Post-norm, GELU, 4 d inside, padding masked out of attention."""
    layer = Layer(8, 2, dropout=0).double()
    torch_layer = nn.TransformerEncoderLayer(
        8, 2, 32, dropout=0, activation="gelu", layer_norm_eps=1e-12, batch_first=True
    ).double()
    own, other = layer.attention, torch_layer.self_attn
    with torch.no_grad():
        for p in layer.parameters():
            p.normal_(std=0.5)
        other.in_proj_weight.copy_(torch.cat((own.query.weight, own.key_value.weight)))
        other.in_proj_bias.copy_(torch.cat((own.query.bias, own.key_value.bias)))
    for name, part in {
        "self_attn.out_proj": own.out,
        "norm1": layer.attention_norm,
        "linear1": layer.inner,
        "linear2": layer.outer,
        "norm2": layer.feed_norm,
    }.items():
        torch_layer.get_submodule(name).load_state_dict(part.state_dict())
    layout, x = _tokens(batch, packed)
    expected = torch_layer(layout.pad(x), src_key_padding_mask=~layout.mask)
    expected = expected.masked_fill(~layout.mask[..., None], 0)

    torch.testing.assert_close(_padded(layer(x, layout), layout), expected)


@pytest.mark.parametrize("packed", [True, False])
def test_tokens_in_front_alone_equal_the_whole_layer(packed: bool, batch: SequenceBatch) -> None:
    """The last layer's shortcut for [CLS] changes nothing."""
    layer = Layer(8, 2, dropout=0).double()
    layout, x = _tokens(batch, packed)

    torch.testing.assert_close(
        layer.at(x, layout.heads_of(x), layout), layout.heads_of(layer(x, layout))
    )


def test_flat_layouts_hold_the_same_tokens(batch: SequenceBatch) -> None:
    """Packed: no padding. Padded: every cell. Both give back what was put in."""
    (packed, x), (padded, y) = _tokens(batch, True), _tokens(batch, False)

    assert x.shape == (3 * 2 + 5, 8) and y.shape == (3 * 6, 8)
    assert torch.equal(_padded(x, packed), _padded(y, padded))
    assert torch.equal(packed.events_of(x), padded.events_of(y))
    assert torch.equal(packed.heads_of(x), padded.heads_of(y))
    assert torch.equal(packed.unpad(packed.pad(x)), x)


def test_padding_gets_no_gradient(batch: SequenceBatch) -> None:
    """In rows of another width the same gradients come out: nothing leaks through padding."""
    layer = Layer(8, 2, dropout=0).double()
    found = []
    for width in (4, 9):
        wide = batch.take(torch.arange(3), width)
        layout, x = _tokens(wide, packed=True)
        layer.zero_grad()
        layer(x, layout).square().sum().backward()
        found.append([p.grad.clone() for p in layer.parameters() if p.grad is not None])

    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_head_vectors_equal_plain_sums(batch: SequenceBatch) -> None:
    """Each head reads the row through [CLS] by its own d x d matrices; no output projection."""
    d, H = 8, 3
    module = HeadVectors(d, H).double()
    layout = Layout.of(batch, 1, packed=True)
    x = torch.randn(3 + 5, d, dtype=torch.float64)
    rows = [[0, 3, 4, 5], [1], [2, 6, 7]]  # flat tokens of each row, [CLS] first
    with torch.no_grad():
        found = module(x, layout)
        for row, members in enumerate(rows):
            for head in range(H):
                part = slice(head * d, (head + 1) * d)
                after = slice((H + head) * d, (H + head + 1) * d)
                query = module.query.weight[part] @ x[members[0]] + module.query.bias[part]
                weight, bias = module.key_value.weight, module.key_value.bias
                scores = [
                    float(query @ (weight[part] @ x[m] + bias[part])) / math.sqrt(d)
                    for m in members
                ]
                total = sum(math.exp(s) for s in scores)
                expected = sum(
                    (
                        math.exp(s) / total * (weight[after] @ x[m] + bias[after])
                        for s, m in zip(scores, members, strict=True)
                    ),
                    torch.zeros(d, dtype=torch.float64),
                )
                torch.testing.assert_close(found[row, head], expected)


def test_attention_in_memory_equals_torchs(batch: SequenceBatch) -> None:
    """The way taken on CPUs while weights are dropped, with none dropped."""
    attention = Layer(8, 2, dropout=0).double().attention
    q, k, v = torch.randn(3, 3, 2, 6, 4, dtype=torch.float64)
    mask = Layout.of(batch, 2, packed=True).mask
    expected = nn.functional.scaled_dot_product_attention(q, k, v, mask[:, None, None])

    torch.testing.assert_close(attention._explicit(q, k, v, mask), expected)


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_dropout_drops_its_share_and_keeps_the_mean(rate: float) -> None:
    dropout = Dropout(rate)
    x = torch.ones(500, 401)
    dropped = dropout(x)

    assert float((dropped == 0).float().mean()) == pytest.approx(rate, abs=0.01)
    assert float(dropped.mean()) == pytest.approx(1, abs=0.01)
    assert len(dropped.unique()) == 2
    assert dropout.eval()(x) is x


def test_one_layer_networks_end_in_gelu_or_nothing() -> None:
    """ "A linear transformation followed by a GELU"; the setting takes it away."""
    x = torch.randn(4, 5)
    with_gelu, without = one_layer(5, 3, "gelu"), one_layer(5, 3, "none")
    without[0].load_state_dict(with_gelu[0].state_dict())

    torch.testing.assert_close(with_gelu(x), nn.functional.gelu(without(x)))
