from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck
from torch.utils._python_dispatch import TorchDispatchMode

from unirep_feast.batch import SequenceBatch
from unirep_feast.items import ItemTable
from unirep_feast_lurm.aggregation import PeriodGRU
from unirep_feast_lurm.anchors import MultiAnchor
from unirep_feast_lurm.bag import Bag
from unirep_feast_lurm.config import EncoderSettings
from unirep_feast_lurm.encoder import LurmEncoder, ScaleGate

INTERESTS = 5


def dense(bag: Bag, row: int, count: int) -> Tensor:
    """(N, D) float64: the dense bags of one row, zeros where nothing is."""
    b = torch.zeros(int(bag.steps[row]), count, dtype=torch.float64)
    for r, period, j, n in zip(
        bag.rows.tolist(),
        bag.periods.tolist(),
        bag.interests.tolist(),
        bag.counts.tolist(),
        strict=True,
    ):
        if r == row:
            b[period - int(bag.first[row]), j] = math.log(1 + n)
    return b


def anchors_by_loops(module: MultiAnchor, b: Tensor) -> Tensor:
    """Eq 5 and 6 for one dense bag (D,), written out: (M, H)."""
    W_e, W_a, W_p = module.interests, module.anchor, module.key.weight
    M, D = module.anchors, len(b)
    alpha = torch.zeros(M, D, dtype=torch.float64)
    for j in range(D):
        k = W_p @ torch.relu(W_e[j])
        exps = [torch.exp(W_a[i] @ k) for i in range(M)]
        for i in range(M):
            alpha[i, j] = exps[i] / sum(exps)
    r = []
    for i in range(M):
        total = torch.zeros(module.dim, dtype=torch.float64)
        for j in range(D):
            total = total + alpha[i, j] * b[j] * W_e[j]
        r.append(torch.relu(total))
    return torch.stack(r)


def gru_by_loops(cell: torch.nn.GRUCell, xs: Tensor) -> Tensor:
    """One GRU over (N, H), from the equations."""
    H = xs.shape[1]
    h = torch.zeros(H, dtype=torch.float64)
    for x in xs:
        a = cell.weight_ih @ x + cell.bias_ih
        c = cell.weight_hh @ h + cell.bias_hh
        r, z = torch.sigmoid(a[:H] + c[:H]), torch.sigmoid(a[H : 2 * H] + c[H : 2 * H])
        n = torch.tanh(a[2 * H :] + r * c[2 * H :])
        h = (1 - z) * n + z * h
    return h


def encoded_by_loops(encoder: LurmEncoder, batch: SequenceBatch) -> Tensor:
    """The whole encoder user by user, anchor by anchor, on dense bags: (B, M, H)."""
    months = Bag.monthly(batch, encoder.interests.of, INTERESTS)
    M, out = encoder.num_vectors, []
    for row in range(len(batch)):
        scales = []
        for number, length in enumerate(encoder.scales):
            bags = dense(months.at(length, INTERESTS), row, INTERESTS)
            r = [anchors_by_loops(encoder.anchors, b) for b in bags]
            states = []
            for m in range(M):
                own = 0 if encoder.grus_per_scale == 1 else m
                own += 0 if encoder.share_scales else number * encoder.grus_per_scale
                cell = encoder.grus[own].cell
                xs = [one[m] for one in r]
                states.append(
                    gru_by_loops(cell, torch.stack(xs))
                    if xs
                    else torch.zeros(encoder.dim, dtype=torch.float64)
                )
            scales.append(torch.stack(states))
        if encoder.gate is None:
            out.append(scales[0])
            continue
        fused = []
        for m in range(M):
            both = torch.cat((scales[0][m], scales[1][m]))
            s = torch.sigmoid(both @ encoder.gate.weight[m] + encoder.gate.bias[m, 0])
            fused.append(s * scales[0][m] + (1 - s) * scales[1][m])
        out.append(torch.stack(fused))
    return torch.stack(out)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"scales": ["year"]},
        {"scales": ["season", "year"], "share_scales": False},
        {"share_anchors": False, "share_scales": False},
        {"share_anchors": False},
        {"assignment": "soft", "shared": 2},
        {"anchors": 1},
    ],
    ids=["paper", "yearly", "own scales", "all own", "own anchors", "soft", "1 anchor"],
)
def test_vectors_are_those_of_the_equations(
    encoder: Callable[..., LurmEncoder],
    batch_of: Callable[..., SequenceBatch],
    random_rows: Callable[..., Any],
    settings: dict[str, Any],
) -> None:
    """Eq 4-7 user by user on dense bags; with gradients and without."""
    built = encoder(**settings)
    batch = batch_of(random_rows(7))

    with torch.no_grad():
        wanted = encoded_by_loops(built, batch)
        found = built(batch).users

    assert torch.allclose(found, wanted, rtol=1e-6, atol=1e-8)
    assert torch.allclose(built(batch).users, wanted, rtol=1e-6, atol=1e-8)


def test_sparse_anchors_equal_the_dense_equation(
    batch_of: Callable[..., SequenceBatch], random_rows: Callable[..., Any]
) -> None:
    """As matrix products over dense bags; gradients, too."""
    module = MultiAnchor(INTERESTS, 4, 6).double()
    batch = batch_of(random_rows(6))
    months = Bag.monthly(
        batch, lambda c: ((c % INTERESTS)[:, None], torch.ones(len(c), 1)), INTERESTS
    )
    weight = torch.randn(int(months.steps.sum()), 4, 6, dtype=torch.float64)

    (module(months) * weight).sum().backward()
    found = [p.grad.clone() for p in module.parameters()]
    module.zero_grad()
    b = torch.cat([dense(months, row, INTERESTS) for row in range(len(batch))])  # (P, D)
    keys = torch.relu(module.interests) @ module.key.weight.T
    alpha = torch.softmax(keys @ module.anchor.T, 1)  # (D, M)
    wanted = torch.relu(torch.einsum("pj,jm,jh->pmh", b, alpha, module.interests))
    (wanted * weight).sum().backward()

    assert torch.allclose(module(months), wanted)
    for one, parameter in zip(found, module.parameters(), strict=True):
        assert torch.allclose(one, parameter.grad)


def test_an_interior_empty_period_is_a_step(
    encoder: Callable[..., LurmEncoder], batch_of: Callable[..., SequenceBatch]
) -> None:
    """The same events with a month's pause between them give another vector."""
    near = batch_of([[(4, "2012-01-10"), (5, "2012-02-10")]])
    far = batch_of([[(4, "2012-01-10"), (5, "2012-03-10")]])
    built = encoder(scales=["month"])

    assert not torch.allclose(built(near).users, built(far).users)


def test_absolute_shifts_within_periods_change_nothing(
    encoder: Callable[..., LurmEncoder], batch_of: Callable[..., SequenceBatch]
) -> None:
    """What counts of a time is its period: other days of the same months, the same vector."""
    one = batch_of([[(4, "2012-01-01"), (5, "2012-02-29T23:59:59")]])
    other = batch_of([[(4, "2012-01-31"), (5, "2012-02-01")]])
    built = encoder()

    with torch.no_grad():
        assert torch.equal(built(one).users, built(other).users)


def test_order_within_a_period_changes_nothing(
    encoder: Callable[..., LurmEncoder], batch_of: Callable[..., SequenceBatch]
) -> None:
    """A bag has no order."""
    one = batch_of([[(4, "2012-01-01"), (5, "2012-01-02"), (9, "2012-04-02")]])
    other = batch_of([[(5, "2012-01-01"), (4, "2012-01-02"), (9, "2012-04-02")]])
    built = encoder()

    with torch.no_grad():
        assert torch.equal(built(one).users, built(other).users)


def test_vectors_have_the_same_bits_beside_anybody(
    encoder: Callable[..., LurmEncoder],
    batch_of: Callable[..., SequenceBatch],
    random_rows: Callable[..., Any],
) -> None:
    """Float32, batches of other sizes, users with far longer histories among the others."""
    built = encoder(dim=16, assignment="soft", shared=2).float()
    rows = random_rows(40, longest=30) + random_rows(3, longest=400, years=14, seed=1)
    with torch.inference_mode():
        together = built(batch_of(rows)).users
        for row in (1, 7, 30, 41):
            alone = built(batch_of([[], rows[row], *random_rows(41, seed=2)])).users[1]

            assert torch.equal(alone, together[row])


def test_gru_leaves_out_padding_whatever_the_path() -> None:
    """With gradients and in blocks, the same states; a row without periods gets zeros."""
    gru = PeriodGRU(5).double()
    steps = torch.tensor([3, 0, 1, 7])
    periods = torch.randn(11, 5, dtype=torch.float64)

    whole = gru(periods, steps)
    with torch.no_grad():
        blocks = gru(periods, steps)

    assert torch.allclose(whole, blocks)
    assert torch.equal(whole[1], torch.zeros(5, dtype=torch.float64))
    assert torch.allclose(whole[3], gru_by_loops(gru.cell, periods[4:]))


def test_gate_mixes_number_by_number() -> None:
    """Equal scales pass unchanged whatever the gate; else each number lies between the two."""
    gate = ScaleGate(3, 4).double()
    fine, coarse = torch.randn(2, 6, 3, 4, dtype=torch.float64)

    assert torch.allclose(gate(fine, fine), fine)
    fused = gate(fine, coarse)
    inside = (fused >= torch.minimum(fine, coarse)) & (fused <= torch.maximum(fine, coarse))
    assert bool(inside.all())


def test_gradients_are_those_of_finite_differences(
    encoder: Callable[..., LurmEncoder], batch_of: Callable[..., SequenceBatch]
) -> None:
    """Through gate, GRU and anchors down to every parameter."""
    built = encoder(anchors=2, dim=3)
    batch = batch_of(
        [[(4, "2012-01-10"), (4, "2012-01-12"), (5, "2013-03-10")], [(7, "2012-01-01")]]
    )
    names = [name for name, _ in built.named_parameters()]

    def run(*parameters: Tensor) -> Tensor:
        return torch.func.functional_call(
            built, dict(zip(names, parameters, strict=True)), (batch,)
        ).users

    inputs = [p.detach().clone().requires_grad_() for p in built.parameters()]
    assert gradcheck(run, inputs, eps=1e-6, atol=1e-5, nondet_tol=1e-12)


def test_a_lifetime_of_200_000_events_is_encoded(
    encoder: Callable[..., LurmEncoder],
) -> None:
    """Over 14 years, beside a user with one event."""
    n = 200_000
    begin = 946_684_800_000_000
    times = torch.linspace(begin, begin + 14 * 31_556_952_000_000, n, dtype=torch.float64).long()
    batch = SequenceBatch(
        codes=torch.cat((3 + torch.arange(n) % 12, torch.tensor([3]))),
        times=torch.cat((times, times[:1])),
        lengths=torch.tensor([n, 1]),
        users=torch.arange(2),
        as_of=torch.full((2,), int(times[-1]) + 1),
        width=262_144,
    )
    built = encoder().float()
    with torch.inference_mode():
        users = built(batch).users

    assert bool(torch.isfinite(users).all())
    assert Bag.monthly(batch, built.interests.of, INTERESTS).steps.tolist() == [168, 1]


def test_nothing_is_as_large_as_dense_bags(batch_of: Callable[..., SequenceBatch]) -> None:
    """256 users, 100,000 interests, both scales, forward and backward."""
    D, B, N = 100_000, 256, 24
    largest = 0

    class Largest(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            for one in out if isinstance(out, tuple | list) else (out,):
                largest = max(largest, one.numel() if isinstance(one, Tensor) else 0)
            return out

    codes = D + 3
    prepared = {
        "interests.places": (torch.arange(codes) % D)[:, None],
        "interests.shares": torch.ones(codes, 1),
        "interests.centres": torch.ones(D, 1),
    }
    settings = EncoderSettings(items="id", item_dim=1, anchors=2, dim=4)
    built = LurmEncoder(codes, settings, prepared)
    built.bind(ItemTable(pa.array(range(D)), pa.nulls(D), pa.nulls(D), codes))
    months = [f"{2011 + month // 12}-{month % 12 + 1:02}-15" for month in range(N)]
    batch = batch_of(
        [[(3 + (row * N + n) * 7 % D, when) for n, when in enumerate(months)] for row in range(B)]
    )

    with Largest():
        built(batch).users.sum().backward()

    # The gradient of the interests' embeddings is D x H; a dense bag would be B x N x D.
    assert largest <= D * settings.dim + B * N * settings.anchors
    gradient = built.anchors.interests.grad
    assert gradient is not None and 0 < int((gradient != 0).any(1).sum()) <= B * N


@pytest.mark.gpu
def test_vectors_on_a_gpu_are_those_of_the_cpu(
    encoder: Callable[..., LurmEncoder],
    batch_of: Callable[..., SequenceBatch],
    random_rows: Callable[..., Any],
) -> None:
    """To float32's precision, and with the same bits beside other rows."""
    built = encoder(assignment="soft", shared=2).float()
    batch = batch_of(random_rows(9))
    with torch.inference_mode():
        wanted = built(batch).users
        built.cuda()
        found = built(batch.to("cuda")).users
        some = built(batch.take(torch.tensor([5, 0, 3])).to("cuda")).users

    assert torch.allclose(found.cpu(), wanted, atol=1e-5)
    assert torch.equal(some[0], found[5])
