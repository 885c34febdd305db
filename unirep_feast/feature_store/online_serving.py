"""Snapshots of the promoted run into the online store of a view, and into no other run's rows."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from feast import FeatureView, RepoConfig
from feast.infra.online_stores.helpers import compute_versioned_name

from unirep_feast.catalog import Catalog, Materialization, Run, Snapshot
from unirep_feast.config import RepresentationSpec
from unirep_feast.errors import CatalogError, StoreError
from unirep_feast.feature_store.online_writer import write_online
from unirep_feast.feature_store.snapshot_rows import LatestRows, as_one, counted, read_keys
from unirep_feast.instants import format_instant
from unirep_feast.pipeline.publishing import entity_of, keys_of
from unirep_feast.progress import bar
from unirep_feast.snapshot import Kind, snapshot_path

_logger = logging.getLogger(__name__)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class OnlineServing:
    """Writes one view of ours.

    Attributes:
        config: of the repo.
        store: its online store.
        view: as the registry has it.
        spec: of its representation.
        kind: what its rows are about.
        catalog: knows the snapshots, and what was written before.
        run: the promoted one.
    """

    config: RepoConfig
    store: Any
    view: FeatureView
    spec: RepresentationSpec
    kind: Kind
    catalog: Catalog
    run: Run

    def write(self, snapshot: Snapshot, start: int, started: datetime) -> None:
        """Write the latest rows of an interval, and let the catalog know before and after.

        Before, because a write that is cut short leaves rows: after a promotion, and one back, they
        are of another space, and whoever materializes next has to know.

        Args:
            snapshot: as of the end of the interval.
            start: of the interval, microseconds.
            started: when the materialization began.

        Raises:
            StoreError: another run was promoted meanwhile, or rows did not arrive.
        """
        self._refuse_promotion()
        before = self.catalog.materialized(
            self.spec.name, store=self._store_name, feature_view=self._view_name
        )
        begun = self.catalog.record_materialization(
            snapshot.id,
            store=self._store_name,
            feature_view=self._view_name,
            rows=0,
            started_at=started,
            finished_at=None,
            status="running",
        )
        try:
            written = self._write(before, start, snapshot.as_of)
            self._refuse_promotion()
        except BaseException:
            with contextlib.suppress(CatalogError):  # the first error is the one to be told
                self.catalog.end_materialization(begun.id, status="failed")
            raise
        self.catalog.end_materialization(begun.id, status="finished", rows=written)

    @property
    def _store_name(self) -> str:
        return str(getattr(self.config.online_store, "type", type(self.store).__name__))

    @property
    def _view_name(self) -> str:
        """The view as the catalog knows it: two projects may share a representation."""
        versions = self.config.registry.enable_online_feature_view_versioning
        return f"{self.config.project}/{compute_versioned_name(self.view, versions)}"

    def _refuse_promotion(self) -> None:
        """Refuse to go on for a run that serves no longer: another process may write the new."""
        run = self.run
        promoted = self.catalog.promoted(run.representation)
        if promoted is None or promoted.id != run.id:
            other = "no run" if promoted is None else f"run {promoted.id}"
            raise StoreError(
                f"{other} serves {run.representation!r} now, run {run.id} did when this began; "
                "nothing is recorded, materialize again"
            )

    def _write(
        self, before: Sequence[tuple[Materialization, Snapshot]], start: int, as_of: int
    ) -> int:
        """Write rows, and empty those of other runs; returns how many were stored."""
        rows = self._latest(start, as_of)
        # Another run's vectors live in another space: they go, whatever their time.
        others = _other_runs(before, self.run)
        moved = bool(others)
        stale = self._stale(before, rows.keys) if moved else rows.keys.slice(0, 0)
        if moved:
            _logger.info(
                "%s: vectors of run %s are replaced by those of run %s",
                self.view.name,
                ", ".join(others),
                self.run.id,
            )
        total, given = len(rows) + stale.num_rows, 0

        def batches() -> Iterator[pa.RecordBatch]:
            yield from rows.batches()
            created = (self.run.created_at - _EPOCH) // timedelta(microseconds=1)
            yield from rows.empty(stale, as_of, created)

        def count(some: int) -> None:
            nonlocal given
            given += some

        done = 0
        with bar(f"{self.view.name}: writing to {self._store_name}") as advance:

            def tick(some: int) -> None:
                nonlocal done
                done += some
                advance(done, total, f"{self.kind}s")

            report = write_online(
                self.config,
                self.view,
                counted(batches(), count),
                tick,
                store=self.store,
                stored="replace" if moved else "keep_newer",
            )
        if not given == report.rows == total:
            raise StoreError(
                f"feature view {self.view.name!r}: {report.rows:,} of {total:,} rows reached the "
                f"{self._store_name} online store; nothing is recorded, materialize again"
            )
        if report.skipped:
            _logger.warning(
                "%s: %s of %s rows as of %s were left out, the %s online store holds newer ones",
                self.view.name,
                f"{report.skipped:,}",
                f"{report.rows:,}",
                format_instant(as_of),
                self._store_name,
            )
        return report.rows - report.skipped

    def _latest(self, start: int, as_of: int) -> LatestRows:
        """Rows of the run's snapshots in an interval, of every key the latest."""
        times = [
            one.as_of
            for one in self.catalog.snapshots(self.run.id)
            if one.entity == entity_of(self.spec, self.kind) and start <= one.as_of <= as_of
        ]
        paths = [
            snapshot_path(self.spec.home, self.run.id, time, self.kind)
            for time in sorted(times, reverse=True)
        ]
        return LatestRows(
            [path for path in paths if path.exists()],
            keys_of(self.spec, self.kind),
            self.view.batch_source.field_mapping,
        )

    def _stale(
        self, before: Sequence[tuple[Materialization, Snapshot]], keys: pa.Table
    ) -> pa.Table:
        """Keys that may ever have been served and for which there is no row now."""
        known, found = as_one(keys), keys.slice(0, 0)
        latest: dict[str, int] = {}
        for _, of in before:
            latest[of.run_id] = max(of.as_of, latest.get(of.run_id, of.as_of))
        for run, as_of in latest.items():
            for snapshot in self.catalog.snapshots(run):
                # Earlier ones too: an interval takes users that left the encoder's window from
                # them.
                if snapshot.entity != entity_of(self.spec, self.kind) or snapshot.as_of > as_of:
                    continue
                path = snapshot_path(self.spec.home, run, snapshot.as_of, self.kind)
                if not path.exists():
                    _logger.warning(
                        "%s is gone: %ss whom only it served keep their vectors", path, self.kind
                    )
                    continue
                served = read_keys(path, keys.column_names)
                if served.schema.types != keys.schema.types:
                    continue
                for others in (known, as_one(found)):
                    served = served.filter(pc.invert(pc.is_in(as_one(served), value_set=others)))
                found = pa.concat_tables([found, served])
        return found


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
