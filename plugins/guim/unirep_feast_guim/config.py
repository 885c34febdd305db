"""Settings of the GUIM parts; sizes and constants are the paper's."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from unirep_feast.instants import Instant
from unirep_feast.text import TextSettings


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class EncoderSettings(_Settings):
    """The model of Fig 1, and the two it is compared with in section 4.3."""

    variant: Literal["guim", "edi", "mh"] = Field(
        "guim",
        description="guim: C tokens [CLS], one vector each; edi: GUI-EDI, users and items are one "
        "vector of C x dim; mh: GUIM-MH, one token [CLS] read by C heads",
    )
    vectors: int = Field(4, ge=1, le=256, description="vectors per user, C (H of GUIM-MH)")
    dim: int = Field(128, ge=1, description="numbers per vector, d")
    layers: int = Field(3, ge=1, description="transformer layers, L")
    heads: int = Field(
        2, ge=1, description="attention heads per `dim` numbers; must divide `dim` (BERT: dim / 64)"
    )
    dropout: float = Field(0.1, ge=0, le=0.95, description="share of activations set to zero")
    activation: Literal["gelu", "none"] = Field(
        "gelu", description="behind the linear layers f_u and, in the objective, f_o"
    )
    max_events: int = Field(200, ge=1, description="the most recent events that are looked at")
    history_days: int = Field(
        365, ge=1, description="days before the as-of time that are looked at, D1"
    )
    start: Literal["random", "cooccurrence"] = Field(
        "random",
        description="what the embeddings of item ids begin with; cooccurrence: with which items "
        "users have in common, see `unirep_feast.item_vectors`",
    )
    item_dim: int = Field(128, ge=1, description="numbers per item id, d_i")
    category_dim: int = Field(128, ge=1, description="numbers per category id, d_c")
    word_dim: int = Field(32, ge=1, description="numbers per word of a title, d_w")
    top_items: int = Field(
        200_000,
        ge=0,
        description="most frequent items with an id of their own, X; others share one",
    )
    category: Literal["path", "last"] = Field(
        "path", description="what a category id stands for: the whole path, or its last level"
    )
    text: TextSettings = Field(
        TextSettings(max_size=530_000),
        description="how titles become words, see `unirep_feast.text`",
    )

    @model_validator(mode="after")
    def _heads_divide_dim(self) -> EncoderSettings:
        if self.dim % self.heads:
            raise ValueError(
                f"`heads` must divide `dim`, found {self.heads} heads and {self.dim} dimensions"
            )
        return self

    @property
    def width(self) -> int:
        """Numbers per token inside the model, and per published vector."""
        return self.dim * self.vectors if self.variant == "edi" else self.dim


class ObjectiveSettings(_Settings):
    """Masked items and matching, both by InfoNCE (section 3.3)."""

    matching: bool = Field(True, description="predict the items after T from the user's vectors")
    mlm: bool = Field(True, description="predict masked items from their hidden states")
    negatives: int | None = Field(
        31,
        ge=1,
        description="items of other users drawn per positive, K, by how often the batch holds "
        "them; null: every distinct item of the batch that is not the user's",
    )
    score: Literal["max", "attention"] = Field(
        "max", description="max: the user's closest vector counts, Eq 3; attention: all, Eq 2"
    )
    alpha: float = Field(20.0, gt=0, description="scale of a cosine in scores")
    attention_scale: float = Field(
        20.0, gt=0, description="attention: scale of the cosines whose softmax weights the vectors"
    )
    activation: Literal["gelu", "none"] = Field("gelu", description="behind the linear layer f_o")

    @model_validator(mode="after")
    def _some_task(self) -> ObjectiveSettings:
        if not (self.matching or self.mlm):
            raise ValueError("`matching` and `mlm` are both false; leave one of the tasks on")
        return self


class SamplerSettings(_Settings):
    """A history before a time T and the events after it (section 3.1)."""

    cut_off: Literal["drawn", "last"] | Instant = Field(
        "drawn",
        description="T. drawn: anew for every user and step, between two of the user's events; "
        "last: `future_days` before the training data end, the same for all, as in the paper; or "
        "an instant",
    )
    history_days: float = Field(365.0, gt=0, description="days before T that are drawn from, D1")
    future_days: float = Field(31.0, gt=0, description="days from T on to predict, D2")
    mask: float = Field(0.15, ge=0, lt=1, description="probability that a history event is masked")
    max_future: int = Field(
        64, ge=1, description="events from T on that are predicted at most, the earliest"
    )
