"""What this distribution offers to the host; torch is imported when something is built."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from unirep_feast import hookimpl
from unirep_feast_lurm.config import (
    BagSettings,
    EncoderSettings,
    InterestSettings,
    ItemSettings,
    ObjectiveSettings,
    PairObjectiveSettings,
    PairSettings,
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
    """Offer the multi-anchor network, the bag of interests alone, and the item encoder."""

    def interests(
        settings: InterestSettings, vocabulary: Vocabulary, sequences: Sequences, fit: Fit
    ) -> Mapping[str, Tensor]:
        from unirep_feast_lurm.interests import prepare_interests

        return prepare_interests(settings, sequences, fit)

    def words(
        settings: ItemSettings, vocabulary: Vocabulary, sequences: Sequences, fit: Fit
    ) -> Mapping[str, Tensor]:
        from unirep_feast_lurm.interests import prepare_untrained

        return prepare_untrained(settings, sequences)

    def network(
        settings: EncoderSettings, vocabulary: Vocabulary, prepared: Mapping[str, Tensor]
    ) -> Encoder:
        from unirep_feast_lurm.encoder import LurmEncoder

        return LurmEncoder(len(vocabulary), settings, prepared)

    def bag(
        settings: BagSettings, vocabulary: Vocabulary, prepared: Mapping[str, Tensor]
    ) -> Encoder:
        from unirep_feast_lurm.encoder import BagEncoder

        return BagEncoder(len(vocabulary), settings, prepared)

    def items(
        settings: ItemSettings, vocabulary: Vocabulary, prepared: Mapping[str, Tensor]
    ) -> Encoder:
        from unirep_feast_lurm.items import ItemEncoder

        return ItemEncoder(len(vocabulary), settings, prepared)

    register("lurm", network, EncoderSettings, interests)
    register("lurm.boi", bag, BagSettings, interests)
    register("lurm.items", items, ItemSettings, words)


@hookimpl
def unirep_register_objectives(register: RegisterObjective) -> None:
    """Offer the contrast of users and that of items."""

    def users(settings: ObjectiveSettings, encoder: Encoder) -> Objective:
        from unirep_feast_lurm.objective import LurmObjective

        return LurmObjective(encoder.num_vectors, encoder.dim, settings)

    def pairs(settings: PairObjectiveSettings, encoder: Encoder) -> Objective:
        from unirep_feast_lurm.pairs import PairObjective

        return PairObjective(settings)

    register("lurm", users, ObjectiveSettings)
    register("lurm.items", pairs, PairObjectiveSettings)


@hookimpl
def unirep_register_samplers(register: RegisterSampler) -> None:
    """Offer pieces of lifetimes and pairs of items."""

    def pieces(settings: SamplerSettings) -> Sampler:
        from unirep_feast_lurm.sampler import LurmSampler

        return LurmSampler(settings)

    def pairs(settings: PairSettings) -> Sampler:
        from unirep_feast_lurm.pairs import PairSampler

        return PairSampler(settings)

    register("lurm", pieces, SamplerSettings)
    register("lurm.items", pairs, PairSettings)
