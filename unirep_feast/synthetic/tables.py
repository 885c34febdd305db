"""A synthetic world as Arrow tables: the schemas, and the words that titles are made of."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from unirep_feast.instants import MICROSECONDS_PER_DAY
from unirep_feast.synthetic.behavior import COUNTRIES, Events, Users
from unirep_feast.synthetic.truth import TITLE_STREAM, Floats, Ints, Truth, stream
from unirep_feast.synthetic.world import World

TIME = pa.timestamp("us", tz="UTC")
ITEMS_PER_CHUNK = 2**18
WORDS_PER_CATEGORY = WORDS_PER_PERSONA = 6
CATEGORIES_PER_DEPARTMENT = 8
FILLERS = 64
SYLLABLES = [consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeiou"]


class WorldTables:
    """Turns numbers into tables.

    Event types, and ids that are text, are dictionary arrays in memory; a parquet file written
    without the Arrow schema in it holds and gives back plain strings.
    """

    def __init__(self, world: World, truth: Truth) -> None:
        self.world, self.truth = world, truth
        identity = pa.string() if world.string_ids else pa.int64()
        self._event_types = pa.array(["view", "purchase"])
        self._countries = pa.array([name for name, _, _ in COUNTRIES])
        self._segments = pa.array([f"segment_{i}" for i in range(world.personas)])
        self._item_names = _names("i", truth.item_ids, world.items) if world.string_ids else None
        self.items_schema = pa.schema(
            {"item_id": identity, "title": pa.string(), "category": pa.list_(pa.string())}
        )
        text = pa.dictionary(pa.int32(), pa.string())
        self.events_schema = pa.schema(
            {
                "user_id": text if world.string_ids else pa.int64(),
                "item_id": identity,
                "event_timestamp": TIME,
                "event_type": pa.dictionary(pa.int8(), pa.string()),
                "value": pa.float64(),
            }
        )
        self.users_schema = pa.schema(
            {
                "user_id": identity,
                "gender": pa.string(),
                "segment": pa.string(),
                "country": pa.string(),
                "joined_at": TIME,
                "churned_at": TIME,
                "mixture_start": pa.list_(pa.float32()),
                "mixture_end": pa.list_(pa.float32()),
            }
        )

    def users(self, users: Users) -> pa.Table:
        """Return a block's users; ``churned_at`` is the midnight from which they do nothing."""
        days = np.datetime64(self.world.start, "us") + users.left * np.timedelta64(1, "D")
        churned = pa.array(days, TIME, mask=users.left >= self.world.days)
        joined = self.world.start + users.joined * MICROSECONDS_PER_DAY
        columns = [
            self._user_ids(users),
            pa.array(["M", "F"]).take(pa.array(users.gender.astype(np.int8))),
            self._segments.take(pa.array(users.segment)),
            self._countries.take(pa.array(users.country)),
            pa.array(joined).cast(TIME),
            churned,
            _lists(users.start),
            _lists(users.end),
        ]
        return pa.table(columns, schema=self.users_schema)

    def events(self, users: Users, events: Events) -> pa.Table:
        """Return a block's events, as unordered as they were drawn."""
        ids = self._user_ids(users)
        if self._item_names is None:
            user_ids: pa.Array = pa.array(ids.to_numpy()[events.rows])
            item_ids = pa.array(self.truth.item_ids[events.items])
        else:
            rows = pa.array(events.rows.astype(np.int32))
            user_ids = pa.DictionaryArray.from_arrays(rows, ids)
            item_ids = self._item_names.take(pa.array(events.items))
        kinds = pa.DictionaryArray.from_arrays(
            pa.array(events.purchases.astype(np.int8)), self._event_types
        )
        columns = [user_ids, item_ids, pa.array(events.times).cast(TIME), kinds, events.values]
        return pa.table(columns, schema=self.events_schema)

    def items(self) -> Iterator[pa.Table]:
        """Yield the items in the order of their ids, a chunk at a time.

        A title is a brand word of the item's persona, a filler that means nothing, and two words
        of its category, the last one in the plural in a third of the cases.
        """
        world, truth, rng = self.world, self.truth, stream(self.world, TITLE_STREAM)
        P, C = world.personas, world.categories
        own = [C * WORDS_PER_CATEGORY, P * WORDS_PER_PERSONA, FILLERS, C, C]
        words = pa.array(_words(rng, sum(own)))
        category_words, brands, fillers, names, departments = np.split(
            np.arange(sum(own)), np.cumsum(own)[:-1]
        )
        place = np.empty(world.items, np.int64)  # of the item whose published number is i + 1
        place[truth.item_ids - 1] = np.arange(world.items)
        for low in range(0, world.items, ITEMS_PER_CHUNK):
            items = place[low : low + ITEMS_PER_CHUNK]
            n = len(items)
            category = np.searchsorted(truth.category_starts, items, side="right") - 1
            persona = (items - truth.category_starts[category] + category) % P
            two = rng.integers(0, WORDS_PER_CATEGORY, n)
            other = (two + rng.integers(1, WORDS_PER_CATEGORY, n)) % WORDS_PER_CATEGORY
            parts = [
                brands[persona * WORDS_PER_PERSONA + rng.integers(0, WORDS_PER_PERSONA, n)],
                fillers[rng.integers(0, FILLERS, n)],
                category_words[category * WORDS_PER_CATEGORY + two],
                category_words[category * WORDS_PER_CATEGORY + other],
            ]
            plural = pa.array(["", "s"]).take(pa.array((rng.random(n) < 1 / 3).astype(np.int8)))
            title = pc.binary_join_element_wise(*(words.take(pa.array(p)) for p in parts), " ")
            path = np.stack(
                [departments[category // CATEGORIES_PER_DEPARTMENT], names[category]], 1
            )
            if self._item_names is None:
                ids: pa.Array = pa.array(truth.item_ids[items])
            else:
                ids = self._item_names.take(pa.array(items))
            columns = [
                ids,
                pc.binary_join_element_wise(title, plural, ""),
                pa.ListArray.from_arrays(
                    pa.array(np.arange(0, 2 * n + 1, 2, dtype=np.int32)),
                    words.take(pa.array(path.reshape(-1))),
                ),
            ]
            yield pa.table(columns, schema=self.items_schema)

    def _user_ids(self, users: Users) -> pa.Array:
        numbers = users.first + 1 + np.arange(len(users.left))
        return (
            _names("u", numbers, self.world.users) if self.world.string_ids else pa.array(numbers)
        )


def _names(letter: str, numbers: Ints, largest: int) -> pa.Array:
    """Write numbers as text of equal length, such as ``u00042``."""
    digits = pc.utf8_lpad(pa.array(numbers).cast(pa.string()), len(str(largest)), "0")
    return pc.binary_join_element_wise(letter, digits, "")


def _words(rng: np.random.Generator, count: int) -> list[str]:
    """Make up distinct words of three syllables and a closing consonant."""
    n = len(SYLLABLES)
    picks = rng.choice(n**3, count, replace=False)
    return [
        SYLLABLES[i % n] + SYLLABLES[i // n % n] + SYLLABLES[i // n**2] + "nkrm"[i % 4]
        for i in picks.tolist()
    ]


def _lists(rows: Floats) -> pa.Array:
    n, width = rows.shape
    offsets = pa.array(np.arange(0, n * width + 1, width, dtype=np.int32))
    return pa.ListArray.from_arrays(offsets, pa.array(rows.astype(np.float32).reshape(-1)))
