"""The catalog: which runs it records, and how they are found."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unirep_feast.catalog import Catalog
from unirep_feast.errors import CatalogError

RUN_IDS = st.from_regex(r"[aA1][aA_.-]{0,4}", fullmatch=True)
INT64 = st.integers(-(2**63), 2**63 - 1)

shared = settings(settings.get_profile("shared database"))


def test_a_run_is_read_back_as_it_was_recorded(catalog: Catalog, start: Any) -> None:
    """Start and finish leave every field as given, with aware UTC moments of their own."""
    before = datetime.now(UTC)
    start(catalog, "one", trained_until=1_300_000_000_123_456, events=2**40, users=7)
    catalog.finish_run("one", steps=300, metrics={"validation_loss": -0.5, "users_per_s": 10})
    run = catalog.get_run("one")

    assert (run.representation, run.status, run.spec_hash) == ("shoppers", "finished", "5eed")
    assert (run.spec, run.folder) == ('{"name": "shoppers"}', "data/shoppers/runs/one")
    assert run.plugins["encoder"] == {
        "name": "toy",
        "distribution": "unirep-toy",
        "version": "1.2",
    }
    assert (run.trained_until, run.events, run.users) == (1_300_000_000_123_456, 2**40, 7)
    assert (run.steps, run.metrics) == (300, {"validation_loss": -0.5, "users_per_s": 10})
    assert (run.promoted, run.promoted_at, run.error) == (False, None, None)
    assert run.finished_at is not None
    assert before <= run.created_at <= run.finished_at <= datetime.now(UTC)
    assert run.created_at.utcoffset() == timedelta(0)


def test_metrics_of_any_number_type_are_kept(catalog: Catalog, start: Any) -> None:
    """Numpy numbers become floats and what is not finite becomes null, on every database."""
    start(catalog, "one")
    run = catalog.finish_run(
        "one",
        steps=1,
        metrics={
            "loss": float("nan"),
            "gap": float("-inf"),
            "std": np.float32(0.5),
            "by": {"a": 1},
        },
    )

    assert run.metrics == {"loss": None, "gap": None, "std": 0.5, "by": {"a": 1}}
    assert catalog.get_run("one").metrics == run.metrics


@given(INT64)
@shared
def test_instants_keep_every_microsecond(
    catalog: Catalog, start: Any, empty: Any, moment: int
) -> None:
    """Any 64-bit microsecond survives as the end of training and as the moment of a snapshot."""
    empty(catalog)
    start(catalog, "one", trained_until=moment)
    catalog.add_snapshot(
        "one", as_of=moment, path="x.parquet", checksum="c", rows=3, num_vectors=2, dim=8
    )
    found = catalog.snapshot("one", moment)

    assert catalog.get_run("one").trained_until == moment
    assert found is not None
    assert found.as_of == moment


def test_a_run_id_is_taken_once(catalog: Catalog, start: Any) -> None:
    """A second run of the same id is refused and leaves the first as it was."""
    start(catalog, "one", users=1)
    with pytest.raises(CatalogError, match=r"run one is in catalog .* already.*--resume"):
        start(catalog, "one", users=2)

    assert catalog.get_run("one").users == 1


@pytest.mark.parametrize("run_id", ["", "..", "a/b", "a b", "-x", "a\n", "ü", "a\0"])
def test_a_run_id_must_be_able_to_name_a_folder(catalog: Catalog, run_id: str, start: Any) -> None:
    """Ids that would leave the folder of runs, or read like an option, are refused."""
    with pytest.raises(CatalogError, match="wanted letters, digits"):
        start(catalog, run_id)

    assert catalog.list_runs() == []


def test_a_stopped_run_can_go_on(catalog: Catalog, start: Any) -> None:
    """Failing records why; resuming clears it; a finished run stays finished."""
    start(catalog, "one")
    failed = catalog.fail_run("one", "out of memory \0 at step 7", steps=7)
    assert (failed.status, failed.steps) == ("failed", 7)
    assert catalog.get_run("one").error == "out of memory \N{REPLACEMENT CHARACTER} at step 7"

    assert catalog.resume_run("one").status == "running"
    assert catalog.get_run("one").error is None
    assert catalog.fail_run("one", "Ctrl-C", status="interrupted").steps == 7
    catalog.resume_run("one")
    catalog.finish_run("one", steps=9, metrics={})
    catalog.fail_run("one", "the progress bar broke")

    assert catalog.get_run("one").status == "finished"
    with pytest.raises(CatalogError, match="run one has finished"):
        catalog.resume_run("one")


def test_runs_are_listed_latest_first(catalog: Catalog, start: Any) -> None:
    """The list is by time of creation, of one representation or of all."""
    for run_id, representation in (("b", "x"), ("c", "y"), ("a", "x")):
        start(catalog, run_id, representation)

    assert [run.id for run in catalog.list_runs()] == ["a", "c", "b"]
    assert [run.id for run in catalog.list_runs("x")] == ["a", "b"]
    assert catalog.list_runs("z") == []


@given(
    st.sets(RUN_IDS, min_size=1, max_size=6), RUN_IDS | st.sampled_from(["", "a%", "\0", "\udcff"])
)
@shared
def test_a_run_is_found_by_a_prefix_that_only_it_has(
    catalog: Catalog, start: Any, empty: Any, run_ids: set[str], prefix: str
) -> None:
    """A prefix finds a run as Python would: exactly, case and wildcards meaning nothing special."""
    empty(catalog)
    for run_id in run_ids:
        start(catalog, run_id)
    wanted = sorted(run_id for run_id in run_ids if prefix and run_id.startswith(prefix))

    if prefix in run_ids:
        assert catalog.find_run(prefix).id == prefix
    elif len(wanted) == 1:
        assert catalog.find_run(prefix).id == wanted[0]
    else:
        with pytest.raises(CatalogError) as caught:
            catalog.find_run(prefix)
        assert "\n" not in str(caught.value)
        assert all(run_id in str(caught.value) for run_id in wanted[:5])


def test_an_ambiguous_prefix_lists_a_few_candidates(catalog: Catalog, start: Any) -> None:
    """The line names the first candidates and says how many more there are."""
    for number in range(7):
        start(catalog, f"2026-{number}")

    with pytest.raises(CatalogError) as caught:
        catalog.find_run("2026")
    assert str(caught.value) == (
        "7 runs begin with '2026': 2026-0, 2026-1, 2026-2, 2026-3, 2026-4 and 2 more; "
        "give more of the id"
    )


@pytest.mark.parametrize(
    "call",
    [
        lambda catalog: catalog.get_run("x"),
        lambda catalog: catalog.finish_run("x", steps=1, metrics={}),
        lambda catalog: catalog.fail_run("x", "why"),
        lambda catalog: catalog.promote("x"),
        lambda catalog: catalog.lineage("x"),
        lambda catalog: catalog.checkpoints("x"),
        lambda catalog: catalog.snapshots("x"),
        lambda catalog: catalog.add_checkpoint("x", step=1, path="p", checksum="c"),
        lambda catalog: catalog.add_snapshot(
            "x", as_of=1, path="x.parquet", checksum="c", rows=3, num_vectors=2, dim=8
        ),
    ],
)
def test_an_unknown_run_is_one_line(catalog: Catalog, call: Callable[[Catalog], object]) -> None:
    """Whatever is asked of a run that is not there, the answer names it and the catalog."""
    with pytest.raises(CatalogError, match=r"there is no run 'x' in catalog .*`unirep runs list`"):
        call(catalog)
