"""The catalog of promotions: one finished run serves, and readers follow it."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unirep_feast.catalog import Catalog
from unirep_feast.errors import CatalogError

shared = settings(settings.get_profile("shared database"))


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=8))
@shared
def test_one_run_serves_and_history_tells_who_did_before(
    catalog: Catalog, finish: Any, empty: Any, order: list[str]
) -> None:
    """After any promotions the last one serves alone, and each records whom it replaced."""
    empty(catalog)
    finish(catalog, *"abc")
    for run_id in order:
        catalog.promote(run_id)
    changes = [run_id for at, run_id in enumerate(order) if at == 0 or order[at - 1] != run_id]
    history = list(reversed(catalog.promotions("shoppers")))
    serving = catalog.promoted("shoppers")

    assert serving is not None
    assert serving.id == order[-1]
    assert [run.id for run in catalog.list_runs() if run.promoted] == [order[-1]]
    assert [one.run_id for one in history] == changes
    assert [one.previous_run_id for one in history] == [None, *changes[:-1]]
    assert serving.promoted_at == history[-1].at


def test_representations_are_promoted_apart(catalog: Catalog, start: Any, finish: Any) -> None:
    """A promotion touches no other representation, and none serves until one is promoted."""
    finish(catalog, "a")
    start(catalog, "b", "other")
    catalog.finish_run("b", steps=1, metrics={})
    catalog.promote("a")
    assert catalog.promoted("other") is None

    catalog.promote("b")

    assert [run.id for run in catalog.list_runs() if run.promoted] == ["b", "a"]


def test_only_a_finished_run_is_promoted(catalog: Catalog, start: Any) -> None:
    """A run that is running, failed or interrupted is refused with its state."""
    start(catalog, "a")
    with pytest.raises(CatalogError, match="run a is running, wanted a finished one"):
        catalog.promote("a")
    catalog.fail_run("a", "why")

    with pytest.raises(CatalogError, match="run a is failed"):
        catalog.promote("a")
    assert catalog.promoted("shoppers") is None


def test_a_switch_that_fails_promotes_nothing(catalog: Catalog, finish: Any) -> None:
    """What readers follow could not be repointed, so the catalog keeps what was."""

    def fail() -> None:
        raise OSError("read-only file system")

    finish(catalog, "a", "b")
    catalog.promote("a")
    with pytest.raises(OSError, match="read-only"):
        catalog.promote("b", switch=fail)

    assert [run.id for run in catalog.list_runs() if run.promoted] == ["a"]
    assert len(catalog.promotions("shoppers")) == 1


def test_promoting_again_repairs_the_switch(catalog: Catalog, finish: Any) -> None:
    """The run that serves already is not recorded twice, but its switch is called."""
    finish(catalog, "a")
    calls: list[str] = []
    first = catalog.promote("a")
    second = catalog.promote("a", switch=lambda: calls.append("a"))

    assert (second.id, calls) == (first.id, ["a"])


def test_promotions_at_once_agree_with_the_switch(url: str, tmp_path: Path, finish: Any) -> None:
    """Whoever promotes last, what readers follow is what the catalog says."""
    catalog, pointer, failures = Catalog(url), tmp_path / "promoted", []
    runs = [f"run-{number}" for number in range(6)]
    finish(catalog, *runs)

    def promote(run_id: str) -> None:
        try:
            catalog.promote(run_id, switch=lambda: pointer.write_text(run_id))
        except Exception as error:  # a thread's exception would be lost
            failures.append(error)

    threads = [threading.Thread(target=promote, args=(run_id,)) for run_id in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    serving = catalog.promoted("shoppers")

    assert failures == []
    assert serving is not None
    assert pointer.read_text() == serving.id
    assert len(catalog.promotions("shoppers")) == 6
