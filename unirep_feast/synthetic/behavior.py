"""Who the users of a block are, and what they do: drawn in bulk, no loop over users or events."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from unirep_feast.instants import MICROSECONDS_PER_DAY, MICROSECONDS_PER_SECOND
from unirep_feast.synthetic.truth import (
    BLOCK_STREAM,
    TENURE_STREAM,
    Floats,
    Ints,
    Truth,
    stream,
    truth_of,
)
from unirep_feast.synthetic.world import World

#: Country, share of the users, hours ahead of UTC. Independent of the mixture: only the clock of a
#: user's events tells it, so a probe on items alone must not do better than chance.
COUNTRIES = (
    ("GB", 0.30, 0),
    ("DE", 0.20, 1),
    ("US", 0.20, -6),
    ("IN", 0.15, 5),
    ("JP", 0.10, 9),
    ("BR", 0.05, -3),
)
VISIT_SECONDS = 1_800
#: Users drawn to learn how long users stay on average, to within half a percent.
TENURE_SAMPLE = 16_384
# Sixteen equally likely quantities of a purchase.
QUANTITY = np.array([1] * 11 + [2] * 3 + [3, 6], np.float64)


@dataclass(frozen=True)
class Users:
    """A block of users; axes n users, P personas.

    Attributes:
        first: index of the first user of the block in the world.
        start, end: (n, P) mixture at the world's start and end; linear in time between.
        country: (n,) index into ``COUNTRIES``.
        joined, left: (n,) days; a user acts on days ``joined <= d < left``.
        expected: (n,) mean number of events.
        gender: (n,) bool; segment: (n,) persona. Both follow the mean mixture, with noise.
    """

    first: int
    start: Floats
    end: Floats
    country: Ints
    joined: Ints
    left: Ints
    expected: Floats
    gender: npt.NDArray[np.bool_]
    segment: Ints


@dataclass(frozen=True)
class Events:
    """A block's events, in no order; all (N,).

    Attributes:
        rows: user row within the block.
        items: index into ``Truth.item_ids``.
        times: microseconds since 1970 UTC.
        purchases: bool, else a view.
        values: price × quantity of a purchase, 0 for a view.
    """

    rows: Ints
    items: Ints
    times: Ints
    purchases: npt.NDArray[np.bool_]
    values: Floats


class Behavior:
    """Draws a world block by block; a block depends on the settings and its number only."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.truth: Truth = truth_of(world)
        by_month = self.truth.season[:, None, :] * self.truth.persona_categories  # (12, P, C)
        self._categories = _ladder(by_month.reshape(-1, world.categories))
        self._items = _ItemLaw(world, self.truth)

    @property
    def blocks(self) -> int:
        """How many blocks the world has."""
        return -(-self.world.users // self.world.users_per_block)

    def draw(self, number: int) -> tuple[Users, Events]:
        """Return block ``number``: its users and all their events."""
        first = number * self.world.users_per_block
        count = min(self.world.users_per_block, self.world.users - first)
        rng = stream(self.world, BLOCK_STREAM, number)
        users = self._users(rng, first, count)
        return users, self._events(rng, users)

    @cached_property
    def _mean_tenure(self) -> float:
        """Mean share of the world's activity that a user is there for, from a fixed sample."""
        rng = stream(self.world, TENURE_STREAM)
        start, end = self._mixtures(rng, TENURE_SAMPLE)
        joined, left = self._tenure(rng, (start + end) / 2)
        weight = self.truth.day_weight
        return float((weight[left] - weight[joined]).mean())

    def _mixtures(self, rng: np.random.Generator, n: int) -> tuple[Floats, Floats]:
        prior = np.full(self.world.personas, self.world.concentration)
        start, other = rng.dirichlet(prior, n), rng.dirichlet(prior, n)  # (n, P)
        return start, (1 - self.world.drift) * start + self.world.drift * other

    def _tenure(self, rng: np.random.Generator, mixture: Floats) -> tuple[Ints, Ints]:
        world, days, n = self.world, self.world.days, len(mixture)
        late = rng.random(n) < world.newcomers
        joined = np.where(late, rng.integers(0, days, n), 0)
        hazard = -np.log1p(-world.churn) / 30 * np.exp(mixture @ self.truth.churn_lean)  # per day
        with np.errstate(divide="ignore"):
            lifetime = 1 + np.floor(rng.standard_exponential(n) / hazard)  # inf without churn
        return joined, np.minimum(joined + lifetime, days).astype(np.int64)

    def _users(self, rng: np.random.Generator, first: int, n: int) -> Users:
        world, weight = self.world, self.truth.day_weight
        start, end = self._mixtures(rng, n)
        mean = (start + end) / 2
        joined, left = self._tenure(rng, mean)
        activity = np.exp(world.spread * rng.standard_normal(n) - world.spread**2 / 2)
        tenure = (weight[left] - weight[joined]) / self._mean_tenure
        score = mean @ self.truth.gender_lean + world.label_noise * rng.standard_normal(n)
        noisy = mean + world.label_noise * rng.standard_normal(mean.shape)
        shares = np.cumsum([share for _, share, _ in COUNTRIES])
        return Users(
            first=first,
            start=start,
            end=end,
            country=np.searchsorted(shares[:-1], rng.random(n), side="right"),
            joined=joined,
            left=left,
            expected=world.events_per_user * activity * tenure,
            gender=score > 0,
            segment=noisy.argmax(1),
        )

    def _events(self, rng: np.random.Generator, users: Users) -> Events:
        world, truth = self.world, self.truth
        counts = rng.poisson(users.expected)
        n = int(counts.sum())
        owner = np.repeat(np.arange(len(counts)), counts)

        # A user's first event opens a visit, each later one does so with a fixed chance.
        opens = rng.random(n) * world.session_events < 1
        opens[(np.cumsum(counts) - counts)[counts > 0]] = True
        visitor = owner[opens]  # (V,) user row of each visit
        personas, days, opened = self._visits(rng, users, visitor)

        # Everything below is independent given the visit, so shuffling the visits here puts the
        # rows of the file in no order and costs one column instead of five.
        visit = np.cumsum(opens) - 1
        rng.shuffle(visit)
        keys = (truth.month_of_day[days] * world.personas + personas)[visit]
        categories = _climb(self._categories, keys, rng.random(n), world.categories)
        items = self._items.draw(rng, categories, personas[visit])

        # A visit ends at the checkout: all its purchases carry that one time, views lie before it.
        purchases = rng.random(n, np.float32) < world.purchase_share
        length = VISIT_SECONDS * MICROSECONDS_PER_SECOND
        offsets = np.where(purchases, length, rng.integers(0, length, n))
        quantity = QUANTITY[rng.integers(0, len(QUANTITY), n, np.uint8)]
        return Events(
            rows=visitor[visit],
            items=items,
            times=opened[visit] + offsets,
            purchases=purchases,
            values=np.where(purchases, np.round(truth.prices[items] * quantity, 2), 0.0),
        )

    def _visits(
        self, rng: np.random.Generator, users: Users, visitor: Ints
    ) -> tuple[Ints, Ints, Ints]:
        """Return persona, day and opening time (microseconds, a whole second) of each visit."""
        world, truth, V = self.world, self.truth, len(visitor)
        joined, left = users.joined[visitor], users.left[visitor]
        low, high = truth.day_weight[joined], truth.day_weight[left]
        place = low + rng.random(V) * (high - low)
        days = np.searchsorted(truth.day_weight, place, side="right") - 1
        days = np.clip(days, joined, left - 1)  # rounding must not lead past the day of leaving

        # Mixing the two mixtures in the share of the time gone by is the linear interpolation.
        late = rng.random(V) < (days + 0.5) / world.days
        both = np.stack([users.start, users.end], 1).reshape(-1, world.personas)  # (2n, P)
        personas = _climb(_ladder(both), 2 * visitor + late, rng.random(V), world.personas)

        steps = len(truth.second_of_day) - 1
        place = rng.random(V) * steps
        below = place.astype(np.int64)
        seconds = truth.second_of_day[below]
        seconds = seconds + (place - below) * (truth.second_of_day[below + 1] - seconds)
        ahead = np.array([hours for _, _, hours in COUNTRIES])[users.country[visitor]]
        seconds = (seconds - 3_600 * ahead) % 86_400
        # Pressed together a little, so that a visit ends on the day on which it began.
        seconds = (seconds * (1 - VISIT_SECONDS / 86_400)).astype(np.int64)
        opened = world.start + days * MICROSECONDS_PER_DAY + seconds * MICROSECONDS_PER_SECOND
        return personas, days, opened


class _ItemLaw:
    """Zipf's law within a category, or within the part of it that a persona's brands make up.

    The law is that of a continuous power-law variable rounded down, which inverts in closed form:
    drawing costs the same for ten items and for a billion, and needs no table over items.
    """

    def __init__(self, world: World, truth: Truth) -> None:
        P, C = world.personas, world.categories
        self._personas, self._loyalty = P, world.loyalty
        # So near to 1, the general formula would lose all digits and the limit is as good.
        self._exponent = 1.0 if abs(world.popularity - 1) < 1e-6 else world.popularity
        starts, sizes = truth.category_starts[:-1, None], np.diff(truth.category_starts)[:, None]
        own = (np.arange(P) - np.arange(C)[:, None]) % P  # (C, P) rank of the first own item
        owned = np.maximum(-((own - sizes) // P), 0)
        # Two laws per (category, persona): the whole category, and its own brands where it has any.
        loyal = np.stack([np.zeros((C, P), bool), owned > 0])
        self._size = np.where(loyal, owned, sizes).reshape(-1)
        self._first = (starts + np.where(loyal, own, 0)).reshape(-1)
        self._stride = np.where(loyal, P, 1).reshape(-1)
        self._cells = C * P
        top = self._size + 1.0
        if self._exponent == 1:
            self._scale = np.log(top)
        else:
            self._scale = top ** (1 - self._exponent) - 1

    def draw(self, rng: np.random.Generator, categories: Ints, personas: Ints) -> Ints:
        """Return (N,) items for events in ``categories`` by ``personas``."""
        n = len(categories)
        loyal = rng.random(n, np.float32) < self._loyalty
        cell = categories * self._personas + personas + self._cells * loyal
        scaled = rng.random(n) * self._scale[cell]
        bent = 1 - self._exponent
        place = (1 + scaled) ** (1 / bent) if bent else np.exp(scaled)
        rank = np.clip(place.astype(np.int64) - 1, 0, self._size[cell] - 1)
        return np.asarray(self._first[cell] + self._stride[cell] * rank, np.int64)


def _ladder(weights: Floats) -> Floats:
    """Stack the distributions of R rows: row ``r`` climbs from ``r`` to ``r + 1``; (R * K,)."""
    steps = np.cumsum(weights, 1)
    steps /= steps[:, -1:]
    return (steps + np.arange(len(steps))[:, None]).reshape(-1)


def _climb(ladder: Floats, rows: Ints, draws: Floats, width: int) -> Ints:
    """Draw one of ``width`` outcomes from the given row of a ladder for each draw in [0, 1)."""
    found = np.searchsorted(ladder, rows + draws, side="right") - rows * width
    return np.asarray(np.clip(found, 0, width - 1), np.int64)
