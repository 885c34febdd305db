"""What the catalog keeps of a run: checkpoints, snapshots, indexes and materializations."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from unirep_feast.catalog import Catalog, VectorIndex
from unirep_feast.errors import CatalogError

shared = settings(settings.get_profile("shared database"))


def snap(catalog: Catalog, run_id: str, as_of: int, checksum: str = "c", **more: Any) -> Any:
    sizes = {"rows": 3, "num_vectors": 2, "dim": 8}
    return catalog.add_snapshot(
        run_id, as_of=as_of, path=f"{as_of}.parquet", checksum=checksum, **sizes, **more
    )


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
def test_the_database_itself_keeps_what_is_promised(
    catalog: Catalog, statement: str, finish: Any
) -> None:
    """Two promoted runs, two best checkpoints, doubles and orphans are refused below the code."""
    finish(catalog, "a", "b")
    for step in (1, 2):
        catalog.add_checkpoint("a", step=step, path="p", checksum="c")
        snap(catalog, "a", step)

    with pytest.raises(IntegrityError), catalog._write() as session:
        session.execute(text(statement))


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=12))
@shared
def test_checkpoints_are_one_per_step_and_one_is_best(
    catalog: Catalog, start: Any, empty: Any, added: list[tuple[int, bool]]
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


def test_a_checkpoint_is_replaced_and_removed(catalog: Catalog, start: Any) -> None:
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


def test_snapshots_never_change(catalog: Catalog, start: Any) -> None:
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


def test_snapshots_are_apart_by_run_moment_and_entity(catalog: Catalog, start: Any) -> None:
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


def test_an_index_is_found_by_snapshot_and_metric_and_replaced(
    catalog: Catalog, finish: Any
) -> None:
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


def test_an_index_needs_its_snapshot_and_a_known_metric(catalog: Catalog, finish: Any) -> None:
    """No index of nothing, and none of a metric that nobody can search by."""
    finish(catalog, "a")

    with pytest.raises(CatalogError, match="there is no snapshot 7 in catalog"):
        add_index(catalog, 7)
    with pytest.raises(IntegrityError):
        add_index(catalog, snap(catalog, "a", 1).id, metric="hamming")


def test_lineage_gathers_what_came_of_a_run_and_nothing_else(catalog: Catalog, finish: Any) -> None:
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


def test_what_was_written_to_a_view_of_a_store_comes_latest_first(
    catalog: Catalog, start: Any, finish: Any
) -> None:
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


def test_a_materialization_that_finishes_closes_those_it_overtook(
    catalog: Catalog, finish: Any
) -> None:
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


def test_a_materialization_needs_its_snapshot_and_an_aware_time(
    catalog: Catalog, start: Any
) -> None:
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


def test_processes_write_to_one_catalog_at_once(url: str, start: Any) -> None:
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
