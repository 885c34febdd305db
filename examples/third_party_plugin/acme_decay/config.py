"""Every setting of the plugin."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class EncoderSettings(_Settings):
    """One decayed sum per half-life."""

    dim: int = Field(32, ge=1, description="numbers per vector, of users and items alike")
    half_lives_days: tuple[float, ...] = Field(
        (1.0, 7.0, 60.0), min_length=1, description="an event this old counts half; one vector each"
    )
    max_events: int = Field(200, ge=1, description="latest events that are looked at")
    shrinkage: float = Field(
        1.0, gt=0, description="events that pull a vector towards zero: few events, short vector"
    )


class ObjectiveSettings(_Settings):
    """Score what comes next above what others do next."""

    temperature: float = Field(0.2, gt=0, description="of the softmax over the batch's items")


class SamplerSettings(_Settings):
    """A history up to a drawn moment, and the days behind it."""

    horizon_days: float = Field(14.0, gt=0, description="how far ahead the future reaches")
