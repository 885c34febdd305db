"""`unirep runs promote RUN --repo DIR`: forward and back in one command."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from click.testing import Result

from unirep_feast.feature_store.torch_data import online_user_vectors

T0, T1, T2 = "2020-03-01T00:00:00Z", "2020-03-10T12:00:00Z", "2020-03-20T00:00:00Z"
START = "2020-01-01T00:00:00Z"


def test_forward_and_back_in_one_command(any_repo: Any, cli: Callable[..., Result]) -> None:
    """At the very times that were served, which stores that prefer newer rows would not replace;
    users whom only one of the runs knows come and go with it."""
    repo = any_repo
    first = repo.train()
    store = repo.store()
    try:
        repo.materialize(store, T0)
        repo.materialize(store, T1)
        second = repo.train(encoder__settings={"max_days": 12.0})
        repo.promote(first)  # training promotes only the first run; the fixture, every one
        everybody, _ = repo.snapshot(first, T1)

        forward = cli("runs", "promote", second, "--repo", repo.folder, "--catalog", catalog(repo))

        assert forward.exit_code == 0, forward.stderr
        assert "shop is served online by it" in forward.stdout
        back_command = f"unirep runs promote {first} --repo {repo.folder} --catalog"
        assert back_command in forward.stdout
        repo.expect(store, second, T1)
        known = set(repo.snapshot(second, T1)[0])
        assert known < set(everybody)
        served = online_user_vectors(store, "shop", everybody).mask
        assert {user for user, there in zip(everybody, served, strict=True) if there} == known

        back = cli("runs", "promote", first, "--repo", repo.folder, "--catalog", catalog(repo))

        assert back.exit_code == 0, back.stderr
        repo.expect(store, first, T1)
        assert repo.intervals(store)[-2:] == [(START, T1), (START, T1)]
        assert [row[0] for row in repo.recorded()] == [T0, T1, T1, T1]
    finally:
        store.teardown()


def test_a_rollback_reaches_behind_newer_rows(any_repo: Any, cli: Callable[..., Result]) -> None:
    """The run to go back to has no vectors as of the last time yet: they are made."""
    repo = any_repo
    first = repo.train()
    store = repo.store()
    try:
        repo.materialize(store, T0)
        second = repo.train()
        repo.materialize(store, T2)
        repo.expect(store, second, T2)

        back = cli("runs", "promote", first, "--repo", repo.folder, "--catalog", catalog(repo))

        assert back.exit_code == 0, back.stderr
        repo.expect(store, first, T2)
    finally:
        store.teardown()


def test_what_was_never_served_is_left_alone(engine_repo: Any, cli: Callable[..., Result]) -> None:
    """A view without an interval: the run is promoted, and nothing is written."""
    repo = engine_repo()
    first = repo.train()
    repo.train()
    store = repo.store()

    done = cli("runs", "promote", first, "--repo", repo.folder, "--catalog", catalog(repo))

    assert done.exit_code == 0
    assert "shop was never materialized" in done.stderr
    assert repo.catalog().promoted("shop").id == first
    assert repo.intervals(store) == []


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("nothing", "cannot be opened"),
        ("no view", "has no view of 'shop' that is served online"),
        ("stock", "has another batch_engine"),
    ],
)
def test_repos_that_do_not_fit_are_refused(
    engine_repo: Any,
    cli: Callable[..., Result],
    refusal: Callable[[Result], str],
    tmp_path: Any,
    what: str,
    reason: str,
) -> None:
    """No repo, none with the view, or one whose engine would mix two runs: one line each."""
    repo = engine_repo()
    run = repo.train()
    folder = repo.folder
    if what == "nothing":
        folder = tmp_path / "empty"
        folder.mkdir()
    elif what == "stock":
        repo.engine = None
        repo.store()

    done = cli("runs", "promote", run, "--repo", folder, "--catalog", catalog(repo))

    assert reason in refusal(done)


def catalog(repo: Any) -> str:
    url: str = repo.shop.catalog
    return url
