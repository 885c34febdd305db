"""What this distribution offers to the host; torch is imported when something is built."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from unirep_feast import hookimpl
from unirep_feast_userbert.config import (
    ClickSettings,
    EncoderSettings,
    ImpressionsSettings,
    ListsSettings,
    NewsSettings,
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
    """Offer the composable user model."""

    def prepare(
        settings: EncoderSettings, vocabulary: Vocabulary, sequences: Sequences, fit: Fit
    ) -> Mapping[str, Tensor]:
        from unirep_feast.item_vectors import prepare_start
        from unirep_feast_userbert.behaviors import prepare_behaviors

        start = prepare_start(settings.start, sequences, settings.dim)
        return {**prepare_behaviors(settings, sequences.items), **start}

    def build(
        settings: EncoderSettings, vocabulary: Vocabulary, prepared: Mapping[str, Tensor]
    ) -> Encoder:
        from unirep_feast_userbert.encoder import UserBertEncoder

        return UserBertEncoder(len(vocabulary), settings, prepared)

    register("userbert", build, EncoderSettings, prepare)


@hookimpl
def unirep_register_objectives(register: RegisterObjective) -> None:
    """Offer pre-training, and fine-tuning on clicks and on lists."""

    def pretrain(settings: ObjectiveSettings, encoder: Encoder) -> Objective:
        from unirep_feast_userbert.objective import UserBertObjective

        return UserBertObjective(encoder.num_vectors * encoder.dim, settings)

    def click(settings: ClickSettings, encoder: Encoder) -> Objective:
        from unirep_feast_userbert.ctr import ClickObjective

        return ClickObjective(settings)

    def news(settings: NewsSettings, encoder: Encoder) -> Objective:
        from unirep_feast_userbert.news import NewsObjective

        return NewsObjective(settings)

    register("userbert", pretrain, ObjectiveSettings)
    register("userbert.ctr", click, ClickSettings)
    register("userbert.news", news, NewsSettings)


@hookimpl
def unirep_register_samplers(register: RegisterSampler) -> None:
    """Offer the views of pre-training, impressions, and lists of them."""

    def pretrain(settings: SamplerSettings) -> Sampler:
        from unirep_feast_userbert.sampler import UserBertSampler

        return UserBertSampler(settings)

    def impressions(settings: ImpressionsSettings) -> Sampler:
        from unirep_feast_userbert.impressions import ImpressionsSampler

        return ImpressionsSampler(settings)

    def lists(settings: ListsSettings) -> Sampler:
        from unirep_feast_userbert.lists import ListsSampler

        return ListsSampler(settings)

    register("userbert", pretrain, SamplerSettings)
    register("userbert.ctr", impressions, ImpressionsSettings)
    register("userbert.news", lists, ListsSettings)
