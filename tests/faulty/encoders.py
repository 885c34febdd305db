"""Encoders that each break one promise; the kit must fail them. Run by test_testing_kit.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from unirep_feast.batch import SequenceBatch
from unirep_feast.encoder import Encoded
from unirep_feast.instants import MICROSECONDS_PER_DAY
from unirep_feast.items import ItemTable
from unirep_feast.sequences import Sequences
from unirep_feast.testing import EncoderTests, Recipe
from unirep_feast.testing.toy.hooks import (
    ToyEncoderSettings,
    ToyObjectiveSettings,
    ToySamplerSettings,
)
from unirep_feast.testing.toy.parts import ToyEncoder, ToyObjective, ToySampler


def with_encoder(kind: type[ToyEncoder], **settings: int) -> Recipe:
    return Recipe(
        lambda sequences, prepared: kind(len(sequences.vocabulary), ToyEncoderSettings(**settings)),
        lambda encoder: ToyObjective(encoder.num_vectors * encoder.dim, ToyObjectiveSettings()),
        lambda: ToySampler(ToySamplerSettings()),
    )


def moved(encoded: Encoded, change: Tensor) -> Encoded:
    return replace(encoded, users=encoded.users + change)


class _PaddingDependent(ToyEncoder):
    def forward(self, batch: SequenceBatch, *, steps: bool = False) -> Encoded:
        users = self.turn(self.embed_items(batch.pad(batch.codes)).mean(1))
        return Encoded(users[:, None], super().forward(batch, steps=steps).steps)


class TestPaddingDependent(EncoderTests):
    @pytest.fixture
    def recipe(self) -> Recipe:
        return with_encoder(_PaddingDependent)


class _MateDependent(ToyEncoder):
    def forward(self, batch: SequenceBatch, *, steps: bool = False) -> Encoded:
        encoded = super().forward(batch, steps=steps)
        return moved(encoded, -encoded.users.mean(0))


class TestMateDependent(EncoderTests):
    @pytest.fixture
    def recipe(self) -> Recipe:
        return with_encoder(_MateDependent)


class _RowDependent(ToyEncoder):
    """A vector depends on the row's place in the batch."""

    def forward(self, batch: SequenceBatch, *, steps: bool = False) -> Encoded:
        place = torch.arange(len(batch))[:, None, None]
        return moved(super().forward(batch, steps=steps), place * 1e-3)


class TestRowDependent(EncoderTests):
    @pytest.fixture
    def recipe(self) -> Recipe:
        return with_encoder(_RowDependent)


class _RandomInEval(ToyEncoder):
    def forward(self, batch: SequenceBatch, *, steps: bool = False) -> Encoded:
        encoded = super().forward(batch, steps=steps)
        return moved(encoded, 1e-6 * torch.randn_like(encoded.users))


class TestRandomInEval(EncoderTests):
    @pytest.fixture
    def recipe(self) -> Recipe:
        return with_encoder(_RandomInEval)


class _ChangesInEval(ToyEncoder):
    """A running statistic is updated in ``eval()``, too."""

    def __init__(self, codes: int, settings: ToyEncoderSettings) -> None:
        super().__init__(codes, settings)
        self.register_buffer("batches", torch.zeros(()))

    def forward(self, batch: SequenceBatch, *, steps: bool = False) -> Encoded:
        self.batches += 1
        return super().forward(batch, steps=steps)


class TestChangesInEval(EncoderTests):
    @pytest.fixture
    def recipe(self) -> Recipe:
        return with_encoder(_ChangesInEval)


class _NotANumber(ToyEncoder):
    """Zero divided by zero events."""

    def forward(self, batch: SequenceBatch, *, steps: bool = False) -> Encoded:
        items = self.embed_items(batch.pad(batch.codes))
        users = self.turn(items.sum(1) / batch.lengths[:, None])
        return Encoded(users[:, None], super().forward(batch, steps=steps).steps)


class TestNotANumber(EncoderTests):
    @pytest.fixture
    def recipe(self) -> Recipe:
        return with_encoder(_NotANumber)


class _HiddenNotANumber(ToyEncoder):
    """A softmax over nothing, hidden behind a mask: finite forward, NaN gradients."""

    def __init__(self, codes: int, settings: ToyEncoderSettings) -> None:
        super().__init__(codes, settings)
        self.score = nn.Linear(self.dim, 1)

    def forward(self, batch: SequenceBatch, *, steps: bool = False) -> Encoded:
        items = self.embed_items(batch.pad(batch.codes))
        weights = self.score(items).masked_fill(~batch.mask[..., None], -torch.inf).softmax(1)
        pooled = self.turn((weights * items).sum(1))
        users = torch.where((batch.lengths == 0)[:, None], 0.0, pooled)
        return Encoded(users[:, None], super().forward(batch, steps=steps).steps)


class TestHiddenNotANumber(EncoderTests):
    @pytest.fixture
    def recipe(self) -> Recipe:
        return with_encoder(_HiddenNotANumber)


class _WrongShape(ToyEncoder):
    def forward(self, batch: SequenceBatch, *, steps: bool = False) -> Encoded:
        encoded = super().forward(batch, steps=steps)
        return replace(encoded, users=encoded.users[:, 0])


class TestWrongShape(EncoderTests):
    @pytest.fixture
    def recipe(self) -> Recipe:
        return with_encoder(_WrongShape)


class _NoDeclaration(ToyEncoder):
    window = None

    def __init__(self, codes: int, settings: ToyEncoderSettings) -> None:
        super().__init__(codes, settings)
        self.num_vectors = 0


class TestNoDeclaration(EncoderTests):
    @pytest.fixture
    def recipe(self) -> Recipe:
        return with_encoder(_NoDeclaration)


class _UnusedParameter(ToyEncoder):
    def __init__(self, codes: int, settings: ToyEncoderSettings) -> None:
        super().__init__(codes, settings)
        self.forgotten = nn.Parameter(torch.zeros(3))


class TestUnusedParameter(EncoderTests):
    @pytest.fixture
    def recipe(self) -> Recipe:
        return with_encoder(_UnusedParameter)


class _StateNotSaved(ToyEncoder):
    """A random projection outside the state dict: gone when the checkpoint is loaded."""

    def __init__(self, codes: int, settings: ToyEncoderSettings) -> None:
        super().__init__(codes, settings)
        self.projection = torch.randn(self.dim, self.dim)

    def forward(self, batch: SequenceBatch, *, steps: bool = False) -> Encoded:
        encoded = super().forward(batch, steps=steps)
        return replace(encoded, users=encoded.users @ self.projection)


class TestStateNotSaved(EncoderTests):
    @pytest.fixture
    def recipe(self) -> Recipe:
        return with_encoder(_StateNotSaved)


# -- time -----------------------------------------------------------------------------------------


class _Prepared(ToyEncoder):
    def __init__(self, codes: int, settings: ToyEncoderSettings, weight: Tensor) -> None:
        super().__init__(codes, settings)
        self.register_buffer("weight", weight)

    def forward(self, batch: SequenceBatch, *, steps: bool = False) -> Encoded:
        return moved(super().forward(batch, steps=steps), self.weight.mean())


class TestPeeksInPrepare(EncoderTests):
    """Popularity counted over the shared columns, which hold the future, too."""

    @pytest.fixture
    def recipe(self) -> Recipe:
        def prepare(sequences: Sequences) -> Mapping[str, Tensor]:
            return {"weight": torch.bincount(sequences.codes, minlength=100)[:100].float()}

        toy = with_encoder(ToyEncoder)
        return Recipe(
            lambda sequences, prepared: _Prepared(
                len(sequences.vocabulary), ToyEncoderSettings(), prepared["weight"]
            ),
            toy.objective,
            toy.sampler,
            prepare,
        )


class _RemembersRows(ToyEncoder):
    """A parameter per user row: later users shift the rows of earlier ones."""

    def __init__(self, codes: int, settings: ToyEncoderSettings) -> None:
        super().__init__(codes, settings)
        self.rows = nn.Embedding(1000, self.dim)

    def forward(self, batch: SequenceBatch, *, steps: bool = False) -> Encoded:
        return moved(super().forward(batch, steps=steps), self.rows(batch.users + 1)[:, None])


class TestRemembersRows(EncoderTests):
    @pytest.fixture
    def recipe(self) -> Recipe:
        return with_encoder(_RemembersRows)


class _CountsCatalogue(ToyEncoder):
    """Vectors move when the catalogue grows."""

    def bind(self, items: ItemTable) -> None:
        self.size = len(items)

    def forward(self, batch: SequenceBatch, *, steps: bool = False) -> Encoded:
        return moved(super().forward(batch, steps=steps), torch.tensor(self.size / 1000))


class TestCountsCatalogue(EncoderTests):
    @pytest.fixture
    def recipe(self) -> Recipe:
        return with_encoder(_CountsCatalogue)


class _AgesSilently(ToyEncoder):
    """Uses the as-of time and declares that it does not."""

    def forward(self, batch: SequenceBatch, *, steps: bool = False) -> Encoded:
        age = (batch.as_of % (1000 * MICROSECONDS_PER_DAY)).double() / MICROSECONDS_PER_DAY / 1000
        return moved(super().forward(batch, steps=steps), age.float()[:, None, None])


class TestAgesSilently(EncoderTests):
    @pytest.fixture
    def recipe(self) -> Recipe:
        return with_encoder(_AgesSilently)


# -- capabilities and codes -----------------------------------------------------------------------


class _NoSteps(ToyEncoder):
    def forward(self, batch: SequenceBatch, *, steps: bool = False) -> Encoded:
        return super().forward(batch)


class TestNoSteps(EncoderTests):
    @pytest.fixture
    def recipe(self) -> Recipe:
        return with_encoder(_NoSteps)


class _PaddedSteps(ToyEncoder):
    def forward(self, batch: SequenceBatch, *, steps: bool = False) -> Encoded:
        encoded = super().forward(batch, steps=steps)
        return (
            encoded if encoded.steps is None else replace(encoded, steps=batch.pad(encoded.steps))
        )


class TestPaddedSteps(EncoderTests):
    @pytest.fixture
    def recipe(self) -> Recipe:
        return with_encoder(_PaddedSteps)


class _NoItems(ToyEncoder):
    def forward(self, batch: SequenceBatch, *, steps: bool = False) -> Encoded:
        items = ToyEncoder.embed_items(self, batch.pad(batch.codes))
        return Encoded(self.turn(items.sum(1))[:, None], batch.unpad(items) if steps else None)

    def embed_items(self, codes: Tensor) -> Tensor:
        raise NotImplementedError


class TestNoItems(EncoderTests):
    @pytest.fixture
    def recipe(self) -> Recipe:
        return with_encoder(_NoItems)


class _NormalisesBatches(ToyEncoder):
    """Batch norm mixes rows in training, yet ``batch_independent`` is declared."""

    def __init__(self, codes: int, settings: ToyEncoderSettings) -> None:
        super().__init__(codes, settings)
        self.norm = nn.BatchNorm1d(self.dim)

    def forward(self, batch: SequenceBatch, *, steps: bool = False) -> Encoded:
        encoded = super().forward(batch, steps=steps)
        return replace(encoded, users=self.norm(encoded.users[:, 0])[:, None])


class TestNormalisesBatches(EncoderTests):
    @pytest.fixture
    def recipe(self) -> Recipe:
        return with_encoder(_NormalisesBatches)


class _NormalisesAndDrops(_NormalisesBatches):
    """The same behind functional dropout, which cannot be switched off."""

    def forward(self, batch: SequenceBatch, *, steps: bool = False) -> Encoded:
        encoded = super().forward(batch, steps=steps)
        return replace(encoded, users=nn.functional.dropout(encoded.users, 0.5, self.training))


class TestNormalisesAndDrops(EncoderTests):
    @pytest.fixture
    def recipe(self) -> Recipe:
        return with_encoder(_NormalisesAndDrops)


class _InventsCapabilities(ToyEncoder):
    provides = frozenset({"steps", "telepathy"})


class TestInventsCapabilities(EncoderTests):
    @pytest.fixture
    def recipe(self) -> Recipe:
        return with_encoder(_InventsCapabilities)


class _FewPositions(ToyEncoder):
    """One position less than the window has events."""

    def __init__(self, codes: int, settings: ToyEncoderSettings) -> None:
        super().__init__(codes, settings)
        self.positions = nn.Embedding(settings.max_events - 1, self.dim)

    def forward(self, batch: SequenceBatch, *, steps: bool = False) -> Encoded:
        latest = self.positions((batch.lengths - 1).clamp(min=0))
        return moved(super().forward(batch, steps=steps), latest[:, None])


class TestFewPositions(EncoderTests):
    @pytest.fixture
    def recipe(self) -> Recipe:
        return with_encoder(_FewPositions)


class _KnownCodesOnly(ToyEncoder):
    """An index error as soon as an item was appended behind the vocabulary."""

    def embed_items(self, codes: Tensor) -> Tensor:
        return self.items(codes)


class TestKnownCodesOnly(EncoderTests):
    @pytest.fixture
    def recipe(self) -> Recipe:
        return with_encoder(_KnownCodesOnly)


class _NeedsEvents(ToyEncoder):
    """Fails on a batch without any event."""

    def forward(self, batch: SequenceBatch, *, steps: bool = False) -> Encoded:
        newest = batch.times.max()
        assert newest > 0
        return super().forward(batch, steps=steps)


class TestNeedsEvents(EncoderTests):
    @pytest.fixture
    def recipe(self) -> Recipe:
        return with_encoder(_NeedsEvents)


class _LooseExtras(ToyEncoder):
    def forward(self, batch: SequenceBatch, *, steps: bool = False) -> Encoded:
        encoded = super().forward(batch, steps=steps)
        return replace(encoded, extras={"slots": torch.zeros(len(batch), 7)})


class _HiddenSlots(ToyEncoder):
    def forward(self, batch: SequenceBatch, *, steps: bool = False) -> Encoded:
        encoded = super().forward(batch, steps=steps)
        return replace(encoded, extras={"slots": torch.zeros(len(batch), 1, dtype=torch.int64)})


class TestHiddenSlots(EncoderTests):
    @pytest.fixture
    def recipe(self) -> Recipe:
        return with_encoder(_HiddenSlots)


class _SlotTwice(ToyEncoder):
    num_vectors = 2
    provides = frozenset({"slots", "batch_independent"})

    def __init__(self, codes: int, settings: ToyEncoderSettings) -> None:
        super().__init__(codes, settings)
        self.dim = settings.dim // 2

    def forward(self, batch: SequenceBatch, *, steps: bool = False) -> Encoded:
        users = super().forward(batch).users.reshape(len(batch), 2, self.dim)
        return Encoded(users, None, {"slots": torch.ones(len(batch), 2, dtype=torch.int64)})


class TestSlotTwice(EncoderTests):
    @pytest.fixture
    def recipe(self) -> Recipe:
        return with_encoder(_SlotTwice)


class TestLooseExtras(EncoderTests):
    @pytest.fixture
    def recipe(self) -> Recipe:
        return with_encoder(_LooseExtras)


# -- overriding -----------------------------------------------------------------------------------


class TestOverridesSilently(EncoderTests):
    @pytest.fixture
    def recipe(self) -> Recipe:
        return with_encoder(ToyEncoder)

    def test_padding_changes_nothing(self) -> None:
        """Says nothing."""


class TestRemovesSilently(EncoderTests):
    test_padding_changes_nothing = None

    @pytest.fixture
    def recipe(self) -> Recipe:
        return with_encoder(ToyEncoder)


class TestExcusesWithoutReason(EncoderTests):
    @pytest.fixture
    def recipe(self) -> Recipe:
        return with_encoder(_PaddingDependent)

    @pytest.mark.xfail
    def test_padding_changes_nothing(self) -> None:
        raise AssertionError


class TestExcusesWithReason(EncoderTests):
    @pytest.fixture
    def recipe(self) -> Recipe:
        return with_encoder(_PaddingDependent)

    @pytest.mark.xfail(reason="the mean over steps is what is being shown")
    def test_padding_changes_nothing(self, encoder: ToyEncoder, batch: SequenceBatch) -> None:
        super().test_padding_changes_nothing(encoder, batch)


class TestForgetsTheRecipe(EncoderTests):
    """Supplies nothing at all."""
