"""The synthetic world: its truth shows in its events, and it is written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unirep_feast.config import MICROSECONDS_PER_DAY
from unirep_feast.errors import EventsError, SpecError
from unirep_feast.synthetic import World, check_world, parse_world, truth_of, write_world
from unirep_feast.synthetic.behavior import Behavior
from unirep_feast.text import tokenize

SMALL: dict[str, Any] = {"users": 300, "items": 120, "categories": 12, "events_per_user": 20}


def digests(folder: Path) -> dict[str, str]:
    return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in folder.iterdir()}


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


# ── seeds and blocks ─────────────────────────────────────────────────────────────────────────────


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    """Equal settings give equal files, byte by byte; another seed gives others."""
    for name, seed in (("a", 7), ("b", 7), ("c", 8)):
        write_world(World(**SMALL, seed=seed), tmp_path / name)
    a, b, c = (digests(tmp_path / name) for name in "abc")

    assert a == b
    assert not set(a.values()) & set(c.values())


def test_more_users_leave_the_first_ones_alone() -> None:
    """Full blocks stay what they were when the world grows: a user's numbers are his block's."""
    settings = {**SMALL, "events_per_user": 1_000}
    few, many = Behavior(World(**settings)), Behavior(World(**{**settings, "users": 1_000}))

    assert few.world.users_per_block < 300
    for one, other in zip(few.draw(0), many.draw(0), strict=True):
        for name, values in vars(one).items():
            np.testing.assert_array_equal(values, getattr(other, name))


def test_blocks_cover_every_user_once(tmp_path: Path) -> None:
    """Progress runs through all blocks to the last user, each user in one block."""
    calls: list[tuple[int, int]] = []
    world = World(users=1_000, items=50, events_per_user=1_000, spread=0.1)
    report = write_world(world, tmp_path, lambda done, total: calls.append((done, total)))
    users = pq.read_table(tmp_path / "users.parquet", columns=["user_id"])["user_id"]

    assert len(calls) == Behavior(world).blocks > 2
    assert calls[-1] == (1_000, 1_000)
    assert users.to_pylist() == list(range(1, 1_001))
    assert pq.read_metadata(tmp_path / "events.parquet").num_row_groups == len(calls)
    assert report.events == pytest.approx(1_000_000, rel=0.1)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_any_world_keeps_its_promises(tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    """Whatever the settings: tenure is kept, values are finite, every item and time is in range."""
    items = data.draw(st.integers(1, 60))
    unit = st.sampled_from([0.0, 0.5, 1.0])
    days = data.draw(st.integers(1, 400))
    world = World(
        seed=data.draw(st.integers(0, 2**63)),
        users=data.draw(st.integers(1, 40)),
        items=items,
        categories=data.draw(st.integers(1, items)),
        personas=data.draw(st.integers(1, 9)),
        start=0,
        end=days * MICROSECONDS_PER_DAY,
        events_per_user=data.draw(st.sampled_from([0.3, 5.0, 80.0])),
        spread=data.draw(st.sampled_from([0.0, 2.5])),
        session_events=data.draw(st.sampled_from([1.0, 4.0])),
        purchase_share=data.draw(unit),
        concentration=data.draw(st.sampled_from([0.01, 1.0, 100.0])),
        drift=data.draw(unit),
        seasonality=data.draw(unit),
        loyalty=data.draw(unit),
        popularity=data.draw(st.sampled_from([0.0, 1.0, 1.0 + 1e-9, 1.01, 3.0])),
        newcomers=data.draw(unit),
        churn=data.draw(st.sampled_from([0.0, 0.5, 0.999])),
    )
    behavior = Behavior(world)
    users, events = behavior.draw(0)
    joined, left = (world.start + day * MICROSECONDS_PER_DAY for day in (users.joined, users.left))

    assert ((events.times >= joined[events.rows]) & (events.times < left[events.rows])).all()
    assert ((users.joined < users.left) & (users.left <= days)).all()
    assert ((events.items >= 0) & (events.items < items)).all()
    assert np.isfinite(events.values).all()
    assert (events.values[~events.purchases] == 0).all()
    assert sorted(behavior.truth.item_ids.tolist()) == list(range(1, items + 1))


def test_truth_is_that_of_the_world() -> None:
    """Distributions sum to one, each item has a category, half a year parts peak and trough."""
    world = World(**SMALL)
    truth = truth_of(world)
    seasonal = truth.peak_month > 0

    np.testing.assert_allclose(truth.persona_categories.sum(1), 1)
    assert np.bincount(truth.item_category).tolist() == np.diff(truth.category_starts).tolist()
    assert (np.diff(truth.category_starts) > 0).all()
    assert ((truth.season.argmax(0) + 1) == truth.peak_month)[seasonal].all()
    assert (truth.season[:, ~seasonal] == 1).all()


# ── all or nothing ───────────────────────────────────────────────────────────────────────────────


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    """A world is replaced only when asked; anything else in the folder is never touched."""
    write_world(World(**SMALL), tmp_path)
    before = digests(tmp_path)
    with pytest.raises(EventsError, match=r"the folder is not empty; .*--overwrite"):
        write_world(World(**SMALL, seed=1), tmp_path)
    assert digests(tmp_path) == before

    write_world(World(**SMALL, seed=1), tmp_path, overwrite=True)
    assert digests(tmp_path).keys() == before.keys()
    assert digests(tmp_path) != before

    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(EventsError, match=r"holds 'thesis.tex', which no"):
        write_world(World(**SMALL), tmp_path, overwrite=True)
    assert (tmp_path / "thesis.tex").read_text() == "precious"


def test_a_file_in_the_way_is_refused(tmp_path: Path) -> None:
    """Where a file stands, or below one, no folder can be made: one line."""
    (tmp_path / "file").write_text("")
    for target in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(EventsError, match="Not a directory"):
            write_world(World(**SMALL), target)


@pytest.mark.parametrize("exists", [False, True])
def test_interruption_leaves_nothing(tmp_path: Path, exists: bool) -> None:
    """Ctrl-C half-way leaves a new folder unmade and an old world as it was."""
    folder = tmp_path / "world"
    before = {}
    if exists:
        write_world(World(**SMALL), folder)
        before = digests(folder)

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_world(World(**SMALL, seed=1), folder, interrupt, overwrite=True)

    assert folder.exists() == exists
    assert list(tmp_path.iterdir()) == ([folder] if exists else [])
    assert not exists or digests(folder) == before


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    """When no more can be written, one line says so and nothing is left behind."""
    code = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from unirep_feast.synthetic import World, write_world\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))\n"
        "try:\n"
        "    write_world(World(users=5_000), Path(sys.argv[1]))\n"
        "except Exception as error:\n"
        "    print(type(error).__name__, error)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "world")]
    out = subprocess.run(command, capture_output=True, text=True, check=True)

    assert out.stdout.startswith("EventsError synthetic world")
    assert "nothing was written" in out.stdout
    assert out.stdout.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_wrong_settings_are_listed_together() -> None:
    """Every wrong setting is named with what was found, in one line."""
    with pytest.raises(SpecError) as caught:
        parse_world(users=0, drift=2, colour="red")

    assert "3 problems" in str(caught.value)
    for part in ("users", "found 0", "drift", "found 2", "unknown key `colour`"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"start": "2024-01-01T05:00"}, "must be midnights UTC"),
        ({"start": "2025-01-01", "end": "2025-01-01"}, "at least one day after"),
        ({"items": 3, "categories": 4}, "found 4 categories for 3 items"),
        ({"personas": 1_000, "categories": 1_000}, "found 1000 personas by 1000 categories"),
        ({"end": "2300-01-01"}, "wanted at most a century"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes: dict[str, Any], problem: str) -> None:
    """Settings that contradict each other are refused with both values."""
    with pytest.raises(SpecError, match=problem):
        parse_world(**changes)


def test_memory_does_not_grow_with_users(tmp_path: Path) -> None:
    """Eight times the users take no more memory at the peak than one block and a margin."""
    code = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from unirep_feast.synthetic import World, write_world\n"
        "write_world(World(users=int(sys.argv[1]), events_per_user=100), Path(sys.argv[2]))\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
    )
    peaks = [
        int(
            subprocess.run(
                [sys.executable, "-c", code, str(users), str(tmp_path / str(users))],
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        )
        for users in (3_000, 24_000)
    ]

    assert peaks[1] < peaks[0] + 60_000  # kilobytes; 2.4 M events alone would take 100,000
