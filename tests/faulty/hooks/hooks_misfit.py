"""Main parts that do not fit each other: the objective wants a view that nobody supplies."""

from __future__ import annotations

from unirep_feast import hookimpl
from unirep_feast.testing.toy.hooks import (
    ToyEncoderSettings,
    ToyObjectiveSettings,
    ToySamplerSettings,
)


@hookimpl
def unirep_register_encoders(register: object) -> None:
    def build(settings: ToyEncoderSettings, vocabulary: object, prepared: object) -> object:
        from unirep_feast.testing.toy.parts import ToyEncoder

        return ToyEncoder(len(vocabulary), settings)

    register("bad", build, ToyEncoderSettings)


@hookimpl
def unirep_register_objectives(register: object) -> None:
    def build(settings: ToyObjectiveSettings, encoder: object) -> object:
        from unirep_feast.testing.toy.parts import ToyObjective

        objective = ToyObjective(encoder.dim, settings)
        objective.views = frozenset({"earlier", "later", "labels"})
        return objective

    register("bad", build, ToyObjectiveSettings)


@hookimpl
def unirep_register_samplers(register: object) -> None:
    def build(settings: ToySamplerSettings) -> object:
        from unirep_feast.testing.toy.parts import ToySampler

        return ToySampler(settings)

    register("bad", build, ToySamplerSettings)
