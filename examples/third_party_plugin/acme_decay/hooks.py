"""What the plugin offers; torch is imported only when something is built."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from acme_decay.config import EncoderSettings, ObjectiveSettings, SamplerSettings
from unirep_feast import hookimpl

if TYPE_CHECKING:
    from torch import Tensor

    from unirep_feast.encoder import Encoder
    from unirep_feast.hookspecs import RegisterEncoder, RegisterObjective, RegisterSampler
    from unirep_feast.objective import Objective
    from unirep_feast.sampler import Sampler
    from unirep_feast.sequences import Vocabulary

UNIREP_API = 1


@hookimpl
def unirep_register_encoders(register: RegisterEncoder) -> None:
    """Offer the decayed sums."""

    def build(
        settings: EncoderSettings, vocabulary: Vocabulary, prepared: Mapping[str, Tensor]
    ) -> Encoder:
        from acme_decay.encoder import DecayEncoder

        return DecayEncoder(len(vocabulary), settings)

    register("decay", build, EncoderSettings)


@hookimpl
def unirep_register_objectives(register: RegisterObjective) -> None:
    """Offer the next days' items."""

    def build(settings: ObjectiveSettings, encoder: Encoder) -> Objective:
        from acme_decay.objective import NextDays

        return NextDays(settings)

    register("decay", build, ObjectiveSettings)


@hookimpl
def unirep_register_samplers(register: RegisterSampler) -> None:
    """Offer the moment and the days behind it."""

    def build(settings: SamplerSettings) -> Sampler:
        from acme_decay.sampler import MomentSampler

        return MomentSampler(settings)

    register("decay", build, SamplerSettings)
