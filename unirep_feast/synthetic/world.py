"""The settings of a synthetic world: its size, and how much of each effect is in it."""

from __future__ import annotations

from typing import Any

from pydantic import Field, ValidationError, model_validator

from unirep_feast.config import Frozen
from unirep_feast.errors import SpecError
from unirep_feast.instants import MICROSECONDS_PER_DAY, Instant, parse_instant
from unirep_feast.spec_file import problems

#: Cells of the table persona × category that sampling holds twelve times over (once per month).
MAX_CELLS = 200_000


class World(Frozen):
    """What a synthetic world is like; equal settings give equal worlds, whatever the machine load.

    Every effect has a dial that turns it off (``drift=0``, ``seasonality=0``, ``churn=0``,
    ``loyalty=0``), so that a test can ask what one of them does.
    """

    seed: int = Field(0, ge=0)
    users: int = Field(10_000, ge=1, le=2**40)
    items: int = Field(2_000, ge=1, le=2**31)
    personas: int = Field(8, ge=1, le=1_000, description="kinds of interest a user is a mixture of")
    categories: int = Field(40, ge=1, le=10_000, description="of items; never more than items")
    start: Instant = Field(parse_instant("2023-01-01"), description="first day, at midnight UTC")
    end: Instant = Field(parse_instant("2025-01-01"), description="midnight UTC after the last day")
    events_per_user: float = Field(60.0, gt=0, le=1e6, description="mean over all users, about")
    spread: float = Field(
        1.0, ge=0, le=2.5, description="sigma of the log-normal activity; 0: all users alike"
    )
    session_events: float = Field(3.0, ge=1, le=1_000, description="mean events of one visit")
    purchase_share: float = Field(0.3, ge=0, le=1, description="share of events; others are views")
    concentration: float = Field(
        0.2, ge=0.01, le=100, description="Dirichlet parameter of the mixtures; small: one interest"
    )
    drift: float = Field(
        0.5, ge=0, le=1, description="share of a user's mixture that is another one at the end"
    )
    seasonality: float = Field(
        0.8, ge=0, le=1, description="how far seasonal categories rise and fall over the year"
    )
    loyalty: float = Field(
        0.5, ge=0, le=1, description="share of choices made among the persona's own brands"
    )
    popularity: float = Field(1.0, ge=0, le=3, description="Zipf exponent within a category")
    newcomers: float = Field(0.2, ge=0, le=1, description="share of users who join on a later day")
    churn: float = Field(0.03, ge=0, lt=1, description="share of users who leave, per 30 days")
    label_noise: float = Field(
        0.1, ge=0, le=10, description="sigma of what is added to a mixture before it is labelled"
    )
    string_ids: bool = Field(False, description="user and item ids as text, not int64")

    @model_validator(mode="after")
    def _fits(self) -> World:
        if self.start % MICROSECONDS_PER_DAY or self.end % MICROSECONDS_PER_DAY:
            raise ValueError("`start` and `end` must be midnights UTC: give dates without a time")
        if self.end <= self.start:
            raise ValueError("`end` must be at least one day after `start`")
        if self.days > 36_525:
            raise ValueError(f"found {self.days} days, wanted at most a century (36525)")
        if self.categories > self.items:
            raise ValueError(
                f"found {self.categories} categories for {self.items} items, wanted no more "
                "categories than items"
            )
        if self.personas * self.categories > MAX_CELLS:
            raise ValueError(
                f"found {self.personas} personas by {self.categories} categories, wanted at most "
                f"{MAX_CELLS} pairs"
            )
        return self

    @property
    def days(self) -> int:
        """Whole days from start to end."""
        return (self.end - self.start) // MICROSECONDS_PER_DAY

    @property
    def users_per_block(self) -> int:
        """Users drawn together, with random numbers of their own.

        Follows from the settings alone and is no option: blocks decide which numbers a user gets.
        About 2¹⁸ events, so that a block is a row group and memory does not grow with the world.
        """
        by_events = int(2**18 / self.events_per_user)
        return max(1, min(by_events, 2**16, 2**20 // self.personas))


def parse_world(**settings: Any) -> World:
    """Build a world from settings as a user gave them.

    Raises:
        SpecError: one or more settings are wrong; all of them are listed.
    """
    try:
        return World(**settings)
    except ValidationError as error:
        raise SpecError("synthetic world", problems(error)) from None
