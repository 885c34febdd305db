"""Checks that every sampler passes."""

from __future__ import annotations

import pyarrow as pa
import pytest
import torch

from unirep_feast.batch import SequenceBatch
from unirep_feast.objective import Views
from unirep_feast.probing import difference, view_problem
from unirep_feast.sampler import Draw, Sampler, Units
from unirep_feast.sequences import Sequences
from unirep_feast.testing.checks import PartChecks
from unirep_feast.testing.recipe import Recipe
from unirep_feast.testing.world import FUTURES, Future, World


class SamplerTests(PartChecks):
    """A sampler keeps its contract: stateless, seeded, blind to the future, valid batches.

    Attributes:
        random: False for a sampler that draws nothing, whose views are the same at every step;
            None where that is not for the one who checks to say.
    """

    random: bool | None = True

    @pytest.fixture
    def sampler(self, recipe: Recipe) -> Sampler:
        """The sampler."""
        assert recipe.sampler is not None, "the recipe has no sampler"
        return recipe.sampler()

    @pytest.fixture
    def histories(self, recipe: Recipe, past: Sequences) -> Sequences:
        """What the host hands to a sampler: before the cut-off, with the encoder's window."""
        return past.limit(recipe.build(past).encoder.window)

    def test_declares_its_views(self, sampler: Sampler, histories: Sequences) -> None:
        """``views`` names exactly what ``sample`` returns."""
        assert isinstance(sampler.views, frozenset), f"views is {sampler.views!r}"
        assert sampler.views, "views is empty, wanted the names of the views it supplies"
        found = frozenset(_draw(sampler, histories))
        assert found == sampler.views, (
            f"sample returns views {sorted(found)}, declares {sorted(sampler.views)}"
        )

    def test_units_are_rows_with_a_past(self, sampler: Sampler, histories: Sequences) -> None:
        """At least one unit; each is a row of a user with events before the cut-off."""
        units = sampler.units(histories)

        assert units.ndim == 1 and units.dtype == torch.int64, (
            f"units are {tuple(units.shape)} {units.dtype}, wanted (n,) int64"
        )
        assert len(units) > 0, "no units: nothing to train on"
        inside = (units >= 0) & (units < len(histories))
        assert bool(inside.all()), f"units name rows beyond the {len(histories)} users"
        empty = int((histories.lengths[units] == 0).sum())
        assert empty == 0, f"{empty} units have no event before the cut-off"

    def test_the_same_draw_gives_the_same_views(
        self, recipe: Recipe, sampler: Sampler, histories: Sequences
    ) -> None:
        """Whatever was drawn before, by whichever instance: resuming needs a step number only."""
        first = _draw(sampler, histories, step=5)
        torch.manual_seed(1)
        _draw(sampler, histories, step=6)
        torch.manual_seed(2)
        assert recipe.sampler is not None
        for name, other in (("the same", sampler), ("a fresh", recipe.sampler())):
            _same_views(
                first,
                _draw(other, histories, step=5),
                f"drawn again for the same step by {name} sampler (use draw.generator)",
            )
        assert torch.equal(sampler.units(histories), recipe.sampler().units(histories)), (
            "units differ between two calls"
        )

    def test_another_step_gives_other_views(self, sampler: Sampler, histories: Sequences) -> None:
        """Unless ``random`` is False; a run of another seed draws otherwise, too."""
        first = _draw(sampler, histories, step=0)
        others = [_draw(sampler, histories, step=s) for s in (1, 2)]
        others.append(_draw(sampler, histories, step=0, seed=1))
        changed = [difference(first, other) for other in others]

        if self.random is None:
            pytest.skip("whether views are drawn at random is not said")
        if self.random:
            assert all(changed), "views repeat at another step or seed; set random = False if meant"
        else:
            assert not any(changed), "random = False, but views differ between steps"

    def test_units_may_be_drawn_in_parts(self, sampler: Sampler, histories: Sequences) -> None:
        """Any selection of units, one alone too, gives every declared view."""
        units = sampler.units(histories)
        for index in (torch.tensor([0]), torch.arange(len(units)).flip(0)[:3]):
            views = sampler.sample(histories, Units(index, units[index]), Draw(0, 0))
            assert frozenset(views) == sampler.views

    def test_views_are_valid(self, sampler: Sampler, histories: Sequences) -> None:
        """Rows fit, events are in order and earlier than as_of, codes and users exist."""
        views = _draw(sampler, histories)
        for name, view in views.items():
            problem = view_problem(view, histories)
            assert not problem, f"view {name!r} {problem}"

    def test_nothing_is_at_or_after_the_cut_off(
        self, sampler: Sampler, histories: Sequences
    ) -> None:
        """No event of any view at or after T, and no as-of time behind it."""
        for step in range(3):
            for name, view in _draw(sampler, histories, step).items():
                if not isinstance(view, SequenceBatch):
                    continue
                late = int((view.times >= histories.until).sum())
                assert late == 0, f"view {name!r} holds {late} events at or after the cut-off"
                later = int((view.as_of > histories.until).sum())
                assert later == 0, f"view {name!r} has {later} as-of times after the cut-off"

    @pytest.mark.parametrize("future", FUTURES)
    def test_the_future_changes_nothing(
        self, sampler: Sampler, histories: Sequences, world: World, future: Future
    ) -> None:
        """Events at or after T changed, added or removed: the same units and the same views."""
        found = []
        for one in (world, world.with_other_future(future)):
            past = one.past.limit(histories.clip)
            # Users without a past would not be there at all: the host reads the log up to T.
            past = past.select(torch.nonzero(past.lengths).flatten())
            units = sampler.units(past)
            found.append((past.users.take(pa.array(units.numpy())), _draw(sampler, past)))
        (users, views), (other_users, other_views) = found

        assert users.equals(other_users), f"other units when later events are {future}"
        _same_views(views, other_views, f"drawn when later events are {future}")

    def test_histories_are_left_alone(self, sampler: Sampler, histories: Sequences) -> None:
        """Drawing writes into no column: they are shared, and may be a mapped file."""
        columns = {"codes": histories.codes, "times": histories.times, **histories.columns}
        before = {name: column.clone() for name, column in columns.items()}
        _draw(sampler, histories)
        for name, column in columns.items():
            same = torch.equal(column.nan_to_num(), before[name].nan_to_num())
            assert same, f"sample wrote into {name}"


def _draw(sampler: Sampler, sequences: Sequences, step: int = 0, seed: int = 0) -> Views:
    units = sampler.units(sequences)
    return sampler.sample(sequences, Units(torch.arange(len(units)), units), Draw(seed, step))


def _same_views(one: Views, other: Views, when: str) -> None:
    changed = difference(one, other)
    assert not changed, f"{changed} {when}"
