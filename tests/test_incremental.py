"""`encode --incremental`: the same bytes as encoding everybody, for a part of the work."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from unirep_feast.errors import PluginError
from unirep_feast.events import TIME_TYPE
from unirep_feast.inference import Inference
from unirep_feast.instants import MICROSECONDS_PER_DAY, format_instant, parse_instant
from unirep_feast.pipeline import Encoding, encode, train
from unirep_feast.snapshot import read_vectors
from unirep_feast.testing.world import make_events

START = parse_instant("2020-01-01")
DAY = MICROSECONDS_PER_DAY


@dataclass
class Log:
    """An event log as it stands at some moment, with what happens to it."""

    table: pa.Table
    random: np.random.Generator

    def add(self, start: int, days: int, rows: int, users: int = 60) -> None:
        """Events of users old and new, many at the same hour, some exactly at ``start``."""
        seed = int(self.random.integers(1 << 30))
        more = make_events(users, 30, seed, start, days, events=rows, first_user=95)
        at_once = np.full(min(3, rows), start)
        times = more["event_timestamp"].cast(pa.int64()).to_numpy().copy()
        times[: len(at_once)] = at_once
        more = more.set_column(2, "event_timestamp", pa.array(times, TIME_TYPE))
        self.table = pa.concat_tables([self.table, more])

    def change(self, before: int) -> None:
        """Replace the item of one old event, and delete another: what nobody announces."""
        times = self.table["event_timestamp"].cast(pa.int64()).to_numpy()
        old = self.random.permutation(np.flatnonzero(times < before))
        items = self.table["item_id"].to_numpy().copy()
        items[old[0]] = items[old[0]] % 30 + 1
        table = self.table.set_column(1, "item_id", pa.array(items))
        self.table = table.filter(pa.array(np.arange(len(items)) != old[1]))


def full(shop: Any, as_of: int) -> Encoding:
    """What encoding all users makes, in a copy of the shop."""
    spec = shop.parsed()
    copy = shop.folder / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(spec.resolve(spec.storage), copy)
    return encode(spec.model_copy(update={"storage": str(copy)}), as_of)


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many users went through the encoder, per call; probes aside."""
    counts: list[int] = []
    vectors = Inference.vectors

    def counting(self: Any, eligible: Any, rows: Any, *tick: Any) -> Any:
        if tick:
            counts.append(len(rows))
        return vectors(self, eligible, rows, *tick)

    monkeypatch.setattr(Inference, "vectors", counting)
    return counts


@pytest.mark.parametrize(
    "settings",
    [
        {"max_events": 4, "vectors": 2, "slots": True},
        {"max_events": None, "max_days": 20.0},
        {"max_events": 3, "max_days": 45.5},
    ],
    ids=["last four events, slots", "last 20 days", "both"],
)
@pytest.mark.parametrize("seed", range(4))
def test_every_step_has_the_bytes_of_a_full_encode(
    shop: Any, settings: dict[str, Any], seed: int
) -> None:
    """Over several steps, with users entering, ties, and a past that changes behind one's back."""
    random = np.random.default_rng(seed)
    shop.write(
        encoder={"name": "lab", "settings": settings},
        plugin=None,
        events__columns={"type": "event_type", "value": "value"},
        encode__block_users=int(random.choice([3, 8, 1000])),
        training__until=format_instant(START),
        vocabulary__min_count=1,
    )
    log = Log(make_events(40, 30, seed, START - 60 * DAY, 60, 8), random)
    log.add(START - 10 * DAY, 9, 30)
    shop.log(log.table)
    train(shop.parsed())
    as_of = START
    carried = []
    for step in range(4):
        if step:
            log.add(as_of, 7, int(random.choice([4, 40])))
            if random.random() < 0.5:
                log.change(as_of)
            if random.random() < 0.5:
                log.add(as_of - 5 * DAY, 5, 5)  # late arrivals
        as_of += int(random.integers(1, 8)) * DAY
        shop.log(log.table.take(pa.array(random.permutation(log.table.num_rows))))
        wanted = full(shop, as_of)

        found = encode(shop.parsed(), as_of, incremental=True)

        assert found.path.read_bytes() == wanted.path.read_bytes()
        assert found.users == wanted.users
        assert not wanted.carried
        carried.append(found.carried)

    assert carried[0] == 0
    assert max(carried) > 0


def test_only_users_with_another_history_are_encoded(shop: Any, encoded: list[int]) -> None:
    """Three users with new events and one newcomer: four go through the encoder."""
    shop.write(plugin=None, encoder={"name": "lab"}, encode__block_users=10)
    log = make_events(50, 30, 5, START - 60 * DAY, 60)
    shop.write(training__until=format_instant(START))
    shop.log(log)
    train(shop.parsed())
    first = encode(shop.parsed(), START)
    users = first.path
    ids, _ = read_vectors(users)
    some = [*ids.to_pylist()[::20], 10**6]
    more = log.slice(0, len(some)).set_column(0, "user_id", pa.array(some))
    more = more.set_column(2, "event_timestamp", pa.array([START + DAY] * len(some), TIME_TYPE))
    shop.log(pa.concat_tables([log, more]))
    encoded.clear()
    lines: list[str] = []

    second = encode(shop.parsed(), START + 2 * DAY, notify=lines.append, incremental=True)

    assert sum(encoded) == len(some)
    assert second.users == first.users + 1
    assert second.carried == second.users - len(some)
    assert f"{len(some)} users changed since {format_instant(START)}" in " ".join(lines)

    encoded.clear()
    again = encode(shop.parsed(), START + 3 * DAY, incremental=True)

    assert encoded in ([], [0])
    assert again.carried == again.users
    assert again.path.read_bytes() == full(shop, START + 3 * DAY).path.read_bytes()


def test_plain_files_and_strings_are_carried_too(shop: Any) -> None:
    """With --out and string ids, the plain file equals that of a full encode."""
    log = make_events(40, 30, 2, START - 60 * DAY, 70, string_ids=True)
    shop.write(plugin=None, encoder={"name": "lab"}, training__until=format_instant(START))
    shop.log(log)
    train(shop.parsed())
    spec = shop.parsed()
    encode(spec, START)
    one, other = shop.folder / "one.parquet", shop.folder / "other.parquet"

    found = encode(spec, START + 5 * DAY, out=one, incremental=True)
    encode(spec, START + 5 * DAY, out=other)

    assert found.carried > 0
    assert one.read_bytes() == other.read_bytes()


def _remove(path: Path) -> None:
    path.unlink()


def _damage(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3] + b"xyz")


@pytest.mark.parametrize(
    ("harm", "reason"),
    [(_remove, "is gone"), (_damage, "was changed since it was written")],
    ids=["removed", "damaged"],
)
def test_an_earlier_snapshot_that_will_not_do_is_passed_over(
    shop: Any, harm: Callable[[Path], None], reason: str
) -> None:
    """The one before it is used, and why is said; without any, all users are encoded."""
    shop.write(plugin=None, encoder={"name": "lab"})
    train(shop.parsed())
    spec = shop.parsed()
    cut = parse_instant("2020-03-01")
    first, second = encode(spec, cut), encode(spec, cut + DAY)
    harm(second.path)
    lines: list[str] = []

    found = encode(spec, cut + 2 * DAY, notify=lines.append, incremental=True)

    assert found.carried > 0
    text = " ".join(lines)
    assert f"as of {format_instant(cut + DAY)}: {second.path} {reason}" in text
    assert f"changed since {format_instant(cut)}" in text

    harm(first.path)
    found.path.unlink()
    lines.clear()
    none = encode(spec, cut + 3 * DAY, notify=lines.append, incremental=True)

    assert none.carried == 0
    assert lines[-2 if "left out" in lines[-1] else -1] == "all users are encoded"


def test_another_machine_encodes_all(shop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A snapshot made with another build, thread count or batch size is not carried over."""
    shop.write(plugin=None, encoder={"name": "lab"})
    train(shop.parsed())
    cut = parse_instant("2020-03-01")
    encode(shop.parsed(), cut)
    shop.write(encode__cells=512)
    lines: list[str] = []

    found = encode(shop.parsed(), cut + DAY, notify=lines.append, incremental=True)

    assert found.carried == 0
    assert "256 cells, here is" in " ".join(lines)


def test_vectors_that_depend_on_mates_are_encoded_anew(
    shop: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the probe finds other bits in other company, all users are encoded, and it is said."""
    shop.write(plugin=None, encoder={"name": "lab"})
    train(shop.parsed())
    cut = parse_instant("2020-03-01")
    encode(shop.parsed(), cut)
    monkeypatch.setattr(Inference, "probe", lambda *_: False)
    lines: list[str] = []

    found = encode(shop.parsed(), cut + DAY, notify=lines.append, incremental=True)

    assert found.carried == 0
    assert "other batch mates" in " ".join(lines)
    assert "; all users are encoded" in " ".join(lines)


def test_snapshots_of_another_run_are_never_carried_over(shop: Any) -> None:
    """Each run starts with a full encode: its vectors live in a space of their own."""
    shop.write(plugin=None, encoder={"name": "lab"})
    spec = shop.parsed()
    train(spec)
    cut = parse_instant("2020-03-01")
    encode(spec, cut)
    other = train(spec).run
    lines: list[str] = []

    found = encode(spec, cut + DAY, run=other, notify=lines.append, incremental=True)

    assert found.carried == 0
    wanted = f"run {other} has no snapshot before {format_instant(cut + DAY)}; all users are"
    assert wanted in " ".join(lines)


def test_encoders_that_depend_on_the_time_itself_are_refused(
    shop: Any, cli: Any, refusal: Any
) -> None:
    """In one line that names the encoder, before anything is read or written."""
    shop.write(plugin=None, encoder={"name": "lab", "settings": {"ages": True}})
    train(shop.parsed())
    cut = parse_instant("2020-03-01")

    line = refusal(cli("encode", shop.path, "--as-of", "2020-03-01", "--incremental"))

    assert "encoder 'lab' change with the as-of time alone" in line
    with pytest.raises(PluginError):
        encode(shop.parsed(), cut, incremental=True)
    assert not list(shop.home.glob("snapshots/*/*.parquet"))


def test_the_command_carries_over_and_says_so(shop: Any, cli: Any) -> None:
    """Two times in one call: the second builds on the first; --json tells how many."""
    shop.write(plugin=None, encoder={"name": "lab"})
    assert cli("train", shop.path).exit_code == 0

    result = cli(
        "encode",
        shop.path,
        *("--as-of", "2020-03-01", "--as-of", "2020-03-03", "--incremental", "--json"),
    )

    assert result.exit_code == 0, result.stderr
    assert "no snapshot before 2020-03-01T00:00:00Z; all users are encoded" in result.stderr
    assert "are carried over" in result.stderr
    import json

    first, second = json.loads(result.stdout)
    assert first["carried"] == 0
    assert 0 < second["carried"] < second["users"]


def test_the_column_of_hashes_is_that_of_the_users(shop: Any) -> None:
    """A snapshot keeps one hash per user, and two users of unlike histories have unlike ones."""
    shop.write(plugin=None, encoder={"name": "lab"})
    train(shop.parsed())

    made = encode(shop.parsed(), parse_instant("2020-03-01"))

    table = pq.read_table(made.path)
    assert table.schema.field("history_hash").type == pa.int64()
    assert len(set(table["history_hash"].to_pylist())) == table.num_rows


@pytest.mark.slow
def test_clue_carries_over_too(shop: Any) -> None:
    """A trained transformer, not only a mean: bit-equal over three steps."""
    pytest.importorskip("unirep_feast_clue")
    small = {"dim": 16, "max_events": 20, "backbone": "sasrec"}
    shop.write(plugin="clue", encoder={"settings": small}, training__max_steps=3)
    train(shop.parsed())
    cut = parse_instant("2020-03-01")
    for step in range(3):
        wanted = full(shop, cut + 2 * step * DAY)
        found = encode(shop.parsed(), cut + 2 * step * DAY, incremental=True)

        assert found.path.read_bytes() == wanted.path.read_bytes()
        assert (found.carried > 0) == (step > 0)
