"""What this distribution offers to the host; torch is imported when something is built."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from unirep_feast import hookimpl
from unirep_feast_clue.config import (
    ClassifySettings,
    EncoderSettings,
    LabelsSettings,
    NextItemLossSettings,
    NextItemSettings,
    ObjectiveSettings,
    SamplerSettings,
)

if TYPE_CHECKING:
    from torch import Tensor

    from unirep_feast.encoder import Encoder
    from unirep_feast.hookspecs import Fit, RegisterEncoder, RegisterObjective, RegisterSampler
    from unirep_feast.objective import Objective
    from unirep_feast.sampler import Sampler
    from unirep_feast.sequences import Sequences, Vocabulary

#: The plugin API this distribution was written for.
UNIREP_API = 1


@hookimpl
def unirep_register_encoders(register: RegisterEncoder) -> None:
    """Offer the backbone."""

    def prepare(
        settings: EncoderSettings, vocabulary: Vocabulary, sequences: Sequences, fit: Fit
    ) -> Mapping[str, Tensor]:
        from unirep_feast.item_vectors import prepare_start

        return prepare_start(settings.start, sequences, settings.dim)

    def build(
        settings: EncoderSettings, vocabulary: Vocabulary, prepared: Mapping[str, Tensor]
    ) -> Encoder:
        from unirep_feast_clue.encoder import ClueEncoder

        return ClueEncoder(len(vocabulary), settings, prepared)

    register("clue", build, EncoderSettings, prepare)


@hookimpl
def unirep_register_objectives(register: RegisterObjective) -> None:
    """Offer pre-training and the two ways to fine-tune."""

    def contrast(settings: ObjectiveSettings, encoder: Encoder) -> Objective:
        from unirep_feast_clue.objective import ClueObjective

        return ClueObjective(encoder.num_vectors * encoder.dim, settings)

    def classify(settings: ClassifySettings, encoder: Encoder) -> Objective:
        from unirep_feast_clue.classify import ClassifyObjective

        return ClassifyObjective(encoder.num_vectors * encoder.dim, settings)

    def next_item(settings: NextItemLossSettings, encoder: Encoder) -> Objective:
        from unirep_feast_clue.next_item import NextItemObjective

        return NextItemObjective(settings)

    register("clue", contrast, ObjectiveSettings)
    register("clue.classify", classify, ClassifySettings)
    register("clue.next_item", next_item, NextItemLossSettings)


@hookimpl
def unirep_register_samplers(register: RegisterSampler) -> None:
    """Offer the views of pre-training, label rows, and next items."""

    def contrast(settings: SamplerSettings) -> Sampler:
        from unirep_feast_clue.sampler import ClueSampler

        return ClueSampler(settings)

    def labels(settings: LabelsSettings) -> Sampler:
        from unirep_feast_clue.labels import LabelsSampler

        return LabelsSampler(settings)

    def next_item(settings: NextItemSettings) -> Sampler:
        from unirep_feast_clue.leave_one_out import NextItemSampler

        return NextItemSampler(settings)

    register("clue", contrast, SamplerSettings)
    register("clue.labels", labels, LabelsSettings)
    register("clue.next_item", next_item, NextItemSettings)
