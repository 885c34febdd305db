"""Checks of the promise that must never break: vectors as of T know nothing of T or later."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from unirep_feast.batch import SequenceBatch
from unirep_feast.encoder import Encoder
from unirep_feast.instants import MICROSECONDS_PER_DAY
from unirep_feast.sequences import Sequences
from unirep_feast.testing.checks import EncoderFixtures
from unirep_feast.testing.comparing import assert_bit_equal
from unirep_feast.testing.recipe import Recipe, encode, module_of, state_of, train, vectors
from unirep_feast.testing.world import FUTURES, START, Future, World


class EncoderTimeChecks(EncoderFixtures):
    """Whatever happens at or after T, vectors as of T stay the same to the last bit."""

    @pytest.mark.parametrize("future", FUTURES)
    def test_the_future_changes_nothing(
        self, encoder: Encoder, world: World, future: Future
    ) -> None:
        """Events at or after T changed, added or removed: vectors as of T are bit-equal."""
        # The log ends on day 90: as of day 120 there is only a future where one is added.
        for days in (20, 45, 60, 120):
            until = START + days * MICROSECONDS_PER_DAY
            cut = replace(world, until=until)
            other = cut.with_other_future(future)
            sequences = Sequences.from_packed(other.packed, world.vocabulary, world.items)
            users, before = encode(encoder, world.sequences, until)
            found, after = encode(encoder, sequences, until)

            assert found.equals(users), f"other users have vectors when the future is {future}"
            assert_bit_equal(
                torch.from_numpy(before),
                torch.from_numpy(after),
                f"as of day {days} when later events are {future}",
            )

    @pytest.mark.parametrize("future", FUTURES)
    def test_building_sees_no_future(self, recipe: Recipe, world: World, future: Future) -> None:
        """``prepare`` and ``build`` on logs that differ after the cut-off give the same encoder."""
        found = []
        for one in (world, world.with_other_future(future)):
            # Users without a past would not be there at all: the host reads the log up to T.
            past = one.past.select(torch.nonzero(one.past.lengths).flatten())
            trio = recipe.build(past, seed=7)
            if trio.objective is not None:
                train(trio, past, steps=2)
            module_of(trio.encoder).eval()
            found.append((state_of(trio.encoder), *encode(trio.encoder, past, world.until)))
        (state, users, before), (other, users_after, after) = found

        assert users.equals(users_after)
        assert_bit_equal(
            torch.from_numpy(before),
            torch.from_numpy(after),
            f"built and trained where later events are {future}",
        )
        for name, value in state.items():
            assert torch.equal(value, other[name]), f"{name!r} depends on events after the cut-off"

    def test_as_of_alone_changes_nothing(self, encoder: Encoder, batch: SequenceBatch) -> None:
        """Unless ``depends_on_as_of``: a later T with the same events gives the same bits."""
        if encoder.depends_on_as_of:
            return
        later = replace(batch, as_of=batch.as_of + 100 * MICROSECONDS_PER_DAY)

        assert_bit_equal(
            vectors(encoder, batch),
            vectors(encoder, later),
            "with a later as-of time (declare depends_on_as_of = True if that is meant)",
        )
