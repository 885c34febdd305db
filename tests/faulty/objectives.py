"""Objectives that each break one promise; the kit must fail them. Run by test_testing_kit.py."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from unirep_feast.encoder import Encoder
from unirep_feast.objective import Losses, Views
from unirep_feast.testing import ObjectiveTests, Recipe
from unirep_feast.testing.toy.hooks import (
    ToyEncoderSettings,
    ToyObjectiveSettings,
    ToySamplerSettings,
)
from unirep_feast.testing.toy.parts import ToyEncoder, ToyObjective, ToySampler


def with_objective(kind: Callable[[int, ToyObjectiveSettings], ToyObjective]) -> Recipe:
    return Recipe(
        lambda sequences, prepared: ToyEncoder(len(sequences.vocabulary), ToyEncoderSettings()),
        lambda encoder: kind(encoder.dim, ToyObjectiveSettings()),
        lambda: ToySampler(ToySamplerSettings()),
    )


class _NotFinite(ToyObjective):
    def forward(self, encoder: Encoder, views: Views) -> Losses:
        losses = super().forward(encoder, views)
        return Losses({**losses.terms, "log": torch.zeros(()).log()}, losses.metrics)


class TestNotFinite(ObjectiveTests):
    @pytest.fixture
    def recipe(self) -> Recipe:
        return with_objective(_NotFinite)


class _NotScalar(ToyObjective):
    def forward(self, encoder: Encoder, views: Views) -> Losses:
        losses = super().forward(encoder, views)
        return Losses(losses.terms, {"each": torch.zeros(4)})


class TestNotScalar(ObjectiveTests):
    @pytest.fixture
    def recipe(self) -> Recipe:
        return with_objective(_NotScalar)


class _Detached(ToyObjective):
    def forward(self, encoder: Encoder, views: Views) -> Losses:
        terms = super().forward(encoder, views).terms
        return Losses({name: term.detach() for name, term in terms.items()}, {})


class TestDetached(ObjectiveTests):
    @pytest.fixture
    def recipe(self) -> Recipe:
        return with_objective(_Detached)


class _LeavesEncoderAlone(ToyObjective):
    """``trains_encoder`` is True, but no gradient reaches the encoder."""

    def forward(self, encoder: Encoder, views: Views) -> Losses:
        users = encoder(views["earlier"]).users.detach()
        return Losses({"size": self.head(users[:, 0]).square().mean()}, {})


class TestLeavesEncoderAlone(ObjectiveTests):
    @pytest.fixture
    def recipe(self) -> Recipe:
        return with_objective(_LeavesEncoderAlone)


class _UnusedHead(ToyObjective):
    def __init__(self, numbers: int, settings: ToyObjectiveSettings) -> None:
        super().__init__(numbers, settings)
        self.forgotten = nn.Linear(2, 2)


class TestUnusedHead(ObjectiveTests):
    @pytest.fixture
    def recipe(self) -> Recipe:
        return with_objective(_UnusedHead)


class _UndeclaredView(ToyObjective):
    views = frozenset({"earlier"})


class TestUndeclaredView(ObjectiveTests):
    @pytest.fixture
    def recipe(self) -> Recipe:
        return with_objective(_UndeclaredView)


class _UndeclaredItems(ToyObjective):
    def forward(self, encoder: Encoder, views: Views) -> Losses:
        losses = super().forward(encoder, views)
        size = encoder.embed_items(views["earlier"].codes).square().mean()
        return Losses({**losses.terms, "size": size}, losses.metrics)


class TestUndeclaredItems(ObjectiveTests):
    @pytest.fixture
    def recipe(self) -> Recipe:
        return with_objective(_UndeclaredItems)


class _UndeclaredSteps(ToyObjective):
    def forward(self, encoder: Encoder, views: Views) -> Losses:
        losses = super().forward(encoder, views)
        size = encoder(views["earlier"], steps=True).steps.square().mean()
        return Losses({**losses.terms, "size": size}, losses.metrics)


class TestUndeclaredSteps(ObjectiveTests):
    @pytest.fixture
    def recipe(self) -> Recipe:
        return with_objective(_UndeclaredSteps)


class _RequiresUnknown(ToyObjective):
    requires = frozenset({"telepathy"})


class TestRequiresUnknown(ObjectiveTests):
    @pytest.fixture
    def recipe(self) -> Recipe:
        return with_objective(_RequiresUnknown)


class _MissingView(ToyObjective):
    views = frozenset({"earlier", "later", "labels"})


class TestMissingView(ObjectiveTests):
    @pytest.fixture
    def recipe(self) -> Recipe:
        return with_objective(_MissingView)


class _Uphill(ToyObjective):
    """The value of the loss with the gradient of its negative."""

    def forward(self, encoder: Encoder, views: Views) -> Losses:
        terms = super().forward(encoder, views).terms
        return Losses({name: 2 * term.detach() - term for name, term in terms.items()}, {})


class TestUphill(ObjectiveTests):
    @pytest.fixture
    def recipe(self) -> Recipe:
        return with_objective(_Uphill)


class _Counts(ToyObjective):
    """Scores the same views otherwise every time."""

    calls = 0

    def forward(self, encoder: Encoder, views: Views) -> Losses:
        self.calls += 1
        terms = super().forward(encoder, views).terms
        return Losses({name: term * self.calls for name, term in terms.items()}, {})


class TestCounts(ObjectiveTests):
    @pytest.fixture
    def recipe(self) -> Recipe:
        return with_objective(_Counts)


class _StateOutside(ToyObjective):
    """A random direction outside the state dict: a resumed run goes on with another one."""

    def __init__(self, numbers: int, settings: ToyObjectiveSettings) -> None:
        super().__init__(numbers, settings)
        self.direction = torch.randn(numbers)

    def forward(self, encoder: Encoder, views: Views) -> Losses:
        losses = super().forward(encoder, views)
        pull = (encoder(views["earlier"]).users[:, 0] @ self.direction).square().mean()
        return Losses({**losses.terms, "pull": pull}, losses.metrics)


class TestStateOutside(ObjectiveTests):
    @pytest.fixture
    def recipe(self) -> Recipe:
        return with_objective(_StateOutside)


class _NeedsMany(ToyObjective):
    """Not a number for a small batch."""

    def forward(self, encoder: Encoder, views: Views) -> Losses:
        terms = super().forward(encoder, views).terms
        return Losses(
            {name: term / (len(views["earlier"]) - 2) for name, term in terms.items()}, {}
        )


class TestNeedsMany(ObjectiveTests):
    @pytest.fixture
    def recipe(self) -> Recipe:
        return with_objective(_NeedsMany)
