"""Checks that every objective passes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from unirep_feast.batch import SequenceBatch
from unirep_feast.chunking import TrioModule
from unirep_feast.encoder import CAPABILITIES, Encoded, Encoder, Steps
from unirep_feast.objective import Losses, Objective, Views
from unirep_feast.sequences import Sequences
from unirep_feast.testing.checks import PartChecks
from unirep_feast.testing.recipe import Recipe, draw_views, module_of, state_of, train
from unirep_feast.trio import Trio, check_fit


class ObjectiveTests(PartChecks):
    """An objective keeps its contract: declared needs, finite terms, gradients, and it learns.

    Attributes:
        steps: within which the loss must fall on a small world.
        learning_rate: of Adam, for those steps.
        fall: the share by which the mean of the last ten losses must be below that of the first
            ten, measured from the first.
    """

    steps: int = 60
    learning_rate: float = 0.01
    fall: float = 0.02

    @pytest.fixture
    def trio(self, fresh: Trio) -> Trio:
        """The parts with random weights, in ``eval()``."""
        assert fresh.objective is not None, "the recipe has no objective"
        for part in (fresh.encoder, fresh.objective):
            module_of(part).eval()
        return fresh

    @pytest.fixture
    def objective(self, trio: Trio) -> Objective:
        """The objective."""
        assert trio.objective is not None
        return trio.objective

    @pytest.fixture
    def views(self, trio: Trio, past: Sequences) -> Views:
        """What the sampler draws for up to 32 units."""
        return draw_views(trio, past)

    def test_declares_what_it_needs(self, trio: Trio, objective: Objective) -> None:
        """Capabilities, views and switches are there, known, and met by its trio."""
        for name in ("requires", "views"):
            found = getattr(objective, name, None)
            assert isinstance(found, frozenset), f"{name} is {found!r}, wanted a frozenset"
        unknown = objective.requires - CAPABILITIES
        assert not unknown, f"requires unknown {sorted(unknown)}; known: {sorted(CAPABILITIES)}"
        assert objective.views, "views is empty, wanted the names of the views it scores"
        for name in ("validate_with_dropout", "trains_encoder"):
            found = getattr(objective, name, None)
            assert isinstance(found, bool), f"{name} is {found!r}, wanted True or False"
        module_of(objective)
        names = {role: {"name": role} for role in ("encoder", "objective", "sampler")}
        check_fit(Trio(trio.encoder, objective, trio.sampler, {**names, **trio.identity}))

    def test_terms_are_finite_scalars(self, trio: Trio, views: Views) -> None:
        """At least one term; terms and metrics are () and finite."""
        losses = _score(trio, views)

        assert losses.terms, "no terms, wanted at least one"
        for kind, found in (("term", losses.terms), ("metric", losses.metrics)):
            for name, value in found.items():
                assert isinstance(value, Tensor), f"{kind} {name!r} is {value!r}, wanted a tensor"
                assert value.shape == (), f"{kind} {name!r} is {tuple(value.shape)}, wanted ()"
                assert bool(torch.isfinite(value)), f"{kind} {name!r} is {float(value)}"

    def test_two_units_are_enough(self, trio: Trio, past: Sequences) -> None:
        """The smallest batch the host makes gives a finite loss."""
        total = _score(trio, draw_views(trio, past, at_most=2)).total()

        assert bool(torch.isfinite(total)), f"the loss of two units is {float(total)}"

    def test_every_parameter_gets_a_gradient(self, recipe: Recipe, past: Sequences) -> None:
        """Within a few steps, finite; and the encoder gets one too where it is trained."""
        trio = recipe.build(past)
        assert trio.objective is not None
        objective, encoder = module_of(trio.objective), module_of(trio.encoder)
        trained = {name for name, p in objective.named_parameters() if p.requires_grad}
        module = TrioModule(encoder, objective).train()
        for step in range(4):
            total = module(draw_views(trio, past, step)).total()
            assert total.requires_grad, "the loss has no gradient: is something detached?"
            total.backward()
        lacking = sorted(
            n for n, p in objective.named_parameters() if n in trained and p.grad is None
        )
        reached = any(p.grad is not None for p in encoder.parameters())

        assert not lacking, f"no gradient reaches {', '.join(lacking)}; use it, or remove it"
        for name, parameter in objective.named_parameters():
            if parameter.grad is not None:
                assert bool(torch.isfinite(parameter.grad).all()), f"gradient of {name!r}"
        assert reached == trio.objective.trains_encoder, (
            f"trains_encoder is {trio.objective.trains_encoder}, but the encoder "
            f"{'gets a' if reached else 'gets no'} gradient"
        )

    def test_asks_only_for_what_it_declares(
        self, trio: Trio, objective: Objective, views: Views
    ) -> None:
        """It reads only its declared views, and only the capabilities it requires."""
        encoder = _Guarded(trio.encoder, objective.requires)

        losses = objective(encoder, _GuardedViews(views, objective.views))

        assert bool(torch.isfinite(losses.total()))

    def test_scoring_repeats(self, trio: Trio, views: Views) -> None:
        """The same views and the same dropout give the same loss to the last bit."""
        found = []
        for _ in range(2):
            torch.manual_seed(3)
            found.append(_score(trio, views).total().detach())

        assert torch.equal(*found), f"the loss is {float(found[0])}, then {float(found[1])}"

    def test_state_survives(
        self, recipe: Recipe, trio: Trio, past: Sequences, views: Views
    ) -> None:
        """A fresh objective with the saved state scores the same: a resumed run goes on alike."""
        assert recipe.objective is not None and trio.objective is not None
        train(trio, past, steps=3)
        torch.manual_seed(99)
        again = recipe.objective(trio.encoder)
        module_of(again).load_state_dict(state_of(trio.objective), strict=True)
        found = []
        for objective in (trio.objective, again):
            torch.manual_seed(3)
            found.append(_score(Trio(trio.encoder, objective), views).total().detach())

        assert torch.equal(*found), (
            f"the loss is {float(found[0])}, and {float(found[1])} loaded into a fresh objective "
            "(is something kept outside the state dict?)"
        )

    def test_the_loss_falls(self, fresh: Trio, past: Sequences) -> None:
        """On a small world, within ``steps``; with the host's own loop."""
        losses = train(fresh, past, self.steps, self.learning_rate)
        first, last = (sum(part) / len(part) for part in (losses[:10], losses[-10:]))

        assert all(map(math.isfinite, losses)), f"the loss diverged: {losses}"
        wanted = first - self.fall * abs(first)
        assert last < wanted, (
            f"the loss goes from {first:.4f} to {last:.4f} in {self.steps} steps, wanted below "
            f"{wanted:.4f}"
        )


class _Guarded:
    """An encoder that gives nothing its objective did not declare."""

    def __init__(self, encoder: Encoder, allowed: frozenset[str]) -> None:
        self._encoder = encoder
        self._allowed = allowed

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)

    def __call__(self, batch: SequenceBatch, *, steps: Steps = False) -> Encoded:
        allowed = "steps" in self._allowed
        assert allowed or not steps, "asks for steps, which are not in `requires`"
        encoded = self._encoder(batch, steps=allowed)
        return encoded if allowed else Encoded(encoded.users, None, encoded.extras)

    def embed_items(self, codes: Tensor) -> Tensor:
        assert "items" in self._allowed, "calls embed_items, but `requires` does not name items"
        return self._encoder.embed_items(codes)


class _GuardedViews(Mapping[str, "SequenceBatch | Tensor"]):
    """Views that refuse a name the objective did not declare."""

    def __init__(self, views: Views, allowed: frozenset[str]) -> None:
        self._views = {name: views[name] for name in allowed}

    def __getitem__(self, name: str) -> SequenceBatch | Tensor:
        assert name in self._views, f"reads view {name!r}, which is not in `views`"
        return self._views[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._views)

    def __len__(self) -> int:
        return len(self._views)


def _score(trio: Trio, views: Views) -> Losses:
    """Score as the host validates: chunked encoder, penalties, dropout where it makes the views."""
    assert trio.objective is not None
    module = TrioModule(trio.encoder, trio.objective)
    module.train(trio.objective.validate_with_dropout)
    try:
        with torch.no_grad():
            losses: Losses = module(views)
        return losses
    finally:
        module.eval()
