"""The catalog: which run made which checkpoint and snapshot, which one serves, and where it went.

``models`` has the tables, ``connect`` gets to the database, ``schema`` keeps it at the latest
revision, ``runs``, ``artifacts`` and ``indexes`` are what the rest of the package asks.
"""

from __future__ import annotations

from unirep_feast.catalog.artifacts import Artifacts, Lineage
from unirep_feast.catalog.connect import default_catalog_url
from unirep_feast.catalog.indexes import Indexes
from unirep_feast.catalog.models import (
    Checkpoint,
    Materialization,
    Promotion,
    Run,
    Snapshot,
    VectorIndex,
)
from unirep_feast.catalog.runs import Runs


class Catalog(Runs, Artifacts, Indexes):
    """The record of every arrow from run to online store.

    Safe to share between threads and processes: a call is one transaction on a connection of its
    own. What calls return is detached from the database and tells the moment of the call.

    Args:
        url: ``sqlite:///path/to/catalog.db`` or ``postgresql://user@host/database``.
        create: make the catalog where there is none yet; without it that is an error.

    Raises:
        CatalogError: it cannot be reached, is stale, is newer than this version, or is not ours.
            Every method raises it as well when the database fails.
    """


__all__ = [
    "Catalog",
    "Checkpoint",
    "Lineage",
    "Materialization",
    "Promotion",
    "Run",
    "Snapshot",
    "VectorIndex",
    "default_catalog_url",
]
