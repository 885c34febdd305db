"""What is true of a synthetic world before anybody acts: personas, seasons, items, rhythms."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from unirep_feast.instants import MICROSECONDS_PER_DAY
from unirep_feast.synthetic.world import World

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

#: First element of the spawn key of every random stream: no two streams share numbers.
TRUTH_STREAM, BLOCK_STREAM, TITLE_STREAM, TENURE_STREAM = range(4)

# Monday to Sunday, and the 24 hours of a user's own day.
WEEKDAY = np.array([1.0, 0.9, 0.9, 0.95, 1.1, 1.4, 1.2])
HOUR = np.array(
    [3, 2, 1, 1, 1, 2, 4, 7, 9, 9, 9, 10, 12, 11, 9, 9, 9, 10, 12, 15, 17, 16, 11, 6], np.float64
)


@dataclass(frozen=True)
class Truth:
    """The fixed part of a world; axes P personas, C categories, M items, D days.

    Items are numbered here by category and, within it, by falling popularity; ``item_ids`` says
    under which id an item is published, so that an id tells nothing. The item of rank ``r`` in
    category ``c`` belongs to the brands of persona ``(r + c) % P``.

    Attributes:
        persona_categories: (P, C) probability of a category, out of season; rows sum to 1.
        season: (12, C) factor on it in each calendar month; 1 throughout where not seasonal.
        peak_month: (C,) calendar month 1..12 in which a category peaks, 0 where not seasonal.
        category_starts: (C + 1,) first item of each category.
        item_ids: (M,) published number of an item, 1..M in random order.
        prices: (M,) price, in whole cents of a currency unit.
        gender_lean: (P,) +1 or -1.
        churn_lean: (P,) log of the persona's factor on the hazard of leaving.
        day_weight: (D + 1,) cumulative activity up to each day, from 0 to 1.
        month_of_day: (D,) calendar month, 0..11.
        second_of_day: (N + 1,) inverse of the daily rhythm: second at N equal steps of its share.
    """

    persona_categories: Floats
    season: Floats
    peak_month: Ints
    category_starts: Ints
    item_ids: Ints
    prices: Floats
    gender_lean: Floats
    churn_lean: Floats
    day_weight: Floats
    month_of_day: Ints
    second_of_day: Floats

    @property
    def item_category(self) -> Ints:
        """(M,) category of the item whose published number is ``i + 1``."""
        category = np.empty(len(self.item_ids), np.int64)
        category[self.item_ids - 1] = np.repeat(
            np.arange(len(self.category_starts) - 1), np.diff(self.category_starts)
        )
        return category


def stream(world: World, *key: int) -> np.random.Generator:
    """Return the random numbers that belong to a part of the world, and to it alone."""
    return np.random.Generator(np.random.SFC64(np.random.SeedSequence(world.seed, spawn_key=key)))


def truth_of(world: World) -> Truth:
    """Draw the fixed part of a world from its seed."""
    rng = stream(world, TRUTH_STREAM)
    P, C, M = world.personas, world.categories, world.items

    # A persona lives in few categories; the floor leaves everybody a little of everything.
    favourites = rng.dirichlet(np.full(C, min(1.0, 4.0 / C)), P)
    persona_categories = 0.9 * favourites + 0.1 / C  # (P, C)

    peak = rng.integers(0, 12, C)
    seasonal = rng.random(C) < 0.5
    distance = np.arange(12)[:, None] - peak  # (12, C)
    swing = world.seasonality * np.cos(2 * np.pi * distance / 12)
    season = np.where(seasonal, 1 + swing, 1.0)

    sizes = 1 + rng.multinomial(M - C, rng.dirichlet(np.full(C, 2.0)))
    level = rng.lognormal(2.5, 0.8, C)  # price level of a category
    prices = np.round(np.repeat(level, sizes) * rng.lognormal(0.0, 0.5, M), 2) + 0.01

    first = np.datetime64(world.start // MICROSECONDS_PER_DAY, "D")
    days = first + np.arange(world.days)
    weekday = (days.astype(np.int64) + 3) % 7  # 1970-01-01 was a Thursday
    by_day = WEEKDAY[weekday]
    return Truth(
        persona_categories=persona_categories,
        season=season,
        peak_month=np.where(seasonal, peak + 1, 0),
        category_starts=np.concatenate([[0], np.cumsum(sizes)]),
        item_ids=rng.permutation(M) + 1,
        prices=prices,
        gender_lean=rng.permutation(np.where(np.arange(P) % 2, -1.0, 1.0)),
        churn_lean=rng.permutation(np.linspace(-0.7, 0.7, P)) if P > 1 else np.zeros(1),
        day_weight=np.concatenate([[0], np.cumsum(by_day) / by_day.sum()]),
        month_of_day=days.astype("datetime64[M]").astype(np.int64) % 12,
        second_of_day=_inverse(HOUR, 86_400.0),
    )


def _inverse(weights: Floats, length: float, steps: int = 4_096) -> Floats:
    """Tabulate the inverse distribution of a step function over ``[0, length)``."""
    edges = np.linspace(0, length, len(weights) + 1)
    share = np.concatenate([[0], np.cumsum(weights) / weights.sum()])
    return np.interp(np.linspace(0, 1, steps + 1), share, edges)
