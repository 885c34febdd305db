"""Alembic's entry: runs the migrations on the connection it is handed.

The catalog hands one over at run time, already inside a transaction that holds the lock. Alembic's
own command line has none, and works on the database UNIREP_CATALOG names:
``alembic revision --autogenerate --rev-id 0002 -m "what changes"``.
"""

from __future__ import annotations

import os
from typing import Any, Literal

from alembic import context
from sqlalchemy import Connection

from unirep_feast.catalog.connect import open_engine, read_url
from unirep_feast.catalog.models import Base, UtcDateTime


def render_item(kind: str, item: Any, _autogenerate: object) -> str | Literal[False]:
    """Write our types as plain SQLAlchemy ones: a migration outlives the code of its day."""
    if kind == "type" and isinstance(item, UtcDateTime):
        return "sa.DateTime(timezone=True)"
    return False


def migrate(connection: Connection) -> None:
    """Run what was asked for; SQLite cannot alter most things, so there tables are rebuilt."""
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        render_as_batch=True,
        render_item=render_item,
    )
    with context.begin_transaction():
        context.run_migrations()


connection = context.config.attributes.get("connection")
if connection is not None:
    migrate(connection)
else:
    engine = open_engine(read_url(os.environ["UNIREP_CATALOG"]), enforce_foreign_keys=False)
    with engine.begin() as connection:
        migrate(connection)
