"""`unirep similar` over made-up vectors: who is found, through what, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import Result

from unirep_feast.catalog import Catalog
from unirep_feast.config import parse_instant
from unirep_feast.events import TIME_TYPE
from unirep_feast.pipeline import read_spec, space
from unirep_feast.pipeline.similar import Where, similar_users
from unirep_feast.pipeline.space import How
from unirep_feast.snapshot import (
    ItemBlock,
    VectorBlock,
    point_promoted,
    snapshot_path,
    write_items,
    write_snapshot,
)

Cli = Callable[..., Result]

EARLY, LATE = "2020-01-01", "2020-06-01"
USERS, ITEMS = 80, 40


@dataclass
class Shop:
    """A folder with a spec, a log, and runs whose vectors were drawn, not trained."""

    folder: Path
    texts: bool = False
    k: int = 2
    d: int = 6
    spec: dict[str, Any] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        return self.folder / "shop.yaml"

    @property
    def home(self) -> Path:
        return self.folder / "data/unirep/shop"

    @property
    def catalog(self) -> Catalog:
        return Catalog(f"sqlite:///{self.folder}/data/unirep/catalog.db")

    def ids(self, kind: str, count: int) -> pa.Array:
        numbers = np.arange(count) + (0 if kind == "user" else 500)
        return pa.array([f"{kind[0]}{n:03d}" for n in numbers] if self.texts else numbers)

    def name(self, kind: str, row: int) -> Any:
        return self.ids(kind, USERS)[row].as_py()

    def write(self) -> None:
        """The spec, a log in which user u had items u … u + 2, and a table of every other item."""
        self.spec = {
            "name": "shop",
            "events": {"path": "events.parquet"},
            "items": {"path": "items.parquet"},
            "plugin": "lab",
        }
        self.path.write_text(yaml.safe_dump(self.spec))
        user = np.repeat(np.arange(USERS), 4)
        item = (user + np.tile([0, 1, 2, 3], USERS)) % ITEMS
        day = np.tile([1, 2, 3, 900], USERS)  # the last one long after every snapshot
        times = parse_instant("2019-12-01") + day * 86_400_000_000
        events = {
            "user_id": self.ids("user", USERS).take(pa.array(user)),
            "item_id": self.ids("item", ITEMS).take(pa.array(item)),
            "event_timestamp": pa.array(times, TIME_TYPE),
        }
        if self.texts:
            events["user_id"] = events["user_id"].dictionary_encode()
        pq.write_table(pa.table(events), self.folder / "events.parquet")
        listed = self.ids("item", ITEMS)[::2]
        titles = [f"Thing {i} [red]" for i in range(0, ITEMS, 2)]
        table = {"item_id": listed, "title": titles, "category": ["things"] * len(titles)}
        pq.write_table(pa.table(table), self.folder / "items.parquet")

    def run(self, run: str) -> None:
        """A finished run, promoted if it is the first."""
        folder = self.home / "runs" / run
        folder.mkdir(parents=True)
        catalog = self.catalog
        catalog.start_run(
            run,
            representation="shop",
            spec="{}",
            spec_hash="0",
            plugins={},
            folder=str(folder),
        )
        catalog.finish_run(run, steps=1, metrics={})
        if catalog.promoted("shop") is None:
            catalog.promote(run, lambda: point_promoted(self.home, run))

    def vectors(self, run: str, time: str, kind: str) -> np.ndarray:
        """(n, K, D) of a kind; other for each run and time."""
        rng = np.random.default_rng([len(run), parse_instant(time) // 10**9, len(kind)])
        shape = (USERS, self.k, self.d) if kind == "user" else (ITEMS, 1, self.d)
        return rng.standard_normal(shape).astype(np.float32)

    def snapshot(self, run: str, time: str, kind: Any = "user") -> None:
        """Write and record a snapshot."""
        as_of, vectors = parse_instant(time), self.vectors(run, time, kind)
        path = snapshot_path(self.home, run, as_of, kind)
        flat, ids = vectors.reshape(len(vectors), -1), self.ids(kind, len(vectors))
        if kind == "user":
            ones = np.ones(len(ids), np.int64)
            block = VectorBlock(ids, flat, ones, ones)
            made = write_snapshot(
                path, [block], "user_id", as_of, as_of, self.k, self.d, metadata={}
            )
        else:
            made = write_items(path, [ItemBlock(ids, flat)], "item_id", as_of, as_of, self.d, {})
        self.catalog.add_snapshot(
            run,
            as_of=as_of,
            path=str(path),
            checksum=made.checksum,
            rows=made.rows,
            num_vectors=vectors.shape[1],
            dim=self.d,
            entity=kind,
        )

    def expected(self, questions: np.ndarray, owners: np.ndarray, merge: str = "max") -> np.ndarray:
        """(n,) float64 cosine scores, pair by pair."""
        q, v = questions.astype(np.float64), owners.astype(np.float64)
        q, v = (one / np.linalg.norm(one, axis=-1, keepdims=True) for one in (q, v))
        best = np.einsum("bqd,nkd->bnqk", q, v).max(axis=(2, 3))
        return best.max(0) if merge == "max" else best.mean(0)


def make_shop(folder: Path, **settings: Any) -> Shop:
    shop = Shop(folder, **settings)
    shop.write()
    shop.run("r1")
    for time in (EARLY, LATE):
        shop.snapshot("r1", time)
        shop.snapshot("r1", time, "item")
    return shop


@pytest.fixture(params=["int64", "string"])
def shop(request: pytest.FixtureRequest, tmp_path: Path, lab: None) -> Shop:
    return make_shop(tmp_path, texts=request.param == "string")


@pytest.fixture
def plain(tmp_path: Path, lab: None) -> Shop:
    return make_shop(tmp_path)


def answer(result: Result) -> Any:
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def assert_best(found: Any, scores: np.ndarray, ids: pa.Array, left_out: list[int]) -> None:
    """The hits are the best of the scores, in order."""
    scores = scores.copy()
    scores[left_out] = -np.inf
    order = np.argsort(-scores, kind="stable")[: len(found)]
    assert [one["id"] for one in found] == ids.take(pa.array(order)).to_pylist()
    np.testing.assert_allclose([one["score"] for one in found], scores[order], atol=1e-5)


# -- who is found ----------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["--exact", "--index"])
def test_look_alikes_of_a_user(shop: Shop, cli: Cli, way: str) -> None:
    """The best over all pairs of vectors, without himself, from the newest snapshot."""
    user = shop.name("user", 7)

    found = answer(cli("similar", shop.path, user, "--top", 5, "--json", way, "--recall", 1))

    vectors = shop.vectors("r1", LATE, "user")
    assert (found["run"], found["as_of"]) == ("r1", "2020-06-01T00:00:00Z")
    assert len(found["users"]) == 5
    assert (found["recall"] is None) == (way == "--exact")
    assert_best(found["users"], shop.expected(vectors[7:8], vectors), shop.ids("user", USERS), [7])


@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("way", ["--exact", "--index"])
@pytest.mark.parametrize("merge", ["max", "mean"])
def test_an_audience_of_seeds(
    tmp_path: Path, lab: None, cli: Cli, merge: str, way: str, k: int
) -> None:
    """Seeds from arguments and a file, ranked by their best or mean score, are not in it."""
    shop = make_shop(tmp_path, k=k)
    seeds = tmp_path / "seeds.txt"
    seeds.write_text("9\n\n  11 \n3\n")

    result = cli(
        *("similar", shop.path, 3, 5, "--seeds", seeds, "--score", merge),
        *("--as-of", EARLY, "--json", way, "--recall", 1),
    )

    found = answer(result)
    vectors, rows = shop.vectors("r1", EARLY, "user"), [3, 5, 9, 11]
    assert found["seeds"] == 4
    scores = shop.expected(vectors[rows], vectors, merge)
    assert len(found["users"]) == 10
    assert_best(found["users"], scores, shop.ids("user", USERS), rows)


def test_seeds_without_a_vector_are_named_and_left_out(plain: Shop, cli: Cli) -> None:
    """An audience forgives unknown seeds, aloud."""
    result = cli("similar", plain.path, 3, 700, 800, "--json")

    assert answer(result) == {**answer(cli("similar", plain.path, 3, "--json")), "seeds": 1}
    assert "users 700, 800: no vector as of 2020-06-01T00:00:00Z in run r1" in result.stderr


@pytest.mark.parametrize("metric", ["inner_product", "l2"])
def test_other_metrics(plain: Shop, cli: Cli, metric: str) -> None:
    """Inner product and distance, exact and through an index of its own."""
    vectors = plain.vectors("r1", LATE, "user").astype(np.float64)
    pairs = np.einsum("qd,nkd->nqk", vectors[2], vectors)
    if metric == "l2":
        pairs = -np.linalg.norm(vectors[2][:, None] - vectors[:, None], axis=-1)

    for way in ("--exact", "--index"):
        found = answer(
            cli("similar", plain.path, 2, "--metric", metric, way, "--recall", 1, "--json")
        )
        assert found["metric"] == metric
        assert_best(found["users"], pairs.max(axis=(1, 2)), plain.ids("user", USERS), [2])


@pytest.mark.parametrize("way", ["--exact", "--index"])
def test_items_for_a_user(shop: Shop, cli: Cli, way: str) -> None:
    """The best over the user's vectors, with titles, and a flag on what he had before T."""
    scores = shop.expected(shop.vectors("r1", LATE, "user")[4:5], shop.vectors("r1", LATE, "item"))
    ids, user = shop.ids("item", ITEMS), shop.name("user", 4)

    found = answer(
        cli("similar", shop.path, user, "--items", "--top", ITEMS, way, "--recall", 1, "--json")
    )
    new = answer(
        cli("similar", shop.path, user, "--items", "--new-only", way, "--recall", 1, "--json")
    )

    assert_best(found["items"], scores, ids, [])
    had = {one["id"] for one in found["items"] if one["had"]}
    assert had == set(ids[4:7].to_pylist())  # the fourth comes after T
    titles = {one["id"]: one["title"] for one in found["items"]}
    assert titles[ids[6].as_py()] == "Thing 6 [red]" and titles[ids[7].as_py()] is None
    assert len(new["items"]) == 10 and not any(one["had"] for one in new["items"])
    assert_best(new["items"], scores, ids, [4, 5, 6])


def test_what_people_read(plain: Shop, cli: Cli) -> None:
    """A table with titles as they are, then one line on where it comes from."""
    items = cli("similar", plain.path, 4, "--items", "--top", ITEMS)
    users = cli("similar", plain.path, 4, "--top", 1, "--latest", 2)

    lines = items.stdout.splitlines()
    assert lines[0].split() == ["item", "cosine", "title", "had"]
    assert lines[-1] == "as of 2020-06-01T00:00:00Z, run r1, exact"
    (six,) = [line.split() for line in lines if "Thing 6 " in line]
    assert six[3:] == ["Thing", "6", "[red]", "yes"]
    found = int(users.stdout.splitlines()[1].split()[1])
    last, before = (found + 2) % ITEMS, (found + 1) % ITEMS
    told = [f"Thing {one} [red]" if one % 2 == 0 else str(500 + one) for one in (last, before)]
    assert users.stdout.splitlines()[1].rstrip().endswith("; ".join(told))


# -- the index and its row -------------------------------------------------------------------------


def test_an_index_is_built_once_and_recorded(plain: Shop, cli: Cli) -> None:
    """The first search builds it, says how good it is and records it; the second uses it."""
    first = cli("similar", plain.path, 1, "--index", "--recall", 1, "--json")
    (row,) = plain.catalog.lineage("r1").indexes
    path = plain.home / "indexes/r1/20200601T000000Z.cosine.ann"
    built = path.stat()
    second = cli("similar", plain.path, 1, "--index", "--recall", 1, "--json")

    assert "index of 80 users built: recall@79 1.000 against exact search" in first.stderr
    assert second.stderr == "" and answer(first) == answer(second)
    assert path.stat().st_mtime_ns == built.st_mtime_ns
    assert (row.path, row.size, row.metric) == (str(path), built.st_size, "cosine")
    assert (row.recall_wanted, row.recall_at) == (1.0, 79)
    assert plain.catalog.lineage("r1").indexes[0].id == row.id


@pytest.mark.parametrize("fault", ["changed", "gone", "unrecorded"])
def test_an_index_that_is_not_as_recorded_is_built_again(
    plain: Shop, cli: Cli, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A changed or lost file, or one whose builder died before its row: the same comes of it."""
    path = plain.home / "indexes/r1/20200601T000000Z.cosine.ann"
    if fault == "unrecorded":
        path.parent.mkdir(parents=True)
        path.write_bytes(b"whatever a killed process left")
        good = None
    else:
        answer(cli("similar", plain.path, 1, "--index", "--recall", 1, "--json"))
        good = path.read_bytes()
        if fault == "gone":
            path.unlink()
        else:
            path.write_bytes(good[:100] + bytes([good[100] ^ 1]) + good[101:])

    result = cli("similar", plain.path, 1, "--index", "--recall", 1, "--json")

    assert (
        answer(result)["users"]
        == answer(cli("similar", plain.path, 1, "--index", "--recall", 1, "--json"))["users"]
    )
    assert good is None or path.read_bytes() == good
    assert ("is gone or was changed; it is built again" in result.stderr) == (good is not None)
    assert len(plain.catalog.lineage("r1").indexes) == 1
    assert sorted(one.name for one in path.parent.iterdir()) == [path.name]


def test_runs_never_mix(plain: Shop, cli: Cli) -> None:
    """Each run has an index of its own; promoting another changes which one answers."""
    plain.run("second")
    plain.snapshot("second", LATE)
    first = answer(cli("similar", plain.path, 1, "--index", "--recall", 1, "--json"))
    aside = answer(
        cli("similar", plain.path, 1, "--recall", 1, "--index", "--run", "second", "--json")
    )
    plain.catalog.promote("second")
    promoted = answer(cli("similar", plain.path, 1, "--index", "--recall", 1, "--json"))

    assert (first["run"], aside["run"]) == ("r1", "second")
    assert promoted == aside
    vectors = plain.vectors("second", LATE, "user")
    scores = plain.expected(vectors[1:2], vectors)
    assert_best(promoted["users"], scores, plain.ids("user", USERS), [1])
    assert [len(plain.catalog.lineage(run).indexes) for run in ("r1", "second")] == [1, 1]


def test_few_vectors_are_searched_exactly_and_many_through_an_index(
    plain: Shop, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which way is the quicker one decides, unless it is asked for."""
    few = answer(cli("similar", plain.path, 1, "--json"))
    monkeypatch.setattr(space, "EXACT_BELOW", USERS * plain.k)
    many = answer(cli("similar", plain.path, 1, "--json", "--recall", 1))

    assert (few["recall"], many["recall"]) == (None, 1.0)
    assert [one["id"] for one in few["users"]] == [one["id"] for one in many["users"]]


def test_an_index_that_misses_the_recall_is_not_used_unasked(
    plain: Shop, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Search falls back to exact and says why; an index that is asked for is used, and built anew
    once more is wanted of it."""
    monkeypatch.setattr(space, "EXACT_BELOW", 1)
    answer(cli("similar", plain.path, 1, "--json", "--recall", 0.5))
    (row,) = plain.catalog.lineage("r1").indexes
    values = {name: getattr(row, name) for name in row.__table__.columns.keys()}  # noqa: SIM118
    del values["id"], values["created_at"]
    plain.catalog.add_index(**{**values, "recall": 0.6, "recall_wanted": 0.99})

    unasked = cli("similar", plain.path, 1, "--json", "--recall", 0.95)
    asked = cli("similar", plain.path, 1, "--json", "--index")
    more = cli("similar", plain.path, 1, "--json", "--recall", 1)

    assert answer(unasked)["recall"] is None
    assert "finds 0.600 of the top 79, 0.95 is wanted: searching exactly" in unasked.stderr
    assert answer(asked)["recall"] == 0.6
    assert answer(more)["recall"] == 1.0 and "built" in more.stderr


def test_it_works_from_python(plain: Shop) -> None:
    """The function behind the command takes and gives plain objects."""
    spec = read_spec(plain.path)

    found = similar_users(spec, ["1"], top=3, where=Where(as_of=parse_instant(EARLY)))
    through = similar_users(
        spec, ["1"], top=3, where=Where(as_of=parse_instant(EARLY), how=How(exact=False, recall=1))
    )

    assert [one.id for one in found.hits] == [one.id for one in through.hits]
    assert found.recall is None and through.recall == 1.0


# -- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["777"], "user 777: no vector as of 2020-06-01T00:00:00Z in run r1 (80 users have one);"),
        (["bob"], "'bob' is no id: user_id of 20200601T000000Z.parquet holds integers"),
        (["9" * 30], "an id of user_id is beyond 64 bits"),
        ([], "no user is given; name one, or a file of them with --seeds"),
        (["1", "2", "--items"], "--items takes one user, found 2"),
        (["1", "--new-only"], "--new-only is about items; add --items"),
        (
            ["1", "--as-of", "2020-02-02"],
            "run r1 has no snapshot as of 2020-02-02T00:00:00Z, found 2020-01-01T00:00:00Z, "
            "2020-06-01T00:00:00Z; `unirep encode SPEC --as-of 2020-02-02T00:00:00Z` makes it",
        ),
        (["1", "--run", "zzz"], "zzz"),
        (["1", "--seeds", "/bin/true"], "is no text; wanted one id a line"),
    ],
)
def test_a_question_without_an_answer_is_one_line(
    plain: Shop, cli: Cli, refusal: Callable[[Result], str], arguments: list[str], message: str
) -> None:
    """What was found, what is wanted, which command helps."""
    assert message in refusal(cli("similar", plain.path, *arguments))


def test_before_anything_was_encoded(
    tmp_path: Path, lab: None, cli: Cli, refusal: Callable[[Result], str]
) -> None:
    """Without a catalog, a promoted run or a snapshot, the line names the command that makes it."""
    shop = Shop(tmp_path)
    shop.write()
    assert "`unirep train SPEC` makes one" in refusal(cli("similar", shop.path, 1))
    shop.run("r1")

    assert "run r1 has no snapshot yet; `unirep encode SPEC --as-of TIME` makes one" in refusal(
        cli("similar", shop.path, 1)
    )
    assert not (shop.home / "indexes").exists()


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("gone", "is recorded and not there; `unirep encode SPEC --as-of 2020-06-01T00:00:00Z`"),
        ("changed", "was changed since it was written"),
    ],
)
def test_a_snapshot_that_is_not_as_recorded_is_refused(
    plain: Shop, cli: Cli, refusal: Callable[[Result], str], fault: str, message: str
) -> None:
    """Also when an index of it is there: ids come from the snapshot."""
    answer(cli("similar", plain.path, 1, "--index", "--recall", 1, "--json"))
    path = snapshot_path(plain.home, "r1", parse_instant(LATE))
    if fault == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-1])

    assert message in refusal(cli("similar", plain.path, 1, "--index"))


def test_a_folder_that_refuses_is_one_line(
    plain: Shop, cli: Cli, refusal: Callable[[Result], str]
) -> None:
    """No index can be put there: the line says where, and exact search still works."""
    (plain.home / "indexes").write_text("in the way")

    assert "cannot be written" in refusal(cli("similar", plain.path, 1, "--index"))
    answer(cli("similar", plain.path, 1, "--exact", "--json"))


def test_help_is_light() -> None:
    """`unirep similar --help` loads neither torch nor annoy nor pyarrow."""
    code = (
        "import json, sys; from unirep_feast.cli import similar\n"
        "similar.command.main(['--help'], standalone_mode=False)\n"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)

    loaded = set(json.loads(done.stdout.splitlines()[-1]))
    assert not {"torch", "annoy", "feast", "pyarrow", "numpy", "rich"} & loaded
