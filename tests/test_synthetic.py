"""The synthetic world: its truth shows in its events, and its files are as documented."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from unirep_feast.instants import MICROSECONDS_PER_DAY
from unirep_feast.synthetic import World, check_world, parse_world, write_world
from unirep_feast.synthetic.behavior import Behavior
from unirep_feast.text import tokenize

SMALL: dict[str, Any] = {"users": 300, "items": 120, "categories": 12, "events_per_user": 20}


@pytest.fixture(scope="module")
def world_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("synthetic") / "world"
    write_world(World(users=4_000, items=1_000), folder)
    return folder


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Path]:
    def build(**changes: Any) -> Path:
        folder = tmp_path / hashlib.sha256(repr(changes).encode()).hexdigest()[:8]
        write_world(World(**{**SMALL, **changes}), folder)
        return folder

    return build


# ── the truth shows ──────────────────────────────────────────────────────────────────────────────


def test_labels_follow_from_what_users_take(world_folder: Path) -> None:
    """A nearest-mean probe on category counts tells segment and gender far better than chance."""
    check = check_world(world_folder)

    assert check.segment.accuracy > 3 * check.segment.chance
    assert check.gender.accuracy > check.gender.chance + 0.2


def test_country_is_a_control(world_folder: Path) -> None:
    """Categories tell nothing of the country: a probe that beats chance there has a leak."""
    check = check_world(world_folder)

    assert check.country.accuracy <= check.country.chance


def test_country_shows_in_the_hours(world_folder: Path) -> None:
    """The clock tells the country: users nine hours ahead are most active nine hours earlier."""
    users = pq.read_table(world_folder / "users.parquet", columns=["user_id", "country"])
    events = pq.read_table(world_folder / "events.parquet").join(users, "user_id")
    angle = {}
    for country in ("GB", "JP"):
        times = events.filter(pc.field("country") == country)["event_timestamp"]
        share = times.cast(pa.int64()).to_numpy() % MICROSECONDS_PER_DAY / MICROSECONDS_PER_DAY
        angle[country] = np.angle(np.exp(2j * np.pi * share).mean()) / (2 * np.pi) * 24

    assert (angle["GB"] - angle["JP"]) % 24 == pytest.approx(9, abs=0.75)


def test_drift_is_visible(world_folder: Path) -> None:
    """Early events are likelier under the start mixture, late ones under the end mixture."""
    check = check_world(world_folder)

    assert check.early_drift < -0.05
    assert check.late_drift > 0.05


def test_seasons_are_visible(world_folder: Path) -> None:
    """Seasonal categories are taken several times as often in their peak month as opposite it."""
    assert check_world(world_folder).peak_to_trough > 4


def test_nobody_acts_outside_his_tenure(world_folder: Path) -> None:
    """No event lies before a user joined, or at or after the time he left."""
    check = check_world(world_folder)
    users = pq.read_table(world_folder / "users.parquet")

    assert check.outside_tenure == 0
    assert 0 < users["churned_at"].null_count < len(users)
    assert check.idle_users > 0


def test_dials_turn_effects_off(make: Callable[..., Path]) -> None:
    """Without drift, seasons and churn there are none; without noise the segment is the mixture."""
    folder = make(users=1_500, drift=0, seasonality=0, churn=0, label_noise=0)
    check, users = check_world(folder), pq.read_table(folder / "users.parquet")
    start = np.stack(users["mixture_start"].to_numpy())

    assert check.early_drift == check.late_drift == 0
    assert check.peak_to_trough == pytest.approx(1, abs=0.2)
    assert users["churned_at"].null_count == len(users)
    assert users["mixture_start"].equals(users["mixture_end"])
    assert users["segment"].to_pylist() == [f"segment_{i}" for i in start.argmax(1)]


def test_noise_hides_the_labels(make: Callable[..., Path]) -> None:
    """With noise many times the mixture, labels are a coin's."""
    check = check_world(make(users=3_000, label_noise=10))

    assert check.segment.accuracy < 2 * check.segment.chance
    assert check.gender.accuracy == pytest.approx(0.5, abs=0.07)


def test_titles_tell_category_and_persona(world_folder: Path) -> None:
    """Words of a title occur with one category, brands with one persona, and departments fit."""
    items = pq.read_table(world_folder / "items.parquet")
    leaf = np.array([path[-1] for path in items["category"].to_pylist()])
    words = [text[:4] for text in tokenize(items["title"], "en").to_pylist()]
    categories: dict[str, set[str]] = {}
    for text, category in zip(words, leaf, strict=True):
        categories.setdefault(text[2], set()).add(category)
        categories.setdefault(text[3], set()).add(category)

    assert all(len(found) == 1 for found in categories.values())
    assert len({text[0] for text in words}) == 6 * 8
    assert len(set(leaf)) == 40
    assert len({tuple(path) for path in items["category"].to_pylist()}) == 40


def test_popularity_is_zipfian(make: Callable[..., Path]) -> None:
    """Within a category the second item is taken half as often as the first, as the law has it."""
    folder = make(
        users=2_000, items=40, categories=1, personas=1, loyalty=0, popularity=1, spread=0
    )
    counts = pq.read_table(folder / "events.parquet")["item_id"].value_counts().field("counts")
    ranked = np.sort(counts.to_numpy())[::-1]
    # The law rounded down: rank r has the mass of [r, r + 1) under density 1 / x on [1, 41).
    law = np.log1p(1 / np.arange(1, 41)) / np.log(41)

    np.testing.assert_allclose(ranked[:10] / ranked.sum(), law[:10], rtol=0.1)


def test_persona_prefers_its_brands(make: Callable[..., Path]) -> None:
    """With full loyalty every event is of the acting persona's brands; of one persona, of all."""
    world = World(**{**SMALL, "loyalty": 1, "concentration": 0.01, "drift": 0, "categories": 2})
    behavior = Behavior(world)
    users, events = behavior.draw(0)
    starts = behavior.truth.category_starts
    category = np.searchsorted(starts, events.items, side="right") - 1
    brand = (events.items - starts[category] + category) % world.personas
    settled = (users.start.max(1) > 0.9999)[events.rows]

    assert settled.sum() > 100
    agreement = brand == users.start.argmax(1)[events.rows]
    assert agreement[settled].mean() > 0.999


def test_event_counts_are_as_asked_and_heavy_tailed(make: Callable[..., Path]) -> None:
    """The mean is what was asked for, whatever joins and leaves; few users hold many events."""
    folder = make(users=20_000, events_per_user=10, churn=0.1, newcomers=0.5)
    events = pq.read_table(folder / "events.parquet")
    counts = np.sort(events["user_id"].value_counts().field("counts").to_numpy())[::-1]

    assert len(events) == pytest.approx(200_000, rel=0.05)
    assert counts[:2_000].sum() > 0.35 * len(events)


def test_a_visit_ends_with_one_purchase_time(make: Callable[..., Path]) -> None:
    """What a user buys in one visit carries one time: ties, as in real logs; views carry none."""
    events = pq.read_table(make(session_events=5) / "events.parquet")
    bought = events.filter(pc.field("event_type") == "purchase")
    ties = bought.group_by(["user_id", "event_timestamp"]).aggregate([([], "count_all")])

    assert len(ties) < 0.8 * len(bought)
    assert pc.sum(pc.not_equal(pc.microsecond(bought["event_timestamp"]), 0)).as_py() == 0
    assert pc.min(bought["value"]).as_py() > 0
    views = events.filter(pc.field("event_type") == "view")
    assert pc.max(views["value"]).as_py() == 0


# ── what is written ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("string_ids", [False, True])
def test_schema(make: Callable[..., Path], string_ids: bool) -> None:
    """The files have the documented columns, plain types, no nulls, and ids that join."""
    folder = make(string_ids=string_ids)
    events, items, users = (
        pq.read_table(folder / f"{name}.parquet") for name in ("events", "items", "users")
    )
    identity = pa.string() if string_ids else pa.int64()

    assert dict(zip(events.schema.names, events.schema.types, strict=True)) == {
        "user_id": identity,
        "item_id": identity,
        "event_timestamp": pa.timestamp("us", tz="UTC"),
        "event_type": pa.string(),
        "value": pa.float64(),
    }
    assert items.schema.names == ["item_id", "title", "category"]
    assert items.schema.field("category").type.value_type == pa.string()
    assert users.schema.field("user_id").type == items.schema.field("item_id").type == identity
    assert not any(column.null_count for column in events.columns + items.columns)
    assert pc.count_distinct(users["user_id"]).as_py() == len(users) == SMALL["users"]
    assert pc.count_distinct(items["item_id"]).as_py() == len(items) == SMALL["items"]
    assert pc.all(pc.is_in(events["user_id"], users["user_id"])).as_py()
    assert pc.all(pc.is_in(events["item_id"], items["item_id"])).as_py()
    for name in ("mixture_start", "mixture_end"):
        np.testing.assert_allclose(np.stack(users[name].to_numpy()).sum(1), 1, rtol=1e-5)


def test_rows_are_in_no_order(world_folder: Path) -> None:
    """Neither time nor user orders the rows, so nothing downstream can lean on it."""
    events = pq.read_table(world_folder / "events.parquet")
    times = events["event_timestamp"].cast(pa.int64()).to_numpy()[:2_000]
    users = events["user_id"].to_numpy()[:2_000]

    assert 0.4 < (np.diff(times) > 0).mean() < 0.6
    assert (np.diff(users) == 0).mean() < 0.05


def test_string_ids_name_the_same_world(make: Callable[..., Path]) -> None:
    """Ids as text change nothing but the ids."""
    plain = pq.read_table(make() / "events.parquet")
    text = pq.read_table(make(string_ids=True) / "events.parquet")

    for name, letter in (("user_id", "u"), ("item_id", "i")):
        numbers = pc.replace_substring_regex(text[name], f"^{letter}0*", "").cast(pa.int64())
        assert numbers.equals(plain[name])
    assert plain.drop(["user_id", "item_id"]).equals(text.drop(["user_id", "item_id"]))


def test_report_says_what_was_written(tmp_path: Path) -> None:
    """Counts and times of the report are those of the files."""
    report = write_world(World(**SMALL), tmp_path / "new" / "world")
    folder = Path(report.folder)
    events = pq.read_table(folder / "events.parquet")
    times = pc.min_max(events["event_timestamp"].cast(pa.int64())).as_py()

    assert report.events == len(events)
    assert report.purchases == pc.sum(pc.equal(events["event_type"], "purchase")).as_py()
    assert (report.first_event, report.last_event) == (times["min"], times["max"])
    assert report.size_bytes == sum(file.stat().st_size for file in folder.iterdir())
    assert json.loads((folder / "world.json").read_text())["users"] == report.users
    assert parse_world(**json.loads((folder / "world.json").read_text())) == World(**SMALL)


def test_a_world_without_events(tmp_path: Path) -> None:
    """A world too small for any event is still three readable files."""
    report = write_world(World(users=1, items=1, categories=1, events_per_user=1e-9), tmp_path)

    assert (report.events, report.first_event) == (0, None)
    assert len(pq.read_table(tmp_path / "events.parquet")) == 0
