"""Samplers that each break one promise; the kit must fail them. Run by test_testing_kit.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from unirep_feast.batch import MASK, SequenceBatch
from unirep_feast.objective import Views
from unirep_feast.sampler import Draw, Units
from unirep_feast.sequences import Sequences
from unirep_feast.testing import Recipe, SamplerTests
from unirep_feast.testing.toy.hooks import ToyEncoderSettings, ToySamplerSettings
from unirep_feast.testing.toy.parts import ToyEncoder, ToySampler


def with_sampler(kind: Callable[[ToySamplerSettings], ToySampler], max_events: int = 32) -> Recipe:
    settings = ToyEncoderSettings(max_events=max_events)
    return Recipe(
        lambda sequences, prepared: ToyEncoder(len(sequences.vocabulary), settings),
        sampler=lambda: kind(ToySamplerSettings()),
    )


class _Unseeded(ToySampler):
    def sample(self, sequences: Sequences, units: Units, draw: Draw) -> Views:
        chance = int(torch.randint(1 << 30, ()))
        return super().sample(sequences, units, replace(draw, seed=chance))


class TestUnseeded(SamplerTests):
    @pytest.fixture
    def recipe(self) -> Recipe:
        return with_sampler(_Unseeded)


class _Stateful(ToySampler):
    """Counts its calls instead of asking for the step."""

    calls = 0

    def sample(self, sequences: Sequences, units: Units, draw: Draw) -> Views:
        self.calls += 1
        return super().sample(sequences, units, replace(draw, step=self.calls))


class TestStateful(SamplerTests):
    @pytest.fixture
    def recipe(self) -> Recipe:
        return with_sampler(_Stateful)


class _Repeats(ToySampler):
    """The same views at every step."""

    def sample(self, sequences: Sequences, units: Units, draw: Draw) -> Views:
        return super().sample(sequences, units, replace(draw, step=0, seed=0))


class TestRepeats(SamplerTests):
    @pytest.fixture
    def recipe(self) -> Recipe:
        return with_sampler(_Repeats)


class _BeyondCutOff(ToySampler):
    """One event more than the history has: the first of the future, or another user's."""

    def sample(self, sequences: Sequences, units: Units, draw: Draw) -> Views:
        views = dict(super().sample(sequences, units, draw))
        hi = (sequences.ends[units.users] + 1).clamp(max=len(sequences.times))
        as_of = torch.full_like(hi, sequences.until)
        views["later"] = sequences.window(units.users, hi - 2, hi, as_of)
        return views


class TestBeyondCutOff(SamplerTests):
    @pytest.fixture
    def recipe(self) -> Recipe:
        return with_sampler(_BeyondCutOff)


class _LateAsOf(ToySampler):
    """Says that views are as of a time behind the cut-off."""

    def sample(self, sequences: Sequences, units: Units, draw: Draw) -> Views:
        views = dict(super().sample(sequences, units, draw))
        views["later"] = replace(views["later"], as_of=views["later"].as_of + 1)
        return views


class TestLateAsOf(SamplerTests):
    @pytest.fixture
    def recipe(self) -> Recipe:
        return with_sampler(_LateAsOf)


class _PeeksAtPopularity(ToySampler):
    """Hands on how often items occur, counted over shared columns that hold the future."""

    views = frozenset({"earlier", "later", "popularity"})

    def sample(self, sequences: Sequences, units: Units, draw: Draw) -> Views:
        views = super().sample(sequences, units, draw)
        counts = torch.bincount(sequences.codes, minlength=sequences.items.known)
        return {**views, "popularity": counts[: sequences.items.known]}


class TestPeeksAtPopularity(SamplerTests):
    @pytest.fixture
    def recipe(self) -> Recipe:
        return with_sampler(_PeeksAtPopularity)


class _NoUnits(ToySampler):
    def units(self, sequences: Sequences) -> Tensor:
        return super().units(sequences)[:0]


class TestNoUnits(SamplerTests):
    @pytest.fixture
    def recipe(self) -> Recipe:
        return with_sampler(_NoUnits)


class _UnitsWithoutPast(ToySampler):
    def units(self, sequences: Sequences) -> Tensor:
        return sequences.all_users()


class TestUnitsWithoutPast(SamplerTests):
    @pytest.fixture
    def recipe(self) -> Recipe:
        return with_sampler(_UnitsWithoutPast)


class _UnitsBeyond(ToySampler):
    def units(self, sequences: Sequences) -> Tensor:
        return torch.cat((super().units(sequences), torch.tensor([len(sequences)])))


class TestUnitsBeyond(SamplerTests):
    @pytest.fixture
    def recipe(self) -> Recipe:
        return with_sampler(_UnitsBeyond)


class _UndeclaredView(ToySampler):
    views = frozenset({"earlier"})


class TestUndeclaredView(SamplerTests):
    @pytest.fixture
    def recipe(self) -> Recipe:
        return with_sampler(_UndeclaredView)


class _Unclipped(ToySampler):
    """Whole histories, longer than the encoder's window."""

    def sample(self, sequences: Sequences, units: Units, draw: Draw) -> Views:
        lo, hi = sequences.starts[units.users], sequences.ends[units.users]
        as_of = torch.full_like(hi, sequences.until)
        views = dict(super().sample(sequences, units, draw))
        views["later"] = sequences.window(units.users, lo, hi, as_of, limit=False)
        return views


class TestUnclipped(SamplerTests):
    @pytest.fixture
    def recipe(self) -> Recipe:
        return with_sampler(_Unclipped, max_events=4)


def _changed(views: Views, **fields: object) -> Views:
    later = views["later"]
    assert isinstance(later, SequenceBatch)
    return {**views, "later": replace(later, **fields)}  # type: ignore[arg-type]


class _UnknownCodes(ToySampler):
    def sample(self, sequences: Sequences, units: Units, draw: Draw) -> Views:
        views = super().sample(sequences, units, draw)
        return _changed(views, codes=views["later"].codes + len(sequences.items))


class TestUnknownCodes(SamplerTests):
    @pytest.fixture
    def recipe(self) -> Recipe:
        return with_sampler(_UnknownCodes)


class _LatestFirst(ToySampler):
    def sample(self, sequences: Sequences, units: Units, draw: Draw) -> Views:
        views = super().sample(sequences, units, draw)
        return _changed(views, times=views["later"].times.flip(0))


class TestLatestFirst(SamplerTests):
    @pytest.fixture
    def recipe(self) -> Recipe:
        return with_sampler(_LatestFirst)


class _WritesColumns(ToySampler):
    """Masks events where they lie, for everybody and for ever."""

    def sample(self, sequences: Sequences, units: Units, draw: Draw) -> Views:
        sequences.codes[sequences.starts[units.users]] = MASK
        return super().sample(sequences, units, draw)


class TestWritesColumns(SamplerTests):
    @pytest.fixture
    def recipe(self) -> Recipe:
        return with_sampler(_WritesColumns)
