"""The catalog: what it records, and what it keeps true."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from unirep_feast.catalog import Catalog, VectorIndex
from unirep_feast.catalog.models import Base, Run
from unirep_feast.errors import CatalogError

RUN_IDS = st.from_regex(r"[aA1][aA_.-]{0,4}", fullmatch=True)
INT64 = st.integers(-(2**63), 2**63 - 1)

#: Examples share a database: each empties it first.
shared = settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/catalog.db"
    return request.getfixturevalue("postgres_url")


@pytest.fixture
def catalog(url: str) -> Catalog:
    return Catalog(url)


def start(catalog: Catalog, run_id: str, representation: str = "shoppers", **more: Any) -> Run:
    return catalog.start_run(
        run_id,
        representation=representation,
        spec='{"name": "shoppers"}',
        spec_hash="5eed",
        plugins={"encoder": {"name": "toy", "distribution": "unirep-toy", "version": "1.2"}},
        folder=f"data/shoppers/runs/{run_id}",
        **more,
    )


def finish(catalog: Catalog, *run_ids: str) -> None:
    for run_id in run_ids:
        start(catalog, run_id)
        catalog.finish_run(run_id, steps=1, metrics={})


def snap(catalog: Catalog, run_id: str, as_of: int, checksum: str = "c", **more: Any) -> Any:
    sizes = {"rows": 3, "num_vectors": 2, "dim": 8}
    return catalog.add_snapshot(
        run_id, as_of=as_of, path=f"{as_of}.parquet", checksum=checksum, **sizes, **more
    )


def empty(catalog: Catalog) -> None:
    with catalog._write() as session:
        for table in reversed(Base.metadata.sorted_tables):
            session.execute(table.delete())


# -- runs ---------------------------------------------------------------------------------------


def test_a_run_is_read_back_as_it_was_recorded(catalog: Catalog) -> None:
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


def test_metrics_of_any_number_type_are_kept(catalog: Catalog) -> None:
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
def test_instants_keep_every_microsecond(catalog: Catalog, moment: int) -> None:
    """Any 64-bit microsecond survives as the end of training and as the moment of a snapshot."""
    empty(catalog)
    start(catalog, "one", trained_until=moment)
    snap(catalog, "one", moment)
    found = catalog.snapshot("one", moment)

    assert catalog.get_run("one").trained_until == moment
    assert found is not None
    assert found.as_of == moment


def test_a_run_id_is_taken_once(catalog: Catalog) -> None:
    """A second run of the same id is refused and leaves the first as it was."""
    start(catalog, "one", users=1)
    with pytest.raises(CatalogError, match=r"run one is in catalog .* already.*--resume"):
        start(catalog, "one", users=2)

    assert catalog.get_run("one").users == 1


@pytest.mark.parametrize("run_id", ["", "..", "a/b", "a b", "-x", "a\n", "ü", "a\0"])
def test_a_run_id_must_be_able_to_name_a_folder(catalog: Catalog, run_id: str) -> None:
    """Ids that would leave the folder of runs, or read like an option, are refused."""
    with pytest.raises(CatalogError, match="wanted letters, digits"):
        start(catalog, run_id)

    assert catalog.list_runs() == []


def test_a_stopped_run_can_go_on(catalog: Catalog) -> None:
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


def test_runs_are_listed_latest_first(catalog: Catalog) -> None:
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
    catalog: Catalog, run_ids: set[str], prefix: str
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


def test_an_ambiguous_prefix_lists_a_few_candidates(catalog: Catalog) -> None:
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
        lambda catalog: snap(catalog, "x", 1),
    ],
)
def test_an_unknown_run_is_one_line(catalog: Catalog, call: Callable[[Catalog], object]) -> None:
    """Whatever is asked of a run that is not there, the answer names it and the catalog."""
    with pytest.raises(CatalogError, match=r"there is no run 'x' in catalog .*`unirep runs list`"):
        call(catalog)


# -- promotion ----------------------------------------------------------------------------------


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=8))
@shared
def test_one_run_serves_and_history_tells_who_did_before(
    catalog: Catalog, order: list[str]
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


def test_representations_are_promoted_apart(catalog: Catalog) -> None:
    """A promotion touches no other representation, and none serves until one is promoted."""
    finish(catalog, "a")
    start(catalog, "b", "other")
    catalog.finish_run("b", steps=1, metrics={})
    catalog.promote("a")
    assert catalog.promoted("other") is None

    catalog.promote("b")

    assert [run.id for run in catalog.list_runs() if run.promoted] == ["b", "a"]


def test_only_a_finished_run_is_promoted(catalog: Catalog) -> None:
    """A run that is running, failed or interrupted is refused with its state."""
    start(catalog, "a")
    with pytest.raises(CatalogError, match="run a is running, wanted a finished one"):
        catalog.promote("a")
    catalog.fail_run("a", "why")

    with pytest.raises(CatalogError, match="run a is failed"):
        catalog.promote("a")
    assert catalog.promoted("shoppers") is None


def test_a_switch_that_fails_promotes_nothing(catalog: Catalog) -> None:
    """What readers follow could not be repointed, so the catalog keeps what was."""

    def fail() -> None:
        raise OSError("read-only file system")

    finish(catalog, "a", "b")
    catalog.promote("a")
    with pytest.raises(OSError, match="read-only"):
        catalog.promote("b", switch=fail)

    assert [run.id for run in catalog.list_runs() if run.promoted] == ["a"]
    assert len(catalog.promotions("shoppers")) == 1


def test_promoting_again_repairs_the_switch(catalog: Catalog) -> None:
    """The run that serves already is not recorded twice, but its switch is called."""
    finish(catalog, "a")
    calls: list[str] = []
    first = catalog.promote("a")
    second = catalog.promote("a", switch=lambda: calls.append("a"))

    assert (second.id, calls) == (first.id, ["a"])


def test_promotions_at_once_agree_with_the_switch(url: str, tmp_path: Path) -> None:
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


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE runs SET promoted = true",
        "UPDATE checkpoints SET best = true",
        "UPDATE runs SET status = 'lost'",
        "UPDATE snapshots SET as_of = 1",
        "UPDATE snapshots SET run_id = 'nobody'",
        "UPDATE checkpoints SET step = 1",
    ],
)
def test_the_database_itself_keeps_what_is_promised(catalog: Catalog, statement: str) -> None:
    """Two promoted runs, two best checkpoints, doubles and orphans are refused below the code."""
    finish(catalog, "a", "b")
    for step in (1, 2):
        catalog.add_checkpoint("a", step=step, path="p", checksum="c")
        snap(catalog, "a", step)

    with pytest.raises(IntegrityError), catalog._write() as session:
        session.execute(text(statement))


# -- checkpoints, snapshots, materializations ---------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=12))
@shared
def test_checkpoints_are_one_per_step_and_one_is_best(
    catalog: Catalog, added: list[tuple[int, bool]]
) -> None:
    """However often steps are saved again, each is there once and the last best one is the best."""
    empty(catalog)
    start(catalog, "a")
    best: int | None = None
    for step, is_best in added:
        catalog.add_checkpoint("a", step=step, path=f"{step}", checksum="c", best=is_best)
        best = step if is_best else None if best == step else best
    found, latest = catalog.best_checkpoint("a"), catalog.latest_checkpoint("a")
    steps = sorted({step for step, _ in added})

    assert [one.step for one in catalog.checkpoints("a")] == steps
    assert (latest.step if latest else None) == (steps[-1] if steps else None)
    assert (found.step if found else None) == best


def test_a_checkpoint_is_replaced_and_removed(catalog: Catalog) -> None:
    """Saving a step again keeps the later content; a removed one is gone, and once only."""
    start(catalog, "a")
    catalog.add_checkpoint("a", step=5, path="old", checksum="1", validation_loss=0.25)
    catalog.add_checkpoint("a", step=5, path="new", checksum="2", validation_loss=float("nan"))
    found = catalog.latest_checkpoint("a")

    assert found is not None
    assert (found.path, found.checksum, found.validation_loss) == ("new", "2", None)
    assert catalog.remove_checkpoint("a", 5)
    assert not catalog.remove_checkpoint("a", 5)
    assert catalog.latest_checkpoint("a") is None


def test_snapshots_never_change(catalog: Catalog) -> None:
    """The same content twice is one snapshot; another content is refused, naming the first."""
    start(catalog, "a")
    first = snap(catalog, "a", 0, "one", allow_model_leakage=True)
    again = snap(catalog, "a", 0, "one")

    assert again.id == first.id
    with pytest.raises(
        CatalogError, match=r"as of 1970-01-01T00:00:00Z .* checksum one, found two.*0\.parquet"
    ):
        snap(catalog, "a", 0, "two")
    kept = catalog.snapshot("a", 0)
    assert kept is not None
    assert (kept.checksum, kept.allow_model_leakage) == ("one", True)
    assert (kept.rows, kept.num_vectors, kept.dim) == (3, 2, 8)


def test_snapshots_are_apart_by_run_moment_and_entity(catalog: Catalog) -> None:
    """Asking for a snapshot finds that of the run, the moment and the entity, or nothing."""
    for run_id in "ab":
        start(catalog, run_id)
        for as_of in (20, 10):
            snap(catalog, run_id, as_of)
    item = snap(catalog, "a", 10, entity="item")
    found = catalog.snapshot("a", 10, "item")

    assert found is not None
    assert found.id == item.id
    assert catalog.snapshot("a", 15) is None
    assert [(one.entity, one.as_of) for one in catalog.snapshots("a")] == [
        ("item", 10),
        ("user", 10),
        ("user", 20),
    ]


def add_index(catalog: Catalog, snapshot_id: int, **changes: Any) -> VectorIndex:
    values: dict[str, Any] = {
        "metric": "cosine",
        "path": "i.ann",
        "checksum": "c",
        "size": 2**40,
        "n_trees": 16,
        "search_k": 2**33,
        "recall": 0.96,
        "recall_wanted": 0.95,
        "recall_at": 100,
    }
    return catalog.add_index(snapshot_id, **{**values, **changes})


def test_an_index_is_found_by_snapshot_and_metric_and_replaced(catalog: Catalog) -> None:
    """A snapshot has one index per metric; building it again replaces it, others stay."""
    finish(catalog, "a")
    first, second = snap(catalog, "a", 1).id, snap(catalog, "a", 2).id
    add_index(catalog, first)
    add_index(catalog, first, metric="l2")
    add_index(catalog, second, path="second.ann")

    again = add_index(catalog, first, checksum="d", recall=0.5)

    found = catalog.index(first, "cosine")
    assert found is not None and found.id == again.id
    assert (found.checksum, found.recall, found.size, found.search_k) == ("d", 0.5, 2**40, 2**33)
    assert found.created_at.tzinfo is not None
    assert catalog.index(first, "inner_product") is None
    assert [(one.snapshot_id, one.metric) for one in catalog.lineage("a").indexes] == [
        (first, "l2"),
        (second, "cosine"),
        (first, "cosine"),
    ]


def test_an_index_needs_its_snapshot_and_a_known_metric(catalog: Catalog) -> None:
    """No index of nothing, and none of a metric that nobody can search by."""
    finish(catalog, "a")

    with pytest.raises(CatalogError, match="there is no snapshot 7 in catalog"):
        add_index(catalog, 7)
    with pytest.raises(IntegrityError):
        add_index(catalog, snap(catalog, "a", 1).id, metric="hamming")


def test_lineage_gathers_what_came_of_a_run_and_nothing_else(catalog: Catalog) -> None:
    """A run comes with its own checkpoints, snapshots, indexes, materializations, promotions."""
    finish(catalog, "a", "b", "c")
    for run_id in "ab":
        catalog.add_checkpoint(run_id, step=1, path="p", checksum="c")
        add_index(catalog, snap(catalog, run_id, 1).id, path=f"{run_id}.ann")
        catalog.record_materialization(
            snap(catalog, run_id, 1).id,
            store="redis",
            feature_view=f"view_{run_id}",
            rows=3,
            started_at=datetime(2026, 1, 1, 1, tzinfo=timezone(timedelta(hours=1))),
            finished_at=datetime(2026, 1, 1, tzinfo=UTC),
        )
    for run_id in "abc":
        catalog.promote(run_id)
    lineage = catalog.lineage("a")

    assert lineage.run.id == "a"
    assert [one.run_id for one in lineage.checkpoints] == ["a"]
    assert [one.run_id for one in lineage.snapshots] == ["a"]
    assert [one.path for one in lineage.indexes] == ["a.ann"]
    assert [one.feature_view for one in lineage.materializations] == ["view_a"]
    assert lineage.materializations[0].started_at == lineage.materializations[0].finished_at
    assert [(one.run_id, one.previous_run_id) for one in lineage.promotions] == [
        ("a", None),
        ("b", "a"),
    ]


def test_what_was_written_to_a_view_of_a_store_comes_latest_first(catalog: Catalog) -> None:
    """Of every run of the representation, with its snapshot; other stores and views not."""
    finish(catalog, "a", "b")
    start(catalog, "other", "readers")
    places = [
        ("a", 1, "redis", "shop/users", "finished"),
        ("b", 1, "redis", "shop/users", "finished"),
        ("a", 2, "redis", "shop/users", "finished"),
        ("a", 2, "redis", "shop/users", "failed"),
        ("a", 2, "sqlite", "shop/users", "finished"),
        ("a", 2, "redis", "test/users", "finished"),
        ("other", 9, "redis", "shop/users", "finished"),
    ]
    for run_id, as_of, store, view, status in places:
        catalog.record_materialization(
            snap(catalog, run_id, as_of).id,
            store=store,
            feature_view=view,
            rows=3,
            started_at=datetime.now(UTC),
            finished_at=datetime.now(UTC),
            status=status,
        )

    found = catalog.materialized("shoppers", store="redis", feature_view="shop/users")

    expected = [("a", 2), ("a", 2), ("b", 1), ("a", 1)]
    assert [(one.run_id, one.as_of) for _, one in found] == expected
    assert [one.status for one, _ in found] == ["failed", *["finished"] * 3]
    assert all(row.snapshot_id == snapshot.id for row, snapshot in found)


def test_a_materialization_that_finishes_closes_those_it_overtook(catalog: Catalog) -> None:
    """Of other runs at the same place; of its own run, or elsewhere, they go on running."""
    finish(catalog, "a", "b")
    begun = datetime(2026, 1, 1, tzinfo=UTC)

    def begin(run_id: str, store: str = "redis") -> int:
        return catalog.record_materialization(
            snap(catalog, run_id, 1).id,
            store=store,
            feature_view="shop/users",
            rows=0,
            started_at=begun,
            finished_at=None,
            status="running",
        ).id

    killed, elsewhere, twin, last = begin("b"), begin("b", "sqlite"), begin("a"), begin("a")
    catalog.end_materialization(last, status="finished", rows=3)

    rows = {one.id: one for run in "ab" for one in catalog.lineage(run).materializations}
    assert {key: row.status for key, row in rows.items()} == {
        killed: "failed",
        elsewhere: "running",
        twin: "running",
        last: "finished",
    }
    assert rows[killed].finished_at == begun
    assert rows[last].rows == 3
    catalog.end_materialization(killed, status="failed")
    later = catalog.lineage("b").materializations[0]
    assert later.finished_at is not None and later.finished_at > begun
    with pytest.raises(CatalogError, match="there is no materialization 99"):
        catalog.end_materialization(99, status="failed")


def test_a_materialization_needs_its_snapshot_and_an_aware_time(catalog: Catalog) -> None:
    """One of an unknown snapshot is refused in a line; a naive moment is the caller's mistake."""
    start(catalog, "a")
    row = {"store": "redis", "feature_view": "v", "rows": 1, "finished_at": None}
    with pytest.raises(CatalogError, match="there is no snapshot 99"):
        catalog.record_materialization(99, started_at=datetime.now(UTC), **row)
    with pytest.raises(Exception, match="moments with a time zone"):
        catalog.record_materialization(
            snap(catalog, "a", 1).id, started_at=datetime(2026, 1, 1), **row
        )

    assert catalog.lineage("a").materializations == []


def test_processes_write_to_one_catalog_at_once(url: str) -> None:
    """Many small writes from several processes all arrive; none is refused as locked."""
    catalog = Catalog(url)
    start(catalog, "a")
    code = (
        "import sys; from unirep_feast.catalog import Catalog; catalog = Catalog(sys.argv[1])\n"
        "for step in range(int(sys.argv[2]), 60, 3):\n"
        "    catalog.add_checkpoint('a', step=step, path='p', checksum='c', best=True)"
    )
    workers = [
        subprocess.Popen([sys.executable, "-c", code, url, f"{number}"], stderr=subprocess.PIPE)
        for number in range(3)
    ]
    failures = [worker.communicate()[1].decode() for worker in workers]

    assert failures == [""] * 3
    assert [one.step for one in catalog.checkpoints("a")] == list(range(60))
    assert sum(one.best for one in catalog.checkpoints("a")) == 1
