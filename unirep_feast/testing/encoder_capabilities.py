"""Checks of capabilities: what is declared is true, what is not declared is not required."""

from __future__ import annotations

import pyarrow as pa
import torch
from torch import nn

from unirep_feast.batch import FIRST_ITEM, SequenceBatch, bucket_width
from unirep_feast.encoder import Encoded, Encoder
from unirep_feast.sequences import ItemTable, Sequences
from unirep_feast.testing.checks import EncoderFixtures
from unirep_feast.testing.comparing import assert_bit_equal, assert_close, assert_finite
from unirep_feast.testing.recipe import module_of, vectors


class EncoderCapabilityChecks(EncoderFixtures):
    """``steps``, ``items`` and ``batch_independent`` are what they say."""

    def test_steps_are_as_declared(self, encoder: Encoder, batch: SequenceBatch) -> None:
        """``steps``: one finite (D,) hidden state per event, the same user vectors beside them."""
        if "steps" not in encoder.provides:
            return
        with torch.inference_mode():
            encoded: Encoded = encoder(batch, steps=True)
        wanted = (batch.codes.shape[0], encoder.dim)
        assert encoded.steps is not None, "declares steps, returns None"
        assert tuple(encoded.steps.shape) == wanted, (
            f"steps are {tuple(encoded.steps.shape)}, wanted (N, D) = {wanted}"
        )
        assert_finite(encoded.steps, "steps")
        assert_close(encoded.users, vectors(encoder, batch), self.tolerance, "with steps asked for")

    def test_items_are_as_declared(self, encoder: Encoder, past: Sequences) -> None:
        """``items``: (n, D) finite vectors, of appended items too; known ones never change."""
        if "items" not in encoder.provides:
            return
        with torch.inference_mode():
            before = encoder.embed_items(torch.arange(FIRST_ITEM, past.items.known))
            encoder.bind(_grown(past.items))
            codes = torch.arange(FIRST_ITEM, len(past.items) + 2)
            after = encoder.embed_items(codes)
            some = encoder.embed_items(codes[1::2])

        wanted = (len(codes), encoder.dim)
        assert tuple(after.shape) == wanted, (
            f"item vectors are {tuple(after.shape)}, wanted (n, D) = {wanted}"
        )
        assert_finite(after, "item vectors")
        assert_close(before, after[: len(before)], 0, "of known items after the catalogue grew")
        assert_close(some, after[1::2], self.tolerance, "of items asked for in another selection")

    def test_a_growing_catalogue_changes_no_vector(
        self, encoder: Encoder, batch: SequenceBatch, past: Sequences
    ) -> None:
        """Binding a catalogue with more items leaves vectors of known histories bit-equal."""
        before = vectors(encoder, batch)
        encoder.bind(_grown(past.items))

        assert_bit_equal(before, vectors(encoder, batch), "after the catalogue grew")

    def test_chunks_equal_the_batch(self, encoder: Encoder, batch: SequenceBatch) -> None:
        """``batch_independent``: pieces of a batch give what the whole gives, in training too."""
        if "batch_independent" not in encoder.provides:
            return
        module = module_of(encoder)
        try:
            self._compare_chunks(encoder, batch, "in eval()")
            module.train()
            _still(module)
            if _deterministic(encoder, batch):
                self._compare_chunks(encoder, batch, "in train(), dropout off")
            else:
                normed = [n for n, m in module.named_modules() if _normalises_batches(m)]
                assert not normed, f"declares batch_independent, but {normed} mix the batch's rows"
        finally:
            module.eval()

    def _compare_chunks(self, encoder: Encoder, batch: SequenceBatch, when: str) -> None:
        """Compare three length-sorted chunks, each as wide as it must be, with the whole."""
        order = torch.argsort(batch.lengths, stable=True)
        pieces = []
        with torch.no_grad():
            whole = encoder(batch).users[order]
            for chunk in torch.tensor_split(order, 3):
                width = bucket_width(int(batch.lengths[chunk].max()), batch.width)
                pieces.append(encoder(batch.take(chunk, width)).users)
        assert_close(whole, torch.cat(pieces), self.tolerance, f"run in chunks {when}")


def _grown(items: ItemTable) -> ItemTable:
    """The catalogue with two more items, as after a later read of the item table."""
    last = items.item_ids[-1].as_py()
    more = pa.array(
        [last + "x", last + "y"] if isinstance(last, str) else [last + 1001, last + 1002],
        items.item_ids.type,
    )
    titles = pa.array(["new lamp", None], items.titles.type)
    categories = pa.array([["category 0"], None], items.categories.type)
    return ItemTable(
        pa.concat_arrays([items.item_ids, more]),
        pa.concat_arrays([items.titles, titles]),
        pa.concat_arrays([items.categories, categories]),
        items.known,
    )


def _still(module: nn.Module) -> None:
    """Put everything that is called dropout into ``eval()``."""
    for part in module.modules():
        if "dropout" in type(part).__name__.lower():
            part.eval()


def _deterministic(encoder: Encoder, batch: SequenceBatch) -> bool:
    found = []
    with torch.no_grad(), torch.random.fork_rng([]):
        for seed in (1, 2):
            torch.manual_seed(seed)
            found.append(encoder(batch).users)
    return torch.equal(*found)


def _normalises_batches(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.batchnorm._BatchNorm)
