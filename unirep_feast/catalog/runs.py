"""Runs in the catalog: begun, ended, found again, promoted."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError

from unirep_feast.catalog.models import Promotion, Run
from unirep_feast.catalog.transactions import Transactions, plain_json, plain_text, utc_now
from unirep_feast.errors import CatalogError

#: A run's id is also the name of its folder and of its vector space.
_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_CANDIDATES_SHOWN = 5


class Runs(Transactions):
    """What the catalog knows of trainings."""

    def start_run(
        self,
        run_id: str,
        *,
        representation: str,
        spec: str,
        spec_hash: str,
        plugins: Mapping[str, Any],
        folder: str,
        trained_until: int | None = None,
        events: int | None = None,
        users: int | None = None,
    ) -> Run:
        """Record that a training begins.

        Args:
            run_id: chosen by the caller; letters, digits, ``.``, ``_`` and ``-``.
            representation: name of the representation.
            spec: the resolved spec as JSON text.
            spec_hash: fingerprint of what in it decides the weights.
            plugins: for encoder, objective and sampler: name, distribution and version.
            folder: where the run's files are, ``<home>/runs/<run_id>``.
            trained_until: exclusive end of the events trained on, microseconds UTC.
            events: events it trains on.
            users: users it trains on.

        Raises:
            CatalogError: there is such a run already, or the id could not name a folder.
        """
        if not _RUN_ID.fullmatch(run_id):
            raise CatalogError(f"run id {run_id!r}: wanted letters, digits, `.`, `_` and `-` only")
        run = Run(
            id=run_id,
            representation=representation,
            status="running",
            spec=spec,
            spec_hash=spec_hash,
            plugins=plain_json(plugins),
            folder=folder,
            created_at=utc_now(),
            trained_until=trained_until,
            events=events,
            users=users,
        )
        try:
            with self._write() as session:
                session.add(run)
        except IntegrityError:
            raise CatalogError(
                f"run {run_id} is in catalog {self.url} already; "
                "continue it with `unirep train SPEC --resume`, or choose another id"
            ) from None
        return run

    def resume_run(self, run_id: str) -> Run:
        """Record that a stopped training goes on; what had made it stop is cleared.

        Raises:
            CatalogError: there is no such run, or it has finished.
        """
        with self._write() as session:
            run = self._run(session, run_id, lock=True)
            if run.status == "finished":
                raise CatalogError(
                    f"run {run_id} has finished; `unirep train SPEC` starts a new one"
                )
            run.status, run.error, run.finished_at = "running", None, None
        return run

    def finish_run(self, run_id: str, *, steps: int, metrics: Mapping[str, Any]) -> Run:
        """Record that a training came to its end.

        Args:
            run_id: the run.
            steps: optimizer steps taken, over all resumptions.
            metrics: numbers by name; one that is not finite is kept as null.
        """
        with self._write() as session:
            run = self._run(session, run_id, lock=True)
            run.status, run.error, run.finished_at = "finished", None, utc_now()
            run.steps, run.metrics = steps, plain_json(metrics)
        return run

    def fail_run(
        self,
        run_id: str,
        error: str,
        *,
        steps: int | None = None,
        status: Literal["failed", "interrupted"] = "failed",
    ) -> Run:
        """Record that a training stopped early; one that had finished stays finished.

        Args:
            run_id: the run.
            error: why, in one line.
            steps: optimizer steps taken so far, if known.
            status: ``interrupted`` where a person or the machine stopped it.
        """
        with self._write() as session:
            run = self._run(session, run_id, lock=True)
            if run.status != "finished":
                run.status, run.error, run.finished_at = status, plain_text(error), utc_now()
                run.steps = run.steps if steps is None else steps
        return run

    def get_run(self, run_id: str) -> Run:
        """Return one run by its whole id."""
        with self._read() as session:
            return self._run(session, run_id)

    def list_runs(self, representation: str | None = None) -> Sequence[Run]:
        """Return the runs, latest first, of one representation or of all."""
        query = select(Run).order_by(Run.created_at.desc(), Run.id.desc())
        if representation is not None:
            query = query.where(Run.representation == representation)
        with self._read() as session:
            return session.scalars(query).all()

    def find_run(self, prefix: str) -> Run:
        """Return the one run whose id is, or begins with, a text.

        Raises:
            CatalogError: no run does, or several do and none is exactly it.
        """
        hits: Sequence[Run] = ()
        if _RUN_ID.fullmatch(prefix):
            # Not LIKE: it ignores case on SQLite and takes `_` for any character.
            begins = func.substr(Run.id, 1, len(prefix)) == prefix
            with self._read() as session:
                hits = sorted(session.scalars(select(Run).where(begins)), key=lambda run: run.id)
        if len(hits) == 1 or (hits and hits[0].id == prefix):  # the shortest sorts first
            return hits[0]
        if not hits:
            raise CatalogError(
                f"no run begins with {prefix!r} in catalog {self.url}; "
                "`unirep runs list` shows them"
            )
        names = ", ".join(run.id for run in hits[:_CANDIDATES_SHOWN])
        hidden = len(hits) - _CANDIDATES_SHOWN
        more = f" and {hidden} more" if hidden > 0 else ""
        raise CatalogError(
            f"{len(hits)} runs begin with {prefix!r}: {names}{more}; give more of the id"
        )

    def promote(self, run_id: str, switch: Callable[[], object] | None = None) -> Promotion:
        """Let a run serve its representation in place of the one that does.

        Promoting the run that serves already records nothing new; ``switch`` is called all the
        same, so that one that was cut short can be repaired.

        Args:
            run_id: a finished run.
            switch: repoints what readers follow. It is called before the commit, while every other
                promotion of the representation waits: if it fails nothing is recorded, and it
                cannot end up elsewhere than the catalog says.

        Returns:
            the promotion, with the run that served before.

        Raises:
            CatalogError: there is no such run, or it has not finished.
        """
        with self._write() as session:
            representation = self._run(session, run_id).representation
            siblings = session.scalars(
                select(Run)
                .where(Run.representation == representation)
                .order_by(Run.id)  # one order for all: two promotions cannot wait for each other
                .with_for_update()
                .execution_options(populate_existing=True)
            ).all()
            run = next(sibling for sibling in siblings if sibling.id == run_id)
            if run.status != "finished":
                raise CatalogError(
                    f"run {run_id} is {run.status}, wanted a finished one; "
                    "finish it with `unirep train SPEC --resume`"
                )
            previous = next((sibling for sibling in siblings if sibling.promoted), None)
            if previous is run:
                promotion = session.scalars(
                    select(Promotion)
                    .where(Promotion.run_id == run_id)
                    .order_by(Promotion.id.desc())
                ).first()
                assert promotion is not None  # noqa: S101  # written with the flag, below
            else:
                if previous is not None:
                    previous.promoted, previous.promoted_at = False, None
                    session.flush()  # the unique index sees two promoted runs otherwise
                promotion = Promotion(
                    representation=representation,
                    run_id=run_id,
                    previous_run_id=previous.id if previous else None,
                    at=utc_now(),
                )
                run.promoted, run.promoted_at = True, promotion.at
                session.add(promotion)
            session.flush()
            if switch is not None:
                switch()
        return promotion

    def promoted(self, representation: str) -> Run | None:
        """Return the run that serves a representation, if one does."""
        query = select(Run).where(Run.representation == representation, Run.promoted)
        with self._read() as session:
            return session.scalars(query).one_or_none()

    def promotions(self, representation: str) -> Sequence[Promotion]:
        """Return who served a representation and when, latest first."""
        query = select(Promotion).where(Promotion.representation == representation)
        with self._read() as session:
            return session.scalars(query.order_by(Promotion.id.desc())).all()
