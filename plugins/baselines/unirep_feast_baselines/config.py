"""Settings of the baselines."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from unirep_feast.config import MemberConfig, PartConfig
from unirep_feast.text import TextSettings


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RandomSettings(_Settings):
    """Vectors that say nothing: the floor."""

    dim: int = Field(64, ge=1, description="numbers per user vector")
    seed: int = Field(0, ge=0, description="another seed gives other vectors")


class AggregateSettings(_Settings):
    """What an analyst would compute first."""

    windows: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        (1.0, 7.0, 30.0, 90.0, 365.0),
        description="days before the as-of time in which events and values are counted",
    )
    half_lives: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        (7.0, 30.0, 90.0), description="days after which an event counts half"
    )
    event_types: int = Field(16, ge=0, description="most frequent event types that are counted")
    categories: int = Field(32, ge=0, description="most frequent categories that are counted")
    items: int = Field(32, ge=0, description="most frequent items that are counted")
    value_bins: int = Field(
        10, ge=0, description="quantiles of all values that a user's are counted between"
    )
    hours: bool = Field(True, description="shares of the events by UTC hour of the day")
    weekdays: bool = Field(True, description="shares of the events by UTC day of the week")
    standardise: bool = Field(
        True, description="mean 0 and deviation 1 over the users before the training cut-off"
    )


class BagSettings(_Settings):
    """A history as a bag of items."""

    dim: int = Field(128, ge=1, description="numbers per user vector")
    seed: int = Field(0, ge=0, description="of whatever the library draws at random")


class TfidfSettings(BagSettings):
    """TF-IDF of whole histories, cut down by a singular value decomposition."""

    terms: Literal["items", "words"] = Field(
        "items", description="what a history is a bag of: items, or the words of their titles"
    )
    text: TextSettings = Field(
        TextSettings(categories=True), description="words: how titles become words"
    )
    sublinear: bool = Field(True, description="a term counts 1 + log(count), not count")
    normalise: bool = Field(True, description="user vectors of length 1 before they are cut down")


class Word2VecSettings(BagSettings):
    """The mean of the word2vec vectors of a history's items."""

    epochs: int = Field(10, ge=1, description="passes over the histories")
    window: int = Field(10, ge=1, description="events to either side that predict an item")
    negatives: int = Field(5, ge=1, description="negative samples per pair")


class Doc2VecSettings(BagSettings):
    """A history as a document, PV-DBOW."""

    dim: int = Field(
        64, ge=1, description="numbers per user vector; inference costs its square per event"
    )
    epochs: int = Field(20, ge=1, description="passes over the histories")
    negatives: int = Field(5, ge=1, description="negative samples per event, k")
    noise: int = Field(64, ge=1, description="items that stand for the noise when inferring")
    prior: float = Field(1.0, gt=0, description="precision of the prior that vectors are small")
    iterations: int = Field(20, ge=1, description="steps of inference per user")


class AlsSettings(BagSettings):
    """Matrix factorisation of implicit feedback."""

    dim: int = Field(64, ge=1, description="factors, numbers per user vector")
    alpha: float = Field(
        10.0, gt=0, description="confidence in an item is 1 + alpha log(1 + count)"
    )
    regularisation: float = Field(0.1, gt=0, description="lambda of both sides")
    iterations: int = Field(15, ge=1, description="alternations")


class SumnSettings(_Settings):
    """SUMN's encoder."""

    behavior: Literal["id", "text"] = Field(
        "id", description="a behavior is its item's vector, or the mean of its title's words"
    )
    text: TextSettings = Field(TextSettings(max_words=30), description="text: titles as words")
    dim: int = Field(128, ge=1, description="numbers per user vector")
    hops: int = Field(2, ge=1, description="hops of aggregation; 1 is plain attention")
    max_events: int = Field(200, ge=1, description="the most recent events that are looked at")


class SumnObjectiveSettings(_Settings):
    """Behavioral consistency: what a user does in one period tells what in another."""

    dampened: bool = Field(True, description="targets weigh log(1 + count), not count")


class CutSettings(_Settings):
    """A history cut in two at a random time."""

    min_events: int = Field(2, ge=1, description="events a user needs on both sides together")


class ContrastSettings(_Settings):
    """NT-Xent of two views of a user."""

    temperature: float = Field(0.5, gt=0, description="tau of Eq 4")
    head: int = Field(
        0, ge=0, description="width of a hidden layer of the projection head; 0: it is linear"
    )


class TextEncoderSettings(_Settings):
    """What the supervised models share."""

    text: TextSettings = Field(
        TextSettings(categories=True, max_words=16), description="how titles become words"
    )
    max_events: int = Field(50, ge=1, description="the most recent events that are read")
    word_dim: int = Field(64, ge=1, description="numbers per word")
    dim: int = Field(64, ge=1, description="numbers per user vector")
    dropout: float = Field(0.2, ge=0, le=0.95, description="share of activations set to zero")


class TextCnnSettings(TextEncoderSettings):
    """Filters over the words of a history."""

    heights: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (3, 4, 5), min_length=1, description="words under a filter, by group of filters"
    )
    filters: int = Field(64, ge=1, description="filters per height")


class HanSettings(TextEncoderSettings):
    """Attention over words, then over events."""

    hidden: int = Field(32, ge=1, description="numbers per direction of both GRUs")

    @model_validator(mode="after")
    def _word_limit(self) -> HanSettings:
        if self.text.max_words is None:
            raise ValueError("`text.max_words` must be a number here, such as 16")
        return self


class ConcatMember(MemberConfig):
    """A member of a concatenation, and how its numbers are scaled."""

    normalise: Literal["block", "number", "none"] = Field(
        "block",
        description="mean 0 for every number, and deviation 1 over the whole block, or (number) of "
        "every number; none: as they come",
    )
    items: bool = Field(
        False,
        description="its item vectors are the concatenation's too, in its block; numbers then keep "
        "their origin, as scores would move otherwise. It must have one vector per user",
    )


class ConcatSettings(_Settings):
    """Several representations side by side."""

    members: tuple[ConcatMember, ...] = Field(
        (
            ConcatMember(name="rhythm", encoder=PartConfig(name="baselines.aggregates")),
            ConcatMember(name="items", encoder=PartConfig(name="baselines.tfidf")),
        ),
        min_length=1,
        description="each with a name, its parts as in a spec, and its training",
    )
    equal: bool = Field(
        True, description="every normalised block weighs the same in a cosine, however wide it is"
    )
    sample: int = Field(20_000, ge=2, description="users that means and deviations are taken over")
