"""Settings of the CLUE parts; the defaults are the paper's."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

#: Ways to make another view of a history by changing its events (section IV-B of the paper).
Explicit = Literal["mask", "crop", "permute"]

Proportion = Annotated[float, Field(ge=0.1, le=0.9)]

#: One proportion, or a range that every user and view draws one from. With one proportion both
#: views of a user are equally long, and their length alone tells them from most other users'.
Share = Proportion | tuple[Proportion, Proportion]


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class EncoderSettings(_Settings):
    """The backbone that turns a history into one user vector."""

    backbone: Literal["sasrec", "gru", "nextitnet", "caser"] = Field(
        "sasrec", description="self-attention, recurrent, dilated convolutions, or Caser's filters"
    )
    dim: int = Field(64, ge=1, description="numbers per user vector, d")
    max_events: int = Field(50, ge=1, description="the most recent events that are looked at, n")
    dropout: float = Field(0.5, ge=0, le=0.95, description="share of activations set to zero")
    start: Literal["random", "cooccurrence"] = Field(
        "random",
        description="what item embeddings begin with; cooccurrence: with which items users have in "
        "common, see `unirep_feast.item_vectors`",
    )
    blocks: int = Field(
        2, ge=1, description="self-attention blocks, GRU layers, or pairs of dilated convolutions"
    )
    heads: int = Field(4, ge=1, description="sasrec: attention heads; must divide `dim`")
    kernel: int = Field(3, ge=2, description="nextitnet: events under a filter")
    heights: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (2, 3, 4, 5), min_length=1, description="caser: heights of horizontal filters, in events"
    )
    horizontal: int = Field(16, ge=1, description="caser: horizontal filters per height")
    vertical: int = Field(4, ge=1, description="caser: vertical filters over the n events")

    @model_validator(mode="after")
    def _heads_divide_dim(self) -> EncoderSettings:
        if self.backbone == "sasrec" and self.dim % self.heads:
            raise ValueError(
                f"`heads` must divide `dim`, found {self.heads} heads and {self.dim} dimensions"
            )
        return self


class ObjectiveSettings(_Settings):
    """Projector, predictor and loss of contrastive pre-training (Eq 4-7)."""

    projector: int = Field(
        256, ge=1, description="width of the projector's three layers; SimSiam: 4 times the vector"
    )
    bottleneck: int = Field(
        64, ge=1, description="predictor's hidden width; SimSiam: a quarter of the projector"
    )
    predictor: bool = Field(True, description="false: the ablation of Fig 6 (a), which collapses")
    stop_gradient: bool = Field(
        True, description="false: the ablation of Fig 6 (b), which collapses"
    )


class SamplerSettings(_Settings):
    """How two views of one history are made."""

    augmentation: Literal["dropout", "mask", "crop", "permute", "random"] | tuple[Explicit, ...] = (
        Field(
            "dropout",
            description="dropout: the same events twice, the encoder's dropout makes the views; "
            "random: one of mask, crop, permute per user and view; a list: one after the other",
        )
    )
    mask: Share = Field(
        0.5, description="share of the events replaced by [MASK], or [from, to] to draw it from"
    )
    crop: Share = Field(
        0.5, description="share of the events in the piece that is dropped, or [from, to]"
    )
    permute: Share = Field(
        0.5, description="share of the events in the shuffled piece, or [from, to]"
    )
    min_events: int = Field(
        2,
        ge=1,
        description="events a user needs; below 2 no explicit view differs from the history",
    )
    hold_out: int = Field(
        0, ge=0, description="latest events of every user that are hidden, for leave-one-out tests"
    )

    @model_validator(mode="after")
    def _some_augmentation(self) -> SamplerSettings:
        if not self.augmentation:
            raise ValueError("`augmentation` is an empty list; give mask, crop or permute in it")
        return self


class LabelsSettings(_Settings):
    """A table of labels, one training unit per row."""

    path: str = Field("labels.parquet", description="parquet file, relative to the working folder")
    user: str = Field("user_id", description="column with the user id")
    label: str = Field("label", description="column with the class; any sortable type")
    time: str | None = Field(
        None, description="column with the label's time; histories end strictly before it"
    )
    min_events: int = Field(1, ge=1, description="events the history of a label row needs")


class ClassifySettings(_Settings):
    """A softmax classifier on the user vector."""

    classes: int = Field(2, ge=2, description="number of classes")
    frozen: bool = Field(False, description="train the classifier alone: a linear probe")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share of the target spread evenly")


class NextItemSettings(_Settings):
    """Leave-one-out next-item prediction."""

    target: Literal["train", "valid", "test"] = Field(
        "train",
        description="train: an event drawn from those not held out; valid: the last but one event; "
        "test: the last one",
    )
    hold_out: int = Field(
        2, ge=0, description="latest events of every user that are no training targets"
    )
    min_events: int = Field(1, ge=1, description="events a target needs strictly before it")


class NextItemLossSettings(_Settings):
    """Softmax over all known items."""

    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share of the target spread evenly")
