"""Settings of the UserBERT parts; the defaults are the paper's (Table 4)."""

from __future__ import annotations

from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, model_validator

from unirep_feast.text import TextSettings

BehaviorKind = Literal["id", "words", "cnn", "attention"]
ContextKind = Literal["cnn", "gru", "lstm", "attention"]
AggregatorKind = Literal["max", "mean", "attentive", "last"]


class Parts(NamedTuple):
    """What a user model is made of."""

    behavior: BehaviorKind
    context: ContextKind
    aggregator: AggregatorKind
    layers: int


#: The six user models of the paper's tables, as its framework (Fig 2) has them.
PRESETS = {
    "naml": Parts("cnn", "cnn", "attentive", 1),
    "lstur": Parts("cnn", "gru", "last", 1),
    "nrms": Parts("attention", "attention", "attentive", 1),
    "gru4rec": Parts("id", "gru", "last", 1),
    "nativectr": Parts("cnn", "lstm", "attentive", 1),
    "bert4rec": Parts("id", "attention", "last", 2),
}


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class EncoderSettings(_Settings):
    """A user model put together from a behavior encoder, a context encoder and an aggregator."""

    preset: Literal["naml", "lstur", "nrms", "gru4rec", "nativectr", "bert4rec"] = Field(
        "bert4rec", description="a known user model; the four settings below replace parts of it"
    )
    behavior: BehaviorKind | None = Field(
        None,
        description="how a behavior becomes a vector: its item's own, the mean of its title's "
        "words, or the words through a CNN or self-attention; null: the preset's",
    )
    context: ContextKind | None = Field(
        None, description="how behaviors see each other; null: the preset's"
    )
    aggregator: AggregatorKind | None = Field(
        None, description="how behaviors become one vector; null: the preset's"
    )
    layers: int | None = Field(
        None, ge=1, description="layers of the context encoder; null: the preset's"
    )
    dim: int = Field(256, ge=1, description="numbers per vector, hidden ones too")
    dropout: float = Field(0.2, ge=0, le=0.95, description="share of activations set to zero")
    max_events: int = Field(100, ge=1, description="the most recent behaviors that are looked at")
    start: Literal["random", "cooccurrence"] = Field(
        "random",
        description="what the embeddings of `behavior: id` begin with; cooccurrence: with which "
        "items users have in common, see `unirep_feast.item_vectors`",
    )
    text: TextSettings = Field(TextSettings(max_words=30), description="how titles become words")
    window: int = Field(3, ge=1, description="words or behaviors under a CNN's filter; odd")
    query: int = Field(200, ge=1, description="width of attentive pooling's query")
    heads: int = Field(8, ge=1, description="self-attention heads; must divide `dim`")

    @property
    def parts(self) -> Parts:
        """The preset's parts, with those that are named explicitly in their place."""
        named = {name: getattr(self, name) for name in Parts._fields}
        return PRESETS[self.preset]._replace(**{k: v for k, v in named.items() if v is not None})

    @model_validator(mode="after")
    def _ids_start(self) -> EncoderSettings:
        if self.start != "random" and self.parts.behavior != "id":
            raise ValueError(
                f"`start: {self.start}` is of items, found `behavior: {self.parts.behavior}`; set "
                "`behavior: id`"
            )
        return self

    @model_validator(mode="after")
    def _shapes(self) -> EncoderSettings:
        if self.window % 2 == 0:
            raise ValueError(f"`window` must be odd, found {self.window}")
        if "attention" in (self.parts.behavior, self.parts.context) and self.dim % self.heads:
            raise ValueError(
                f"`heads` must divide `dim`, found {self.heads} heads and {self.dim} dimensions"
            )
        return self


class ObjectiveSettings(_Settings):
    """Tasks of pre-training (Eq 1-3) and how their negatives are chosen."""

    mbp: bool = Field(True, description="masked behavior prediction, Eq 1")
    bsm: bool = Field(True, description="behavior sequence matching, Eq 2")
    nbp: bool = Field(
        False, description="next behaviors prediction of PTUM, in place of or beside `bsm`"
    )
    negatives: Literal["similar", "random"] = Field(
        "similar",
        description="which candidates of a pool become negatives; how hard the similar ones are is "
        "for the pools' sizes to say",
    )
    behaviors: int = Field(4, ge=1, description="negatives per masked or next behavior, K")
    sequences: int = Field(4, ge=1, description="negatives per behavior sequence, P")
    sequence_pool: int = Field(
        100,
        ge=1,
        description="candidate sequences whose vectors are kept between refreshes; at least the "
        "sampler's `sequence_pool`",
    )

    @model_validator(mode="after")
    def _some_task(self) -> ObjectiveSettings:
        if not (self.mbp or self.bsm or self.nbp):
            raise ValueError("`mbp`, `bsm` and `nbp` are all false; set one of them to true")
        return self


class SamplerSettings(_Settings):
    """Masked behaviors, two pieces of a history, and two pools of candidates."""

    mask: float = Field(
        0.1, gt=0, le=0.9, description="share of behaviors that are masked; at least one is"
    )
    behavior_pool: int | None = Field(
        1000,
        ge=1,
        description="behaviors drawn as candidates at every step, m; null: all known items, which "
        "makes similar ones the globally hardest",
    )
    sequence_pool: int | None = Field(
        100,
        ge=1,
        description="sequences drawn as candidates, u; null: one of every user, which makes "
        "similar ones the globally hardest",
    )
    interval: int = Field(
        50, ge=1, description="steps after which the sequences in the pool are drawn anew"
    )
    next_behaviors: int = Field(2, ge=1, description="behaviors that `nbp` predicts, PTUM's K")
    min_events: int = Field(2, ge=2, description="behaviors a user needs")


class TableSettings(_Settings):
    """A table of impressions: what was shown, and was it clicked."""

    path: str = Field(
        "impressions.parquet", description="parquet file, relative to the working folder"
    )
    user: str = Field("user_id", description="column with the user id")
    item: str = Field("item_id", description="column with the id of the item that was shown")
    time: str = Field(
        "event_timestamp",
        description="column with the time; histories end strictly before it",
    )
    label: str = Field("clicked", description="column that says whether it was clicked")
    clicked: str | None = Field(
        None, description="value of `label` that is a click; null: the column is 0 and 1, or bool"
    )
    skipped: str | None = Field(
        None, description="value of `label` that is none; null: every other one"
    )
    share: float = Field(
        1.0, gt=0, le=1, description="share of the users whose rows are used, by hash of the id"
    )
    min_events: int = Field(1, ge=1, description="behaviors the history of a row needs")


class ImpressionsSettings(TableSettings):
    """A table of impressions, one training unit per row."""

    negatives: int | None = Field(
        1, ge=1, description="rows without a click kept per click of a user; null: all"
    )


class ListsSettings(TableSettings):
    """A table of impressions, one training unit per list that was shown at one time."""


class ClickSettings(_Settings):
    """Click probability from the dot product of user and candidate."""

    frozen: bool = Field(False, description="train bias and scale alone: a probe of the vectors")


class NewsSettings(_Settings):
    """Which of the items shown together is clicked, from their dot products with the user."""

    negatives: int = Field(
        4, ge=1, description="items without a click, of the same list, that a click is held against"
    )
    frozen: bool = Field(False, description="train the scale alone: a probe of the vectors")
