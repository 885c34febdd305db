"""Checks that every encoder passes."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa
import torch
from torch import Tensor

from unirep_feast.batch import FIRST_ITEM, MASK, UNK, SequenceBatch, bucket_width
from unirep_feast.chunking import TrioModule
from unirep_feast.encoder import CAPABILITIES, Encoder, Window
from unirep_feast.instants import MICROSECONDS_PER_DAY
from unirep_feast.sequences import Sequences
from unirep_feast.testing.comparing import assert_bit_equal, assert_close, assert_finite
from unirep_feast.testing.encoder_capabilities import EncoderCapabilityChecks
from unirep_feast.testing.encoder_time import EncoderTimeChecks
from unirep_feast.testing.recipe import (
    Recipe,
    draw_views,
    encode,
    module_of,
    state_of,
    vectors,
)
from unirep_feast.testing.world import START, World
from unirep_feast.trio import Trio, check_encoder

#: How long a history is tried on an encoder that does not limit it.
_LONG = 1000


class EncoderTests(EncoderTimeChecks, EncoderCapabilityChecks):
    """An encoder keeps its contract: shapes, padding, company, time, state and capabilities."""

    def test_declares_what_it_is(self, fresh: Trio) -> None:
        """K, D, the window, dependence on time and capabilities are there and make sense."""
        encoder = fresh.encoder
        check_encoder(encoder, type(encoder).__name__)
        window = encoder.window
        assert isinstance(window, Window), f"window is {window!r}, wanted a Window"
        for limit in (window.max_events, window.max_days):
            assert limit is None or limit > 0, f"window is {window}, wanted limits above 0 or None"
        unknown = frozenset(encoder.provides) - CAPABILITIES
        assert not unknown, f"provides unknown {sorted(unknown)}; known: {sorted(CAPABILITIES)}"

    def test_vectors_are_finite_and_of_the_declared_shape(
        self, encoder: Encoder, batch: SequenceBatch
    ) -> None:
        """One (K, D) block of finite floats per user."""
        users = vectors(encoder, batch)

        wanted = (len(batch), encoder.num_vectors, encoder.dim)
        assert tuple(users.shape) == wanted, (
            f"vectors are {tuple(users.shape)}, wanted (B, K, D) = {wanted}"
        )
        assert users.is_floating_point(), f"vectors are {users.dtype}, wanted a float"
        assert_finite(users, "vectors")

    def test_long_histories_are_encoded(self, encoder: Encoder, past: Sequences) -> None:
        """A history as long as the window allows, and one of a single event."""
        longest = encoder.window.max_events or _LONG
        steps = torch.arange(longest + 1)
        coded = max(past.items.known - FIRST_ITEM, 1)
        batch = SequenceBatch(
            codes=FIRST_ITEM + steps % coded,
            times=torch.cat((START + steps[:-1] // 2, torch.tensor([START]))),
            lengths=torch.tensor([longest, 1]),
            users=torch.tensor([0, 1]),
            as_of=torch.full((2,), START + MICROSECONDS_PER_DAY),
            width=bucket_width(longest, encoder.window.max_events),
            columns={
                name: column[:1].expand(longest + 1).to(_batch_type(column))
                for name, column in past.columns.items()
            },
        )

        assert_finite(vectors(encoder, batch), f"vectors of a history of {longest} events")

    def test_extras_are_aligned_with_rows(self, encoder: Encoder, batch: SequenceBatch) -> None:
        """One entry per row; slots, if declared, are (B, K) int64, distinct; scalar penalties."""
        extras = encoder(batch).extras

        for name, extra in extras.items():
            assert extra.shape[:1] == (len(batch),), (
                f"extra {name!r} is {tuple(extra.shape)}, wanted ({len(batch)}, ...)"
            )
        slots = extras.get("slots")
        if slots is not None:
            wanted = (len(batch), encoder.num_vectors)
            assert (tuple(slots.shape), slots.dtype) == (wanted, torch.int64), (
                f"slots are {tuple(slots.shape)} {slots.dtype}, wanted (B, K) = {wanted} int64"
            )
            ordered = slots.sort(dim=1).values
            assert bool((ordered[:, 1:] != ordered[:, :-1]).all()), (
                "a row names one slot twice, so (user, slot) names no vector; wanted distinct ones"
            )
        assert (slots is not None) == ("slots" in encoder.provides), (
            f"provides {sorted(encoder.provides)}, but slots are "
            f"{'missing from' if slots is None else 'among'} the extras; declare what is returned"
        )
        for name, term in encoder.penalties(extras).items():
            assert term.shape == (), f"penalty {name!r} is {tuple(term.shape)}, wanted a scalar"
            assert_finite(term, f"penalty {name!r}")

    def test_padding_changes_nothing(self, encoder: Encoder, batch: SequenceBatch) -> None:
        """The same rows in a wider batch have the same vectors (to ``tolerance``)."""
        most = encoder.window.max_events
        rows = torch.nonzero(batch.lengths <= (most or batch.width) // 2).flatten()
        narrow = max(int(batch.lengths[rows].max()), 1)
        wide = 2 * narrow if most is None else min(2 * narrow, most)

        first = vectors(encoder, batch.take(rows, narrow))
        second = vectors(encoder, batch.take(rows, wide))

        assert_close(first, second, self.tolerance, f"{wide} instead of {narrow} steps wide")

    def test_row_order_permutes_vectors(self, encoder: Encoder, batch: SequenceBatch) -> None:
        """Users in another order have the same vectors, in that order (to ``tolerance``)."""
        order = _shuffled(len(batch))

        assert_close(
            vectors(encoder, batch)[order],
            vectors(encoder, batch.take(order)),
            self.tolerance,
            "in another row order",
        )

    def test_company_changes_nothing(self, encoder: Encoder, batch: SequenceBatch) -> None:
        """Beside other users, in a batch of the same shape, a vector has the same bits."""
        rows = torch.arange(len(batch))
        some = rows % 2 == 0
        others = torch.where(some, rows, rows.flip(0))

        first = vectors(encoder, batch)[some]
        second = vectors(encoder, batch.take(others))[some]

        assert_bit_equal(first, second, "beside other users in a batch of the same shape")

    def test_subsets_encode_to_the_same_bits(self, encoder: Encoder, world: World) -> None:
        """Through the host's inference: some users alone, in another order, equal all of them."""
        sequences = world.sequences
        users, full = encode(encoder, sequences, world.until)
        rows = _shuffled(len(sequences))[: len(sequences) // 3]

        some, found = encode(encoder, sequences.select(rows), world.until)

        place = pa.compute.index_in(some, value_set=users).to_numpy()
        assert_bit_equal(
            torch.from_numpy(full[place]), torch.from_numpy(found), "encoded in a subset"
        )

    def test_eval_repeats(self, encoder: Encoder, batch: SequenceBatch) -> None:
        """In ``eval()`` nothing is random and nothing changes: weights and buffers stay."""
        before = state_of(encoder)
        torch.manual_seed(1)
        first = vectors(encoder, batch)
        torch.manual_seed(2)
        second = vectors(encoder, batch)

        assert_bit_equal(first, second, "encoded twice in eval()")
        for name, value in state_of(encoder).items():
            assert torch.equal(value, before[name]), f"encoding in eval() changed {name!r}"

    def test_empty_rows_are_finite(self, encoder: Encoder, batch: SequenceBatch) -> None:
        """Rows without events among others, and a batch without any event, are finite."""
        assert bool((batch.lengths == 0).any()), "the world must hold a user without a past"
        nobody = torch.nonzero(batch.lengths == 0).flatten()[:1].repeat(4)

        assert_finite(vectors(encoder, batch), "vectors of a batch with an empty row")
        assert_finite(vectors(encoder, batch.take(nobody)), "vectors of a batch without any event")

    def test_empty_rows_leave_gradients_finite(self, fresh: Trio, past: Sequences) -> None:
        """A softmax over nothing hidden by a mask still poisons gradients: here it shows."""
        encoder = module_of(fresh.encoder)
        batch = past.limit(fresh.encoder.window).histories(past.all_users())
        trained = [p for p in encoder.parameters() if p.requires_grad]
        if not trained:
            return

        encoder.train()
        filled = batch.lengths > 0
        users = fresh.encoder(batch).users
        if not users.requires_grad:
            return
        users[filled].float().square().sum().backward()  # type: ignore[no-untyped-call]

        for name, parameter in encoder.named_parameters():
            if parameter.grad is not None:
                assert_finite(parameter.grad, f"gradient of {name!r} in a batch with an empty row")

    def test_masked_unknown_and_appended_items_are_encoded(
        self, encoder: Encoder, batch: SequenceBatch, past: Sequences
    ) -> None:
        """Codes MASK and UNK, and codes of items appended behind the vocabulary, are finite."""
        assert len(past.items) > past.items.known, "the world's catalogue must hold unseen items"
        cases = {"MASK": MASK, "UNK": UNK, "appended": len(past.items) - 1}
        for name, code in cases.items():
            codes = batch.codes.clone()
            codes[::2] = code
            assert_finite(vectors(encoder, batch.with_codes(codes)), f"vectors with {name} codes")

    def test_every_parameter_gets_a_gradient(self, recipe: Recipe, past: Sequences) -> None:
        """Within a few steps under its own objective; DDP waits for ever for one that gets none."""
        trio = recipe.build(past)
        encoder = module_of(trio.encoder)
        trained = {name for name, p in encoder.named_parameters() if p.requires_grad}
        if trio.objective is None:
            assert not trained, f"nothing trains {sorted(trained)}; register buffers instead"
            return
        if not trio.objective.trains_encoder:
            return
        module = TrioModule(trio.encoder, trio.objective).train()
        for step in range(4):
            module(draw_views(trio, past, step)).total().backward()
        lacking = sorted(
            n for n, p in encoder.named_parameters() if n in trained and p.grad is None
        )

        assert not lacking, f"no gradient reaches {', '.join(lacking)}; use it, or remove it"
        for name, parameter in encoder.named_parameters():
            if parameter.grad is not None:
                assert_finite(parameter.grad, f"gradient of {name!r}")

    def test_state_survives(
        self, recipe: Recipe, trio: Trio, past: Sequences, prepared: Mapping[str, Tensor]
    ) -> None:
        """A fresh encoder with other random numbers and the saved state gives the same vectors."""
        again = recipe.build(past, prepared, seed=99).encoder
        module_of(again).load_state_dict(state_of(trio.encoder), strict=True)
        module_of(again).eval()
        batch = past.limit(trio.encoder.window).histories(past.all_users())

        assert_bit_equal(
            vectors(trio.encoder, batch),
            vectors(again, batch),
            "loaded into a fresh encoder (is something random kept outside the state dict?)",
        )


def _batch_type(column: Tensor) -> torch.dtype:
    return column.dtype if column.is_floating_point() else torch.int64


def _shuffled(rows: int) -> Tensor:
    return torch.randperm(rows, generator=torch.Generator().manual_seed(5))
