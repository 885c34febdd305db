"""The index behind `unirep similar`: when it is built, recorded, used and built again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from click.testing import Result

from unirep_feast.pipeline import space

Cli = Callable[..., Result]

LATE = "2020-06-01"
USERS = 80


def test_an_index_is_built_once_and_recorded(plain: Any, cli: Cli, answer: Any) -> None:
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
    plain: Any, cli: Cli, fault: str, monkeypatch: pytest.MonkeyPatch, answer: Any
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


def test_runs_never_mix(plain: Any, cli: Cli, answer: Any, assert_best: Any) -> None:
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
    plain: Any, cli: Cli, monkeypatch: pytest.MonkeyPatch, answer: Any
) -> None:
    """Which way is the quicker one decides, unless it is asked for."""
    few = answer(cli("similar", plain.path, 1, "--json"))
    monkeypatch.setattr(space, "EXACT_BELOW", USERS * plain.k)
    many = answer(cli("similar", plain.path, 1, "--json", "--recall", 1))

    assert (few["recall"], many["recall"]) == (None, 1.0)
    assert [one["id"] for one in few["users"]] == [one["id"] for one in many["users"]]


def test_an_index_that_misses_the_recall_is_not_used_unasked(
    plain: Any, cli: Cli, monkeypatch: pytest.MonkeyPatch, answer: Any
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
