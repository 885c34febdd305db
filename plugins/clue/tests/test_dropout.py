from __future__ import annotations

import pytest
import torch

from unirep_feast_clue.dropout import Dropout, keep_noise


@pytest.mark.parametrize("rate", [0.1, 0.25, 0.3, 0.5, 0.9])
def test_drops_the_asked_share_and_keeps_the_mean(rate: float) -> None:
    """A share ``rate`` of the factors is 0, the others are 1 / (1 - rate)."""
    noise = keep_noise(torch.empty(1000, 1001), rate)

    assert (noise == 0).float().mean().item() == pytest.approx(rate, abs=2e-3)
    assert noise[noise > 0].unique().tolist() == [pytest.approx(1 / (1 - rate), rel=1e-4)]


def test_neighbours_are_independent() -> None:
    """Lanes cut from one random word do not fall together."""
    dropped = (keep_noise(torch.empty(800_000), 0.5) == 0).float() - 0.5
    for distance in (1, 2, 3, 4, 7, 8):
        together = (dropped[:-distance] * dropped[distance:]).mean().item()

        assert abs(together) < 2e-3


def test_repeats_by_the_global_seed() -> None:
    """The noise comes from torch's generator, which a resumed run restores."""
    torch.manual_seed(3)
    first = keep_noise(torch.empty(7, 5), 0.3)
    torch.manual_seed(3)

    assert torch.equal(first, keep_noise(torch.empty(7, 5), 0.3))
    assert not torch.equal(first, keep_noise(torch.empty(7, 5), 0.3))


def test_keeps_dtype_and_shape() -> None:
    """Noise fits what it multiplies, whatever the number of elements."""
    for shape in ((), (1,), (0, 3), (3, 5, 7)):
        noise = keep_noise(torch.empty(shape, dtype=torch.float64), 0.1)

        assert (noise.shape, noise.dtype) == (shape, torch.float64)


def test_does_nothing_in_eval_or_at_rate_zero() -> None:
    """The very tensor comes back."""
    x = torch.randn(4, 4)

    assert Dropout(0.5).eval()(x) is x
    assert Dropout(0.0)(x) is x


def test_gradient_passes_what_was_kept() -> None:
    """The factor of the forward pass is the factor of the backward pass."""
    x = torch.ones(50, 50, requires_grad=True)
    out = Dropout(0.5)(x)
    out.sum().backward()

    assert torch.equal(x.grad, out.detach())


def test_residual_adds_what_was_kept() -> None:
    """``residual`` is ``x + dropout(update)``."""
    x, update = torch.randn(20, 20), torch.randn(20, 20)
    drop = Dropout(0.3)
    torch.manual_seed(1)
    expected = x + drop(update)
    torch.manual_seed(1)

    torch.testing.assert_close(drop.residual(x, update), expected)
    assert torch.equal(drop.eval().residual(x, update), x + update)
