"""`unirep similar` over made-up vectors: who is found, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result

from unirep_feast.instants import parse_instant
from unirep_feast.pipeline import read_spec
from unirep_feast.pipeline.similar import Where, similar_users
from unirep_feast.pipeline.space import How
from unirep_feast.snapshot import snapshot_path

Cli = Callable[..., Result]

EARLY, LATE = "2020-01-01", "2020-06-01"
USERS, ITEMS = 80, 40


# -- who is found ----------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["--exact", "--index"])
def test_look_alikes_of_a_user(
    shop: Any, cli: Cli, way: str, answer: Any, assert_best: Any
) -> None:
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
    tmp_path: Path,
    lab: None,
    cli: Cli,
    merge: str,
    way: str,
    k: int,
    make_shop: Any,
    answer: Any,
    assert_best: Any,
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


def test_seeds_without_a_vector_are_named_and_left_out(plain: Any, cli: Cli, answer: Any) -> None:
    """An audience forgives unknown seeds, aloud."""
    result = cli("similar", plain.path, 3, 700, 800, "--json")

    assert answer(result) == {**answer(cli("similar", plain.path, 3, "--json")), "seeds": 1}
    assert "users 700, 800: no vector as of 2020-06-01T00:00:00Z in run r1" in result.stderr


@pytest.mark.parametrize("metric", ["inner_product", "l2"])
def test_other_metrics(plain: Any, cli: Cli, metric: str, answer: Any, assert_best: Any) -> None:
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
def test_items_for_a_user(shop: Any, cli: Cli, way: str, answer: Any, assert_best: Any) -> None:
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


def test_what_people_read(plain: Any, cli: Cli) -> None:
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


def test_it_works_from_python(plain: Any) -> None:
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
    plain: Any, cli: Cli, refusal: Callable[[Result], str], arguments: list[str], message: str
) -> None:
    """What was found, what is wanted, which command helps."""
    assert message in refusal(cli("similar", plain.path, *arguments))


def test_before_anything_was_encoded(
    tmp_path: Path, lab: None, cli: Cli, refusal: Callable[[Result], str], Shop: Any
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
    plain: Any, cli: Cli, refusal: Callable[[Result], str], fault: str, message: str, answer: Any
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
    plain: Any, cli: Cli, refusal: Callable[[Result], str], answer: Any
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
