"""Settings of the LURM parts; the defaults are the paper's (section 4.4)."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from unirep_feast.text import TextSettings

#: Granularities of absolute UTC calendar periods.
Scale = Literal["month", "season", "year"]

#: Months in a period of each scale.
MONTHS: dict[Scale, int] = {"month": 1, "season": 3, "year": 12}


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ItemSettings(_Settings):
    """Where item vectors come from (section 3.1.1)."""

    items: Literal["text", "id", "word2vec", "cooccurrence"] = Field(
        "text",
        description="text: words of titles, learnt by contrast (Eq 1-3); id: one vector per item, "
        "learnt alike, for logs without titles; word2vec: mean of word2vec's vectors of the words; "
        "cooccurrence: by which items users have in common, not learnt further, see "
        "`unirep_feast.item_vectors`",
    )
    text: TextSettings = Field(
        TextSettings(max_size=178_422),
        description="how titles become words; max_words null: what `covered` asks for",
    )
    covered: float = Field(
        0.95, gt=0, le=1, description="share of titles that the word limit leaves whole"
    )
    item_dim: int = Field(128, ge=1, description="numbers per word and item vector, d")
    word2vec_epochs: int = Field(5, ge=1, description="word2vec: passes over the titles")


class InterestSettings(ItemSettings):
    """The interest vocabulary: item vectors, trained and clustered (section 3.1)."""

    item_steps: int = Field(1000, ge=1, description="steps that item vectors are trained")
    item_batch: int = Field(256, ge=2, description="pairs of items per step, n")
    item_learning_rate: float = Field(1e-3, gt=0, description="of Adam, for item vectors")
    item_temperature: float = Field(0.1, gt=0, description="tau of Eq 2, for item vectors")
    beta_days: float = Field(
        5.0, gt=0, description="beta: two behaviors of a pair are less than so many days apart"
    )

    interests: int = Field(
        100_000, ge=1, description="clusters, D; at most one per distinct item vector is made"
    )
    clustering: Literal["hdsc", "kmeans"] = Field(
        "hdsc",
        description="hdsc: one pass over growing pieces, sparse centres (Yi et al. 2014); kmeans: "
        "spherical mini-batch k-means",
    )
    sample: int = Field(
        1_000_000, ge=1, description="items that centres are found on; the others are assigned"
    )
    sparsity: float = Field(
        0.02, ge=0, description="hdsc: soft threshold on centres in the first piece"
    )
    passes: int = Field(5, ge=1, description="kmeans: passes over the sample")
    assignment: Literal["hard", "soft"] = Field(
        "hard", description="an item is of its nearest interest, or shared among the nearest"
    )
    nearest: int = Field(3, ge=2, description="soft: interests an item is shared among")
    softness: float = Field(0.1, gt=0, description="soft: temperature of the shares")


class EncoderSettings(InterestSettings):
    """The multi-anchor network on top of bags of interests (section 3.2)."""

    anchors: int = Field(10, ge=1, description="anchors, M: vectors per user")
    dim: int = Field(128, ge=1, description="numbers per vector, H")
    start: Literal["random", "centres"] = Field(
        "random",
        description="what interest embeddings W^e begin with; centres: the interests' centres, "
        "which needs `dim` equal to `item_dim`",
    )
    scales: tuple[Scale, ...] = Field(
        ("month", "year"),
        min_length=1,
        max_length=2,
        description="periods that histories are cut into; two are fused by a gate (Eq 7), one is "
        "the ablation",
    )
    share_scales: bool = Field(True, description="one GRU for both scales")
    share_anchors: bool = Field(True, description="one GRU for all anchors")
    max_days: float | None = Field(
        None, gt=0, description="only behaviors of the last so many days; null: the whole lifetime"
    )

    @model_validator(mode="after")
    def _centres_fit(self) -> EncoderSettings:
        if self.start == "centres" and self.dim != self.item_dim:
            raise ValueError(
                f"`start: centres` needs `dim` equal to `item_dim`, found {self.dim} and "
                f"{self.item_dim}"
            )
        return self

    @model_validator(mode="after")
    def _distinct_scales(self) -> EncoderSettings:
        if len(set(self.scales)) != len(self.scales):
            raise ValueError(f"`scales` must differ, found {', '.join(self.scales)}")
        return self


class BagSettings(InterestSettings):
    """The bag of interests of a whole history as the user's vector."""

    interests: int = Field(
        1024, ge=1, description="clusters, D, and numbers per user; the paper has 100,000"
    )
    max_days: float | None = Field(
        None, gt=0, description="only behaviors of the last so many days; null: the whole lifetime"
    )


class ObjectiveSettings(_Settings):
    """Contrast of two pieces of a lifetime (section 3.2.4)."""

    temperature: float = Field(0.1, gt=0, description="tau of Eq 2")


class PairObjectiveSettings(_Settings):
    """Contrast of two items of one user (section 3.1.1)."""

    temperature: float = Field(0.1, gt=0, description="tau of Eq 2")


class SamplerSettings(_Settings):
    """Two random contiguous pieces of a lifetime."""

    min_events: int = Field(
        2, ge=1, description="behaviors a piece has at least; users with no more are left out"
    )
    min_share: float = Field(
        0.1, ge=0, le=1, description="least length of a piece as a share of the history"
    )


class PairSettings(_Settings):
    """Two items that a user met within few days."""

    beta_days: float = Field(
        5.0, gt=0, description="beta: two behaviors of a pair are less than so many days apart"
    )
