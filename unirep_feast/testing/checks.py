"""What all kit classes share: the fixtures, and the rule about overriding a check."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from torch import Tensor

from unirep_feast.batch import SequenceBatch
from unirep_feast.encoder import Encoder
from unirep_feast.sequences import Sequences
from unirep_feast.testing.recipe import Recipe, module_of, train
from unirep_feast.testing.world import World, make_world
from unirep_feast.trio import Trio

_KIT = "unirep_feast.testing."


class Checks:
    """Base of the kit classes; not used on its own.

    Attributes:
        tolerance: how far vectors may differ where shapes differ; elsewhere they are bit-equal.
    """

    tolerance: float = 1e-5

    def test_no_check_is_overridden_without_a_reason(self) -> None:
        """An overridden or removed check must say why: ``@pytest.mark.xfail(reason=...)``."""
        silent = list(_overridden_silently(type(self)))

        assert not silent, (
            f"{type(self).__name__} overrides or removes {', '.join(silent)}; keep the check, or "
            "mark the override with @pytest.mark.xfail(reason='why it cannot hold here')"
        )


class PartChecks(Checks):
    """Base of the classes that check parts; supply ``recipe``, and ``world`` if you must."""

    @pytest.fixture
    def recipe(self) -> Recipe:
        """How to build the parts: override this one."""
        raise NotImplementedError(
            f"{type(self).__name__} must override the fixture `recipe`, for instance with "
            "return registered('acme', settings={'encoder': {'dim': 16}})"
        )

    @pytest.fixture
    def world(self) -> World:
        """A log with a catalogue; override it where the parts need something special."""
        return make_world(users=40, items=30, longest=20)

    @pytest.fixture
    def past(self, world: World) -> Sequences:
        """Histories as training sees them."""
        return world.past

    @pytest.fixture
    def prepared(self, recipe: Recipe, past: Sequences) -> Mapping[str, Tensor]:
        """What ``prepare`` fitted."""
        return recipe.prepared(past)

    @pytest.fixture
    def fresh(self, recipe: Recipe, past: Sequences, prepared: Mapping[str, Tensor]) -> Trio:
        """The parts with random weights."""
        return recipe.build(past, prepared)

    @pytest.fixture
    def trio(self, fresh: Trio, past: Sequences) -> Trio:
        """The parts after a few steps, so that nothing is zero only because it began so."""
        if fresh.objective is not None:
            train(fresh, past, steps=3)
            module_of(fresh.objective).eval()
        module_of(fresh.encoder).eval()
        return fresh


class EncoderFixtures(PartChecks):
    """What every check of an encoder starts from."""

    @pytest.fixture
    def encoder(self, trio: Trio) -> Encoder:
        """The encoder, a few steps old, in ``eval()``."""
        return trio.encoder

    @pytest.fixture
    def batch(self, encoder: Encoder, past: Sequences) -> SequenceBatch:
        """Every user's history within the encoder's window, empty ones too."""
        return past.limit(encoder.window).histories(past.all_users())


def _overridden_silently(kit: type) -> Iterator[str]:
    """Names of checks whose override carries no xfail with a reason."""
    for base in kit.__mro__:
        if not base.__module__.startswith(_KIT):
            continue
        for name, original in vars(base).items():
            if not name.startswith("test_"):
                continue
            found = getattr(kit, name, None)
            if found is not original and not _excused(found) and not _in_kit(found):
                yield name


def _in_kit(check: Any) -> bool:
    return str(getattr(check, "__module__", "")).startswith(_KIT)


def _excused(check: Any) -> bool:
    marks = getattr(check, "pytestmark", [])
    return any(mark.name == "xfail" and mark.kwargs.get("reason") for mark in marks)
