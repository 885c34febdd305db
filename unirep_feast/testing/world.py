"""Small random logs with what real ones have: ties, single events, empty pasts, unseen items."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from unirep_feast.events import TIME_TYPE, EventReport, Events
from unirep_feast.instants import MICROSECONDS_PER_DAY, parse_instant
from unirep_feast.packing import PackedEvents, pack
from unirep_feast.sequences import Sequences, Vocabulary, fit_vocabulary

#: When every made log begins.
START = parse_instant("2020-01-01")

#: How many items at the end of the catalogue nobody ever touches.
UNTOUCHED = 3

#: What a different future may look like.
Future = Literal["changed", "added", "removed"]
FUTURES: tuple[Future, ...] = ("changed", "added", "removed")

_HOUR = MICROSECONDS_PER_DAY // 24
_TYPES = np.array(["purchase", "view"])
_WORDS = np.array(
    ["red", "green", "small", "large", "cotton", "glass", "lamp", "mug", "bag", "clock"]
)


@dataclass(frozen=True)
class World:
    """A log, a catalogue and a training cut-off.

    Attributes:
        events: user_id, item_id, event_timestamp, event_type, value; in no order.
        items: item_id, title, category; some items have no event at all.
        until: microseconds; training sees events strictly before it, the log goes on.
    """

    events: pa.Table
    items: pa.Table
    until: int

    @cached_property
    def packed(self) -> PackedEvents:
        """The log, sorted."""
        return pack_table(self.events)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """Fitted on events before ``until``."""
        return fit_vocabulary(self.packed, self.until)

    @cached_property
    def sequences(self) -> Sequences:
        """All histories, the future included, with the whole catalogue."""
        return Sequences.from_packed(self.packed, self.vocabulary, self.items)

    @cached_property
    def past(self) -> Sequences:
        """Histories as training sees them."""
        return self.sequences.before(self.until)

    def with_other_future(self, how: Future, seed: int = 1) -> World:
        """Return the same past with another future.

        Args:
            how: events at or after ``until`` are ``changed`` (other items, types, values and later
                times), ``added`` (some exactly at ``until``, some by new users and of new items) or
                ``removed``.
            seed: another seed gives another future.
        """
        time = self.events["event_timestamp"]
        later = pc.greater_equal(time, pa.scalar(self.until, TIME_TYPE))
        past, future = self.events.filter(pc.invert(later)), self.events.filter(later)
        if how == "removed":
            return replace(self, events=past)
        random = np.random.default_rng(seed)
        if how == "changed":
            rows = future.num_rows
            draw = make_events(users=1, items=1, seed=seed, events=rows)
            shift = random.integers(0, 30 * 24, rows) * _HOUR
            moved = future["event_timestamp"].cast(pa.int64()).to_numpy() + shift
            items = self.items["item_id"].take(pa.array(random.integers(0, len(self.items), rows)))
            future = pa.table(
                {
                    "user_id": future["user_id"],
                    "item_id": items,
                    "event_timestamp": pa.array(moved, TIME_TYPE),
                    "event_type": draw["event_type"],
                    "value": draw["value"],
                }
            ).cast(past.schema)
            return replace(self, events=pa.concat_tables([past, future]))
        string_ids = pa.types.is_string(self.events.schema.field("user_id").type)
        # Ids from below the world's own on: new users move everybody else's row.
        more = make_events(
            30, 60, seed, start=self.until, days=20, string_ids=string_ids, first_user=85
        )
        at_once = more.slice(0, 20)
        at_once = at_once.set_column(2, "event_timestamp", pa.array([self.until] * 20, TIME_TYPE))
        at_once = at_once.set_column(3, "event_type", pa.array(["refund"] * 20))
        return replace(self, events=pa.concat_tables([more, self.events, at_once]))


def make_world(
    users: int = 12,
    items: int = 20,
    seed: int = 0,
    until: int | None = None,
    days: int = 90,
    longest: int = 12,
    string_ids: bool = False,
) -> World:
    """Make a small log with a catalogue.

    Args:
        users: how many; the first has a single event, the last none before ``until``.
        items: how many have events; :data:`UNTOUCHED` more are in the catalogue.
        seed: the same seed makes the same world.
        until: microseconds, the training cut-off; None: two thirds into the log.
        days: how long the log is.
        longest: events of the longest history.
        string_ids: users and items are strings instead of integers.
    """
    events = make_events(users, items, seed, START, days, longest, string_ids)
    cut = START + days * 2 // 3 * MICROSECONDS_PER_DAY
    return World(events, make_items(items + UNTOUCHED, seed, string_ids), until or cut)


def make_sequences(
    users: int = 12,
    items: int = 20,
    seed: int = 0,
    until: int | None = None,
    days: int = 90,
    longest: int = 12,
    string_ids: bool = False,
) -> Sequences:
    """Make histories before a cut-off; the arguments are :func:`make_world`'s."""
    return make_world(users, items, seed, until, days, longest, string_ids).past


def make_events(
    users: int,
    items: int,
    seed: int = 0,
    start: int = START,
    days: int = 90,
    longest: int = 12,
    string_ids: bool = False,
    events: int | None = None,
    first_user: int = 100,
) -> pa.Table:
    """Make an event table in no order.

    Events fall on full hours of busy days, so that many share a time, as in real logs; item
    popularity falls as 1 / rank; a fifth of the values is missing.

    Args:
        users: how many; the first has a single event, the last none in the first two thirds.
        items: how many there are to choose from.
        seed: the same seed makes the same table.
        start: microseconds, when the log begins.
        days: how long the log is.
        longest: events of the longest history.
        string_ids: users and items are strings instead of integers.
        events: exactly so many rows, by users at random; None: the users' lengths decide.
        first_user: the lowest user id.
    """
    random = np.random.default_rng([seed, users, items])
    if events is None:
        lengths = random.integers(2, longest + 1, users)
        lengths[0], lengths[-1] = 1, max(2, longest // 2)
        who = np.repeat(np.arange(users), lengths)
    else:
        who = random.integers(0, users, events)
    rows = who.size
    hours = random.integers(0, days, rows) * 24 + random.choice([9, 12, 18], rows)
    # Every second event of a user joins the one before it: a basket.
    joins = (random.random(rows) < 0.5) & (who == np.roll(who, 1)) & (np.arange(rows) > 0)
    hours[joins] = np.roll(hours, 1)[joins]
    if events is None and users > 1:
        hours[who == users - 1] = random.integers(days * 3 // 4, days, lengths[-1]) * 24
    weight = 1 / np.arange(1, items + 1)
    what = random.choice(items, rows, p=weight / weight.sum())
    value = pa.array(random.integers(1, 50, rows), mask=random.random(rows) < 0.2)
    table = pa.table(
        {
            "user_id": _ids(who + first_user, "u", string_ids),
            "item_id": _ids(what + 1, "i", string_ids),
            "event_timestamp": pa.array(start + hours * _HOUR, TIME_TYPE),
            "event_type": pa.array(_TYPES[random.integers(0, 2, rows)], pa.string()),
            "value": value.cast(pa.float32()),
        }
    )
    return table.take(pa.array(random.permutation(rows)))


def make_items(items: int, seed: int = 0, string_ids: bool = False) -> pa.Table:
    """Make a catalogue: item_id, title (one in ten is missing), category (list of strings)."""
    random = np.random.default_rng([seed, items])
    words = _WORDS[random.integers(0, len(_WORDS), (items, 3))]
    titles = pa.array([" ".join(row) for row in words], mask=random.random(items) < 0.1)
    categories = [[f"category {c}"] for c in random.integers(0, 4, items)]
    return pa.table(
        {
            "item_id": _ids(np.arange(1, items + 1), "i", string_ids),
            "title": titles,
            "category": pa.array(categories, pa.list_(pa.string())),
        }
    ).sort_by("item_id")


def pack_table(events: pa.Table, duplicates: str = "drop") -> PackedEvents:
    """Pack an event table without reading it from a file."""
    report = EventReport(events.num_rows, events.num_rows)
    return pack(Events(events, report, "made"), duplicates)


def _ids(numbers: np.ndarray, prefix: str, string_ids: bool) -> pa.Array:
    if not string_ids:
        return pa.array(numbers, pa.int64())
    # Padded, so that text sorts as numbers do.
    return pa.array([f"{prefix}{number:03}" for number in numbers], pa.string())
