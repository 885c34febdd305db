"""What the lab plugin offers; torch is imported when something is built."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from unirep_feast import hookimpl

UNIREP_API = 1


class Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class EncoderSettings(Settings):
    """A mean of embeddings, with what makes training awkward."""

    dim: int = 8
    vectors: int = 1
    max_events: int | None = 16
    max_days: float | None = None
    dropout: float = 0.0
    batch_norm: bool = False
    unused: bool = False  # a parameter that no objective touches
    penalty: bool = False  # ask for a term over the whole batch
    independent: bool = True  # declared, so that the host may chunk
    slots: bool = False
    ages: bool = False  # a vector changes with the as-of time alone
    fails: Literal["", "shape", "slots", "twice", "nan", "raise", "type"] = ""


class ObjectiveSettings(Settings):
    """A contrast between two views."""

    steps: bool = False  # requires hidden states
    trains_encoder: bool = True
    dropout_in_validation: bool = False
    terms: Literal["", "nan", "none", "vector", "raise", "clash"] = ""
    nan_after: int | None = None  # calls in training


class SamplerSettings(Settings):
    """A history cut in two at a time."""

    min_events: int = 4
    seconds: float = 0.0  # slept per step, so that a test can kill in between
    fails: Literal["", "raise", "view", "units"] = ""


@hookimpl
def unirep_register_encoders(register: Any) -> None:
    def build(settings: EncoderSettings, vocabulary: Any, prepared: Any) -> Any:
        from unirep_feast_lab.parts import LabEncoder

        return LabEncoder(len(vocabulary), settings)

    def build_bare(settings: EncoderSettings, vocabulary: Any, prepared: Any) -> Any:
        from unirep_feast_lab.parts import BareEncoder

        return BareEncoder(len(vocabulary), settings)

    def prepare(settings: EncoderSettings, vocabulary: Any, sequences: Any, fit: Any) -> Any:
        from unirep_feast_lab.parts import prepare

        return prepare(settings, vocabulary, sequences, fit)

    def build_prepared(settings: EncoderSettings, vocabulary: Any, prepared: Any) -> Any:
        from unirep_feast_lab.parts import PreparedEncoder

        return PreparedEncoder(len(vocabulary), settings, prepared)

    register("lab", build, EncoderSettings)
    register("lab.bare", build_bare, EncoderSettings)
    register("lab.prepared", build_prepared, EncoderSettings, prepare)


@hookimpl
def unirep_register_objectives(register: Any) -> None:
    def build(settings: ObjectiveSettings, encoder: Any) -> Any:
        from unirep_feast_lab.parts import LabObjective

        return LabObjective(encoder.num_vectors * encoder.dim, settings)

    def build_other(settings: ObjectiveSettings, encoder: Any) -> Any:
        from unirep_feast_lab.parts import OtherObjective

        return OtherObjective(encoder.num_vectors * encoder.dim, settings)

    register("lab", build, ObjectiveSettings)
    register("lab.other", build_other, ObjectiveSettings)


@hookimpl
def unirep_register_samplers(register: Any) -> None:
    def build(settings: SamplerSettings) -> Any:
        from unirep_feast_lab.parts import LabSampler

        return LabSampler(settings)

    register("lab", build, SamplerSettings)
