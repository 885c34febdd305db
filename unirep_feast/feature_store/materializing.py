"""One view of ours from events to the stores: encode, write offline, write online, record.

The order is what makes it safe to kill. A snapshot appears whole or not at all; the online store
never goes back to an older one; the catalog, and then Feast's registry, hear of it last. Whatever
was not finished is done again by the next run, with the same result.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
from feast import FeatureView, FileSource, RepoConfig
from feast.infra.common.materialization_job import MaterializationTask
from feast.infra.online_stores.helpers import compute_versioned_name

from unirep_feast.catalog import Catalog, Materialization, Run, Snapshot
from unirep_feast.checkpoint import Manifest
from unirep_feast.config import RepresentationSpec, format_instant
from unirep_feast.errors import CatalogError, LeakageError, StoreError
from unirep_feast.events import read_events
from unirep_feast.feature_store.offline_writer import write_offline
from unirep_feast.feature_store.online_writer import write_online
from unirep_feast.feature_store.snapshot_rows import LatestRows, counted, read_users
from unirep_feast.feature_store.source_events import read_feast_events
from unirep_feast.feature_store.view_checks import check_view
from unirep_feast.feature_store.views import snapshot_glob, spec_of
from unirep_feast.pipeline import encode
from unirep_feast.pipeline.loading import open_catalog, serving_run
from unirep_feast.pipeline.restoring import final_checkpoint
from unirep_feast.progress import bar
from unirep_feast.snapshot import snapshot_path

if TYPE_CHECKING:
    from unirep_feast.feature_store.engine import UnirepComputeEngineConfig

_logger = logging.getLogger(__name__)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def check_declared(view: FeatureView, catalog_url: str | None) -> None:
    """Compare a view with its promoted run, where there is one; works before any training.

    Raises:
        StoreError: they do not fit.
    """
    spec = _spec(view, catalog_url)
    try:
        catalog = open_catalog(spec, create=False)
        promoted = catalog.promoted(spec.name)
        manifest = None if promoted is None else final_checkpoint(catalog, spec, promoted).manifest
    except CatalogError as error:
        # Before the first training there is none, and `feast apply` comes first.
        _logger.info("feature view %s is not compared with a run: %s", view.name, error)
        return
    if manifest is not None:
        check_view(view, manifest)


def _spec(view: FeatureView, catalog_url: str | None) -> RepresentationSpec:
    spec = spec_of(view)
    return spec if catalog_url is None else spec.model_copy(update={"catalog": catalog_url})


@dataclass(frozen=True)
class Materializer:
    """Materializes views of ours.

    Attributes:
        config: of the repo.
        offline_store: its offline store.
        online_store: its online store.
        options: of the engine.
    """

    config: RepoConfig
    offline_store: Any
    online_store: Any
    options: UnirepComputeEngineConfig

    def run(self, task: MaterializationTask) -> None:
        """Encode a view as of the end of an interval and write it to its stores.

        Online go the rows that Feast itself would take: of every user the latest within the
        interval, among the snapshots of the promoted run.

        Args:
            task: the view and the interval, both ends included.

        Raises:
            UnirepError: in one line; neither the catalog nor Feast records anything.
        """
        view: FeatureView = task.feature_view
        started = datetime.now(UTC)
        start, as_of = _microseconds(task.start_time), _microseconds(task.end_time)
        if start > as_of:
            raise StoreError(
                f"feature view {view.name!r}: the interval begins at {format_instant(start)} and "
                f"ends before, at {format_instant(as_of)}; give both with `feast materialize START "
                "END` (materialize-incremental goes on from the last interval, or from a year ago)"
            )
        spec = _spec(view, self.options.catalog)
        catalog = open_catalog(spec, create=False)
        run = serving_run(catalog, spec, None)
        manifest = final_checkpoint(catalog, spec, run).manifest
        check_view(view, manifest)
        self._refuse_leakage(view, manifest, as_of)
        with bar(f"{view.name}: encoding as of {format_instant(as_of)}") as advance:
            made = encode(
                spec,
                as_of,
                run=run.id,
                allow_model_leakage=self.options.allow_model_leakage,
                progress=lambda done, total: advance(done, total, "users"),
                notify=_notify,
                read=read_events if spec.events.feast is None else read_feast_events,
                incremental=self.options.incremental,
            )
        snapshot = catalog.snapshot(run.id, as_of, spec.view.entity)
        if snapshot is None:
            raise CatalogError(f"the snapshot {made.path} was struck off; materialize again")
        if not self._is_snapshot_folder(view, spec):
            write_offline(self.config, self.offline_store, view, made.path, as_of)
        if view.online:
            _refuse_promotion(catalog, run)
            self._serve(view, spec, catalog, run, snapshot, start, started)

    def _serve(
        self,
        view: FeatureView,
        spec: RepresentationSpec,
        catalog: Catalog,
        run: Run,
        snapshot: Snapshot,
        start: int,
        started: datetime,
    ) -> None:
        """Write online, and let the catalog know before and after.

        Before, because a write that is cut short leaves rows: after a promotion, and one back, they
        are of another space, and whoever materializes next has to know.
        """
        before = catalog.materialized(spec.name, store=self._store, feature_view=self._name(view))
        begun = catalog.record_materialization(
            snapshot.id,
            store=self._store,
            feature_view=self._name(view),
            rows=0,
            started_at=started,
            finished_at=None,
            status="running",
        )
        try:
            written = self._write_online(view, spec, catalog, run, before, start, snapshot.as_of)
            _refuse_promotion(catalog, run)
        except BaseException:
            with contextlib.suppress(CatalogError):  # the first error is the one to be told
                catalog.end_materialization(begun.id, status="failed")
            raise
        catalog.end_materialization(begun.id, status="finished", rows=written)

    def _refuse_leakage(self, view: FeatureView, manifest: Manifest, as_of: int) -> None:
        if as_of < manifest.trained_until and not self.options.allow_model_leakage:
            raise LeakageError(
                f"feature view {view.name!r}: run {manifest.run} was trained on events up to "
                f"{format_instant(manifest.trained_until)}, vectors as of {format_instant(as_of)} "
                "would carry that future; end the interval later, promote a run that was trained "
                "until then, or set batch_engine.allow_model_leakage: true (it is recorded)"
            )

    @staticmethod
    def _is_snapshot_folder(view: FeatureView, spec: RepresentationSpec) -> bool:
        """Whether the source is the folder that snapshots are made in: nothing is left to write."""
        source = view.batch_source
        return isinstance(source, FileSource) and source.path == snapshot_glob(spec)

    @property
    def _store(self) -> str:
        return str(getattr(self.config.online_store, "type", type(self.online_store).__name__))

    def _name(self, view: FeatureView) -> str:
        """The view as the catalog knows it: two projects may share a representation."""
        versions = self.config.registry.enable_online_feature_view_versioning
        return f"{self.config.project}/{compute_versioned_name(view, versions)}"

    def _write_online(
        self,
        view: FeatureView,
        spec: RepresentationSpec,
        catalog: Catalog,
        run: Run,
        before: Sequence[tuple[Materialization, Snapshot]],
        start: int,
        as_of: int,
    ) -> int:
        """Write the latest rows of an interval; returns how many were stored."""
        times = [
            one.as_of
            for one in catalog.snapshots(run.id)
            if one.entity == spec.view.entity and start <= one.as_of <= as_of
        ]
        paths = [snapshot_path(spec.home, run.id, time) for time in sorted(times, reverse=True)]
        rows = LatestRows(
            [path for path in paths if path.exists()],
            spec.view.join_key,
            view.batch_source.field_mapping,
        )
        # Another run's vectors live in another space: they go, whatever their time.
        others = _other_runs(before, run)
        moved = bool(others)
        stale = _stale(spec, catalog, before, rows) if moved else pa.array([], rows.users.type)
        if moved:
            _logger.info(
                "%s: vectors of run %s are replaced by those of run %s",
                view.name,
                ", ".join(others),
                run.id,
            )
        total, given = len(rows) + len(stale), 0

        def batches() -> Iterator[pa.RecordBatch]:
            yield from rows.batches()
            created = _microseconds(run.created_at)
            yield from rows.empty(stale, as_of, created)

        def count(some: int) -> None:
            nonlocal given
            given += some

        done = 0
        with bar(f"{view.name}: writing to {self._store}") as advance:

            def tick(some: int) -> None:
                nonlocal done
                done += some
                advance(done, total, "users")

            report = write_online(
                self.config,
                view,
                counted(batches(), count),
                tick,
                store=self.online_store,
                stored="replace" if moved else "keep_newer",
            )
        if not given == report.rows == total:
            raise StoreError(
                f"feature view {view.name!r}: {report.rows:,} of {total:,} rows reached the "
                f"{self._store} online store; nothing is recorded, materialize again"
            )
        if report.skipped:
            _logger.warning(
                "%s: %s of %s rows as of %s were left out, the %s online store holds newer ones",
                view.name,
                f"{report.skipped:,}",
                f"{report.rows:,}",
                format_instant(as_of),
                self._store,
            )
        return report.rows - report.skipped


def _refuse_promotion(catalog: Catalog, run: Run) -> None:
    """Refuse to go on for a run that serves no longer: another process may write the new one."""
    promoted = catalog.promoted(run.representation)
    if promoted is None or promoted.id != run.id:
        other = "no run" if promoted is None else f"run {promoted.id}"
        raise StoreError(
            f"{other} serves {run.representation!r} now, run {run.id} did when this began; nothing "
            "is recorded, materialize again"
        )


def _other_runs(before: Sequence[tuple[Materialization, Snapshot]], run: Run) -> list[str]:
    """Name the other runs that may have rows in the store, given what was written, latest first.

    After a materialization of a run that finished there are none, but for those that went on
    beside it or came later, whether they finished or not.
    """
    pure = next(
        (one for one, of in before if of.run_id == run.id and one.status == "finished"), None
    )
    found = [
        of.run_id
        for one, of in before
        if of.run_id != run.id
        and (
            pure is None
            or one.id > pure.id
            or one.finished_at is None
            or one.finished_at > pure.started_at
        )
    ]
    return list(dict.fromkeys(found))


def _stale(
    spec: RepresentationSpec,
    catalog: Catalog,
    before: Sequence[tuple[Materialization, Snapshot]],
    rows: LatestRows,
) -> pa.Array:
    """Users who may ever have been served and for whom there is no row now."""
    known = rows.users
    found = pa.array([], known.type)
    latest: dict[str, int] = {}
    for _, of in before:
        latest[of.run_id] = max(of.as_of, latest.get(of.run_id, of.as_of))
    for run, as_of in latest.items():
        for snapshot in catalog.snapshots(run):
            # Earlier ones too: an interval takes users that left the encoder's window from them.
            if snapshot.entity != spec.view.entity or snapshot.as_of > as_of:
                continue
            path = snapshot_path(spec.home, run, snapshot.as_of)
            if not path.exists():
                _logger.warning("%s is gone: users whom only it served keep their vectors", path)
                continue
            users = read_users(path, spec.view.join_key)
            if users.type == known.type:
                users = users.filter(pc.invert(pc.is_in(users, value_set=known)))
                users = users.filter(pc.invert(pc.is_in(users, value_set=found)))
                found = pa.concat_arrays([found, users])
    return found


def _notify(line: str) -> None:
    level = logging.WARNING if line.startswith("warning: ") else logging.INFO
    _logger.log(level, "%s", line.removeprefix("warning: "))


def _microseconds(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(microseconds=1)
