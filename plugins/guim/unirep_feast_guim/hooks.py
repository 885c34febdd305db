"""What this distribution offers to the host; torch is imported when something is built."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from unirep_feast import hookimpl
from unirep_feast_guim.config import EncoderSettings, ObjectiveSettings, SamplerSettings

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
    """Offer the model of Fig 1 and its two rivals, GUI-EDI and GUIM-MH."""

    def prepare(
        settings: EncoderSettings, vocabulary: Vocabulary, sequences: Sequences, fit: Fit
    ) -> Mapping[str, Tensor]:
        from unirep_feast.item_vectors import prepare_start
        from unirep_feast_guim.catalogue import fit_catalogue

        start = prepare_start(settings.start, sequences, settings.item_dim)
        return {**fit_catalogue(settings, sequences.items), **start}

    def build(
        settings: EncoderSettings, vocabulary: Vocabulary, prepared: Mapping[str, Tensor]
    ) -> Encoder:
        from unirep_feast_guim.encoder import GuimEncoder

        return GuimEncoder(len(vocabulary), settings, prepared)

    register("guim", build, EncoderSettings, prepare)


@hookimpl
def unirep_register_objectives(register: RegisterObjective) -> None:
    """Offer masked items and user-item matching, both by InfoNCE."""

    def build(settings: ObjectiveSettings, encoder: Encoder) -> Objective:
        from unirep_feast_guim.objective import GuimObjective

        return GuimObjective(encoder.dim, settings)

    register("guim", build, ObjectiveSettings)


@hookimpl
def unirep_register_samplers(register: RegisterSampler) -> None:
    """Offer a history before a time T and what follows it."""

    def build(settings: SamplerSettings) -> Sampler:
        from unirep_feast_guim.sampler import GuimSampler

        return GuimSampler(settings)

    register("guim", build, SamplerSettings)
