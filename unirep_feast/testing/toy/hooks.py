"""What the toy plugin offers; torch is imported when something is built."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import EntryPoint
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

from unirep_feast import hookimpl

if TYPE_CHECKING:
    from torch import Tensor

    from unirep_feast.encoder import Encoder
    from unirep_feast.hookspecs import RegisterEncoder, RegisterObjective, RegisterSampler
    from unirep_feast.objective import Objective
    from unirep_feast.sampler import Sampler
    from unirep_feast.sequences import Vocabulary

UNIREP_API = 1

#: The toy is not installed; this stands for its entry point.
ENTRY_POINT = EntryPoint("toy", "unirep_feast.testing.toy.hooks", "unirep_feast")


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ToyEncoderSettings(_Settings):
    """The mean of a history's item embeddings, turned once."""

    dim: int = Field(8, ge=1, description="numbers per user vector")
    max_events: int | None = Field(32, ge=1, description="latest events that are looked at")


class ToyObjectiveSettings(_Settings):
    """Tell whose earlier and later events belong together."""

    temperature: float = Field(0.2, gt=0, description="of the softmax over the batch")


class ToySamplerSettings(_Settings):
    """Cut every history in two at a random time."""

    min_events: int = Field(2, ge=2, description="events a user needs")


@hookimpl
def unirep_register_encoders(register: RegisterEncoder) -> None:
    """Offer the mean of embeddings."""

    def build(
        settings: ToyEncoderSettings, vocabulary: Vocabulary, prepared: Mapping[str, Tensor]
    ) -> Encoder:
        from unirep_feast.testing.toy.parts import ToyEncoder

        return ToyEncoder(len(vocabulary), settings)

    register("toy", build, ToyEncoderSettings)


@hookimpl
def unirep_register_objectives(register: RegisterObjective) -> None:
    """Offer the contrast."""

    def build(settings: ToyObjectiveSettings, encoder: Encoder) -> Objective:
        from unirep_feast.testing.toy.parts import ToyObjective

        return ToyObjective(encoder.num_vectors * encoder.dim, settings)

    register("toy", build, ToyObjectiveSettings)


@hookimpl
def unirep_register_samplers(register: RegisterSampler) -> None:
    """Offer the cut."""

    def build(settings: ToySamplerSettings) -> Sampler:
        from unirep_feast.testing.toy.parts import ToySampler

        return ToySampler(settings)

    register("toy", build, ToySamplerSettings)
