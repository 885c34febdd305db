"""What comes of a run: checkpoints, snapshots, materializations.

The row is the commit point. A file is written first and recorded last, removed last and struck off
first: what has a row is complete and checksummed, and what has none is garbage that nobody reads.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from sqlalchemy import delete, select, update

from unirep_feast.catalog.models import (
    Checkpoint,
    Materialization,
    Promotion,
    Run,
    Snapshot,
    VectorIndex,
)
from unirep_feast.catalog.transactions import Transactions, utc_now
from unirep_feast.errors import CatalogError
from unirep_feast.instants import format_instant


@dataclass(frozen=True)
class Lineage:
    """A run and everything that came of it, read in one transaction."""

    run: Run
    checkpoints: Sequence[Checkpoint]
    snapshots: Sequence[Snapshot]
    indexes: Sequence[VectorIndex]
    materializations: Sequence[Materialization]
    promotions: Sequence[Promotion]


class Artifacts(Transactions):
    """What the catalog knows of the files of runs, and of where they went."""

    def add_checkpoint(
        self,
        run_id: str,
        *,
        step: int,
        path: str,
        checksum: str,
        validation_loss: float | None = None,
        best: bool = False,
    ) -> Checkpoint:
        """Record a checkpoint; one of the same step, from before a resumption, is replaced.

        Args:
            run_id: the run.
            step: optimizer steps taken.
            path: where it lies.
            checksum: of its content.
            validation_loss: at this step; one that is not finite is kept as null.
            best: it is the best so far; the one that was is so no longer.
        """
        if validation_loss is not None and not math.isfinite(validation_loss):
            validation_loss = None
        checkpoint = Checkpoint(
            run_id=run_id,
            step=step,
            path=path,
            checksum=checksum,
            validation_loss=validation_loss,
            best=best,
            created_at=utc_now(),
        )
        with self._write() as session:
            self._run(session, run_id, lock=True)
            of_run = Checkpoint.run_id == run_id
            session.execute(delete(Checkpoint).where(of_run, Checkpoint.step == step))
            if best:
                session.execute(
                    update(Checkpoint).where(of_run, Checkpoint.best).values(best=False)
                )
            session.add(checkpoint)
        return checkpoint

    def remove_checkpoint(self, run_id: str, step: int) -> bool:
        """Strike a checkpoint off, before its file goes; returns whether there was one."""
        gone = delete(Checkpoint).where(Checkpoint.run_id == run_id, Checkpoint.step == step)
        with self._write() as session:
            return session.scalar(gone.returning(Checkpoint.id)) is not None

    def checkpoints(self, run_id: str) -> Sequence[Checkpoint]:
        """Return the checkpoints of a run by step."""
        query = select(Checkpoint).where(Checkpoint.run_id == run_id).order_by(Checkpoint.step)
        with self._read() as session:
            self._run(session, run_id)
            return session.scalars(query).all()

    def latest_checkpoint(self, run_id: str) -> Checkpoint | None:
        """Return the checkpoint to resume from, if there is one."""
        return next(reversed(self.checkpoints(run_id)), None)

    def best_checkpoint(self, run_id: str) -> Checkpoint | None:
        """Return the checkpoint that validation chose, if it has chosen one."""
        return next((one for one in self.checkpoints(run_id) if one.best), None)

    def add_snapshot(
        self,
        run_id: str,
        *,
        as_of: int,
        path: str,
        checksum: str,
        rows: int,
        num_vectors: int,
        dim: int,
        entity: str = "user",
        allow_model_leakage: bool = False,
    ) -> Snapshot:
        """Record a snapshot. Recording it again, with the same content, changes nothing.

        Args:
            run_id: the run whose weights made it.
            as_of: exclusive end of the events it tells of, microseconds UTC.
            path: where it lies.
            checksum: of its content.
            rows: entities in it.
            num_vectors: K, vectors per entity.
            dim: D, width of a vector.
            entity: what a row is about.
            allow_model_leakage: it was asked for although the weights have seen events from
                ``as_of`` on.

        Raises:
            CatalogError: there is one already, with another content.
        """
        query = select(Snapshot).where(
            Snapshot.run_id == run_id, Snapshot.entity == entity, Snapshot.as_of == as_of
        )
        with self._write() as session:
            self._run(session, run_id, lock=True)
            known = session.scalars(query).one_or_none()
            if known is not None:
                if known.checksum == checksum:
                    return known
                raise CatalogError(
                    f"the {entity} snapshot of run {run_id} as of {format_instant(as_of)} is "
                    f"recorded with checksum {known.checksum}, found {checksum}; snapshots never "
                    f"change: read the one at {known.path}"
                )
            snapshot = Snapshot(
                run_id=run_id,
                as_of=as_of,
                entity=entity,
                path=path,
                checksum=checksum,
                rows=rows,
                num_vectors=num_vectors,
                dim=dim,
                allow_model_leakage=allow_model_leakage,
                created_at=utc_now(),
            )
            session.add(snapshot)
        return snapshot

    def snapshot(self, run_id: str, as_of: int, entity: str = "user") -> Snapshot | None:
        """Return the snapshot of a run as of one moment (microseconds UTC), if there is one."""
        query = select(Snapshot).where(
            Snapshot.run_id == run_id, Snapshot.entity == entity, Snapshot.as_of == as_of
        )
        with self._read() as session:
            return session.scalars(query).one_or_none()

    def snapshots(self, run_id: str) -> Sequence[Snapshot]:
        """Return the snapshots of a run by entity and moment."""
        query = select(Snapshot).where(Snapshot.run_id == run_id)
        with self._read() as session:
            self._run(session, run_id)
            return session.scalars(query.order_by(Snapshot.entity, Snapshot.as_of)).all()

    def record_materialization(
        self,
        snapshot_id: int,
        *,
        store: str,
        feature_view: str,
        rows: int,
        started_at: datetime,
        finished_at: datetime | None,
        status: Literal["running", "finished", "failed"] = "finished",
    ) -> Materialization:
        """Record that a snapshot is being, or was, written to an online store.

        Args:
            snapshot_id: what is written.
            store: the online store's type.
            feature_view: the view it is written for.
            rows: entities written.
            started_at: aware.
            finished_at: aware; None while it runs.
            status: how it ended.

        Raises:
            CatalogError: there is no such snapshot.
        """
        materialization = Materialization(
            snapshot_id=snapshot_id,
            store=store,
            feature_view=feature_view,
            rows=rows,
            status=status,
            started_at=started_at,
            finished_at=finished_at,
        )
        with self._write() as session:
            if session.get(Snapshot, snapshot_id) is None:
                raise CatalogError(f"there is no snapshot {snapshot_id} in catalog {self.url}")
            session.add(materialization)
        return materialization

    def end_materialization(
        self, materialization_id: int, *, status: Literal["finished", "failed"], rows: int = 0
    ) -> Materialization:
        """Record how a materialization that was running ended.

        When one finishes, those of other runs for the same place that still count as running were
        overtaken: they are closed as failed, as of its beginning. One that lives on none the less
        records its own, later, end.

        Args:
            materialization_id: of the one that was recorded as running.
            status: how it ended.
            rows: entities written.

        Raises:
            CatalogError: there is no such materialization.
        """
        with self._write() as session:
            ended = session.get(Materialization, materialization_id)
            if ended is None:
                raise CatalogError(
                    f"there is no materialization {materialization_id} in catalog {self.url}"
                )
            ended.status, ended.rows, ended.finished_at = status, rows, utc_now()
            if status == "finished":
                run_of = select(Snapshot.run_id).where(Snapshot.id == ended.snapshot_id)
                others = select(Snapshot.id).where(
                    Snapshot.run_id != run_of.scalar_subquery(),
                )
                session.execute(
                    update(Materialization)
                    .where(
                        Materialization.store == ended.store,
                        Materialization.feature_view == ended.feature_view,
                        Materialization.status == "running",
                        Materialization.snapshot_id.in_(others),
                    )
                    .values(status="failed", finished_at=ended.started_at)
                )
        return ended

    def materialized(
        self, representation: str, *, store: str, feature_view: str
    ) -> Sequence[tuple[Materialization, Snapshot]]:
        """Return what was written to an online store for a view, latest first, of any run.

        Those that failed or still run are among them: they have written some of their rows.

        Args:
            representation: whose snapshots.
            store: as it was recorded.
            feature_view: as it was recorded.
        """
        query = (
            select(Materialization, Snapshot)
            .join(Snapshot, Snapshot.id == Materialization.snapshot_id)
            .join(Run, Run.id == Snapshot.run_id)
            .where(
                Run.representation == representation,
                Materialization.store == store,
                Materialization.feature_view == feature_view,
            )
            .order_by(Materialization.id.desc())
        )
        with self._read() as session:
            return [(one, snapshot) for one, snapshot in session.execute(query)]

    def lineage(self, run_id: str) -> Lineage:
        """Return a run with its checkpoints, snapshots, indexes, materializations, promotions."""
        involved = (Promotion.run_id == run_id) | (Promotion.previous_run_id == run_id)
        snapshots = select(Snapshot).where(Snapshot.run_id == run_id)
        of_run = snapshots.with_only_columns(Snapshot.id)
        built = select(VectorIndex).where(VectorIndex.snapshot_id.in_(of_run))
        written = select(Materialization).where(Materialization.snapshot_id.in_(of_run))
        steps = select(Checkpoint).where(Checkpoint.run_id == run_id).order_by(Checkpoint.step)
        with self._read() as session:
            return Lineage(
                run=self._run(session, run_id),
                checkpoints=session.scalars(steps).all(),
                snapshots=session.scalars(
                    snapshots.order_by(Snapshot.entity, Snapshot.as_of)
                ).all(),
                indexes=session.scalars(built.order_by(VectorIndex.id)).all(),
                materializations=session.scalars(written.order_by(Materialization.id)).all(),
                promotions=session.scalars(
                    select(Promotion).where(involved).order_by(Promotion.id)
                ).all(),
            )
