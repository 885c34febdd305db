"""What this distribution offers to the host; torch is imported when something is built."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from unirep_feast import hookimpl
from unirep_feast_icl.config import (
    BehaviorSettings,
    CapsuleSettings,
    EncoderSettings,
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
    """Offer the interest dictionary and its rival, dynamic routing."""

    def prepare(
        settings: BehaviorSettings, vocabulary: Vocabulary, sequences: Sequences, fit: Fit
    ) -> Mapping[str, Tensor]:
        from unirep_feast.item_vectors import prepare_start
        from unirep_feast_icl.behaviors import prepare_behaviors

        start = prepare_start(settings.start, sequences, settings.dim)
        return {**prepare_behaviors(settings, sequences.items), **start}

    def dictionary(
        settings: EncoderSettings, vocabulary: Vocabulary, prepared: Mapping[str, Tensor]
    ) -> Encoder:
        from unirep_feast_icl.encoder import IclEncoder

        return IclEncoder(len(vocabulary), settings, prepared)

    def capsule(
        settings: CapsuleSettings, vocabulary: Vocabulary, prepared: Mapping[str, Tensor]
    ) -> Encoder:
        from unirep_feast_icl.capsule import CapsuleEncoder

        return CapsuleEncoder(len(vocabulary), settings, prepared)

    register("icl", dictionary, EncoderSettings, prepare)
    register("icl.capsule", capsule, CapsuleSettings, prepare)


@hookimpl
def unirep_register_objectives(register: RegisterObjective) -> None:
    """Offer interest-oriented contrastive learning."""

    def contrast(settings: ObjectiveSettings, encoder: Encoder) -> Objective:
        from unirep_feast_icl.objective import IclObjective

        return IclObjective(encoder.num_vectors, encoder.dim, settings)

    register("icl", contrast, ObjectiveSettings)


@hookimpl
def unirep_register_samplers(register: RegisterSampler) -> None:
    """Offer history and future of a user."""

    def periods(settings: SamplerSettings) -> Sampler:
        from unirep_feast_icl.sampler import IclSampler

        return IclSampler(settings)

    register("icl", periods, SamplerSettings)
