"""Settings of the ICL parts; the defaults are the paper's for its industrial data."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from unirep_feast.instants import Instant
from unirep_feast.text import TextSettings

#: Start, inclusive, and end, exclusive.
Period = tuple[Instant, Instant]


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class BehaviorSettings(_Settings):
    """What both encoders share: how one behavior becomes numbers, and how many of them there are.

    Table 1 and section 4.2: 320 behaviors of 8 words and 178,422 words (industrial); 25 of 35 and
    50,000 (Amazon, with ``interests: 20, vectors: 2``).
    """

    behavior: Literal["text", "id"] = Field(
        "text", description="text: mean word embedding of the item's title (Eq 2); id: one per item"
    )
    text: TextSettings = Field(
        TextSettings(max_size=178_422, max_words=8), description="how titles become words"
    )
    dim: int = Field(256, ge=1, description="numbers per vector, D")
    vectors: int = Field(5, ge=1, description="vectors per user, K")
    max_events: int = Field(320, ge=1, description="the most recent behaviors that are looked at")
    start: Literal["random", "cooccurrence"] = Field(
        "random",
        description="what the embeddings of `behavior: id` begin with; cooccurrence: with which "
        "items users have in common, see `unirep_feast.item_vectors`",
    )

    @model_validator(mode="after")
    def _ids_start(self) -> Self:
        if self.start != "random" and self.behavior != "id":
            raise ValueError(
                f"`start: {self.start}` is of items, found `behavior: {self.behavior}`; set "
                "`behavior: id`"
            )
        return self


class EncoderSettings(BehaviorSettings):
    """Aggregation with an interest dictionary."""

    interests: int = Field(100, ge=1, description="interests in the dictionary, M; at least K")
    aggregation: Literal["dictionary", "mean"] = Field(
        "dictionary", description="mean: the ablation without a dictionary, one plain average"
    )
    regulariser: float = Field(
        1.0, ge=0, description="gamma, weight of the regulariser (Eq 10); 0: the ablation without"
    )

    @model_validator(mode="after")
    def _enough_interests(self) -> EncoderSettings:
        if self.aggregation == "mean" and self.vectors != 1:
            raise ValueError(
                f"`aggregation: mean` makes one vector, found `vectors: {self.vectors}`; set "
                "`vectors: 1`"
            )
        if self.aggregation == "dictionary" and self.vectors > self.interests:
            raise ValueError(
                f"`vectors` must be at most `interests`, found {self.vectors} vectors and "
                f"{self.interests} interests"
            )
        return self


class CapsuleSettings(BehaviorSettings):
    """Aggregation by dynamic routing, the rival Capsule-K."""

    iterations: int = Field(3, ge=1, description="of dynamic routing")


class ObjectiveSettings(_Settings):
    """Interest-oriented contrastive learning."""

    temperature: float = Field(0.1, gt=0, description="tau of Eq 13 and 17")
    weight: float = Field(1.0, gt=0, description="beta of Eq 15, xi of Eq 19")
    similarity: Literal["interests", "concatenated"] = Field(
        "interests",
        description="interests: best match per vector, summed (Eq 14); concatenated: one cosine of "
        "all vectors end to end, the ablation",
    )
    hidden: int | None = Field(
        None, ge=1, description="width of the projection head's hidden layer; null: the encoder's D"
    )
    projection: int = Field(128, ge=1, description="numbers per projected vector")


class SamplerSettings(_Settings):
    """Which pieces of a history are compared: its past, and what came soon or much later."""

    horizon: Literal["short", "long"] = Field(
        "long", description="compare the history with the short-term or the long-term future"
    )
    history: Period | None = Field(
        None, description="[from, to) of S1; null: periods are fractions of each user's span"
    )
    short: Period | None = Field(None, description="[from, to) of S2")
    long: Period | None = Field(None, description="[from, to) of S3")
    fractions: tuple[float, float, float] = Field(
        (0.5, 0.25, 0.25),
        description="without dates: shares of S1, S2, S3 in the time from a user's first behavior "
        "to the last",
    )
    jitter: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="without dates: at each step the fractions are of a random part of the user's "
        "time, at least 1 - jitter of it; 0: always of the whole",
    )
    min_events: int = Field(1, ge=1, description="behaviors a user needs in either of the two")

    @model_validator(mode="after")
    def _disjoint(self) -> SamplerSettings:
        dated = {
            name: period
            for name in ("history", "short", "long")
            if (period := getattr(self, name)) is not None
        }
        for name, (start, end) in dated.items():
            if start >= end:
                raise ValueError(f"`{name}` ends before it starts, or is empty")
        if not dated:
            return self._checked_fractions()
        if self.jitter:
            raise ValueError(f"`jitter` is of fractions, found {self.jitter} beside dates")
        lacking = [name for name in ("history", self.horizon) if name not in dated]
        if lacking:
            raise ValueError(
                f"`horizon: {self.horizon}` with dates needs `history` and `{self.horizon}`, "
                f"found no {' and no '.join(lacking)}"
            )
        names = list(dated)
        for before, after in pairwise(names):
            if dated[before][1] > dated[after][0]:
                raise ValueError(f"`{after}` must start at or after the end of `{before}`")
        return self

    def _checked_fractions(self) -> SamplerSettings:
        history, short, long = self.fractions
        compared = short if self.horizon == "short" else long
        if min(self.fractions) < 0 or not math.isclose(sum(self.fractions), 1):
            raise ValueError(f"`fractions` must be shares that sum to 1, found {self.fractions}")
        if history == 0 or compared == 0:
            raise ValueError(
                f"`fractions` must leave time for S1 and for the {self.horizon} future, found "
                f"{self.fractions}"
            )
        return self
