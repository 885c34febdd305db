"""The synthetic world is the same for a seed, block by block, and written whole or not at all."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unirep_feast.errors import EventsError, SpecError
from unirep_feast.instants import MICROSECONDS_PER_DAY
from unirep_feast.synthetic import World, parse_world, truth_of, write_world
from unirep_feast.synthetic.behavior import Behavior

SMALL: dict[str, Any] = {"users": 300, "items": 120, "categories": 12, "events_per_user": 20}


def digests(folder: Path) -> dict[str, str]:
    return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in folder.iterdir()}


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
