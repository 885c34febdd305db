"""The catalog's tables: one class each, from run to index and materialization.

Rows leave the catalog detached from any session: they are read, never written back. There are no
relationships to walk, so reading one cannot reach for a session that is gone.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    DateTime,
    Dialect,
    Double,
    ForeignKey,
    Index,
    MetaData,
    Text,
    TypeDecorator,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, MappedAsDataclass, mapped_column

#: Every constraint has a name, or no later migration could drop it on SQLite.
NAMES = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


class UtcDateTime(TypeDecorator[datetime]):
    """A moment in UTC, aware on both sides: SQLite keeps no zone, PostgreSQL answers in its own."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Turn an aware moment into UTC; a naive one has no place in the catalog."""
        if value is not None and value.tzinfo is None:
            raise ValueError(f"the catalog wants moments with a time zone, found {value}")
        return value if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Give the moment back in UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Base(MappedAsDataclass, DeclarativeBase, kw_only=True):
    """What the tables share: named constraints, aware moments, 64-bit counts."""

    metadata = MetaData(naming_convention=NAMES)
    type_annotation_map = {  # noqa: RUF012  # SQLAlchemy reads it as it stands
        datetime: UtcDateTime,
        dict[str, Any]: JSON,
        float: Double,
        str: Text,
    }


class Run(Base):
    """One training of one representation: a vector space of its own."""

    __tablename__ = "runs"
    __table_args__ = (
        CheckConstraint("status IN ('running', 'finished', 'failed', 'interrupted')", "status"),
        # At most one run per representation serves; the database keeps that, not only the code.
        Index(
            "uq_runs_promoted",
            "representation",
            unique=True,
            sqlite_where=text("promoted"),
            postgresql_where=text("promoted"),
        ),
        Index(None, "representation", "created_at"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    representation: Mapped[str]
    status: Mapped[str]
    spec: Mapped[str]  # the resolved spec, as JSON text
    spec_hash: Mapped[str]
    plugins: Mapped[dict[str, Any]]  # role → name, distribution, version
    folder: Mapped[str]
    created_at: Mapped[datetime]
    finished_at: Mapped[datetime | None] = mapped_column(default=None)
    trained_until: Mapped[int | None] = mapped_column(BigInteger, default=None)  # microseconds UTC
    steps: Mapped[int] = mapped_column(BigInteger, default=0)
    events: Mapped[int | None] = mapped_column(BigInteger, default=None)
    users: Mapped[int | None] = mapped_column(BigInteger, default=None)
    metrics: Mapped[dict[str, Any]] = mapped_column(default_factory=dict)
    error: Mapped[str | None] = mapped_column(default=None)
    promoted: Mapped[bool] = mapped_column(default=False)
    promoted_at: Mapped[datetime | None] = mapped_column(default=None)


class Checkpoint(Base):
    """Weights and state after a step of a run."""

    __tablename__ = "checkpoints"
    __table_args__ = (
        UniqueConstraint("run_id", "step"),
        Index(
            "uq_checkpoints_best",
            "run_id",
            unique=True,
            sqlite_where=text("best"),
            postgresql_where=text("best"),
        ),
    )

    id: Mapped[int] = mapped_column(primary_key=True, init=False)
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id"))
    step: Mapped[int] = mapped_column(BigInteger)
    path: Mapped[str]
    checksum: Mapped[str]
    validation_loss: Mapped[float | None]
    best: Mapped[bool]
    created_at: Mapped[datetime]


class Snapshot(Base):
    """The vectors of one run for one entity as of one moment: a file that never changes."""

    __tablename__ = "snapshots"
    __table_args__ = (UniqueConstraint("run_id", "entity", "as_of"),)

    id: Mapped[int] = mapped_column(primary_key=True, init=False)
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id"))
    as_of: Mapped[int] = mapped_column(BigInteger)  # microseconds UTC
    entity: Mapped[str]
    path: Mapped[str]
    checksum: Mapped[str]
    rows: Mapped[int] = mapped_column(BigInteger)
    num_vectors: Mapped[int]  # K
    dim: Mapped[int]  # D
    allow_model_leakage: Mapped[bool]
    created_at: Mapped[datetime]


class VectorIndex(Base):
    """A search index of one snapshot, and so of one run: a file that can be built again."""

    __tablename__ = "indexes"
    __table_args__ = (
        CheckConstraint("metric IN ('cosine', 'inner_product', 'l2')", "metric"),
        UniqueConstraint("snapshot_id", "metric"),
    )

    id: Mapped[int] = mapped_column(primary_key=True, init=False)
    snapshot_id: Mapped[int] = mapped_column(ForeignKey("snapshots.id"))
    metric: Mapped[str]
    path: Mapped[str]
    checksum: Mapped[str]
    size: Mapped[int] = mapped_column(BigInteger)  # bytes
    n_trees: Mapped[int]
    search_k: Mapped[int] = mapped_column(BigInteger)
    recall: Mapped[float]  # measured against exact search when it was built
    recall_wanted: Mapped[float]
    recall_at: Mapped[int]  # M of recall@M
    created_at: Mapped[datetime]


class Materialization(Base):
    """A snapshot written to an online store."""

    __tablename__ = "materializations"
    __table_args__ = (CheckConstraint("status IN ('running', 'finished', 'failed')", "status"),)

    id: Mapped[int] = mapped_column(primary_key=True, init=False)
    snapshot_id: Mapped[int] = mapped_column(ForeignKey("snapshots.id"), index=True)
    store: Mapped[str]
    feature_view: Mapped[str]
    rows: Mapped[int] = mapped_column(BigInteger)
    status: Mapped[str]
    started_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]


class Promotion(Base):
    """A run that began to serve its representation, and the one it took over from."""

    __tablename__ = "promotions"

    id: Mapped[int] = mapped_column(primary_key=True, init=False)
    representation: Mapped[str] = mapped_column(index=True)
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id"))
    previous_run_id: Mapped[str | None] = mapped_column(ForeignKey("runs.id"))
    at: Mapped[datetime]
