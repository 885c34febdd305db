"""Which snapshot has a search index, where it lies and how good it is."""

from __future__ import annotations

from sqlalchemy import delete, select

from unirep_feast.catalog.models import Snapshot, VectorIndex
from unirep_feast.catalog.transactions import Transactions, utc_now
from unirep_feast.errors import CatalogError


class Indexes(Transactions):
    """What the catalog knows of search indexes.

    An index can be made again from its snapshot, so unlike a snapshot it may be replaced.
    """

    def add_index(
        self,
        snapshot_id: int,
        *,
        metric: str,
        path: str,
        checksum: str,
        size: int,
        n_trees: int,
        search_k: int,
        recall: float,
        recall_wanted: float,
        recall_at: int,
    ) -> VectorIndex:
        """Record an index; one of the same snapshot and metric is replaced.

        Args:
            snapshot_id: whose vectors are in it.
            metric: ``cosine``, ``inner_product`` or ``l2``.
            path: where it lies.
            checksum: of its content.
            size: bytes.
            n_trees: trees in it.
            search_k: nodes to look at per search.
            recall: share of the exact top that a sample of searches found.
            recall_wanted: the share that was asked for.
            recall_at: how long that top was.

        Raises:
            CatalogError: there is no such snapshot.
        """
        index = VectorIndex(
            snapshot_id=snapshot_id,
            metric=metric,
            path=path,
            checksum=checksum,
            size=size,
            n_trees=n_trees,
            search_k=search_k,
            recall=recall,
            recall_wanted=recall_wanted,
            recall_at=recall_at,
            created_at=utc_now(),
        )
        with self._write() as session:
            # Locked, so that of two processes that record the same index the second replaces.
            if session.get(Snapshot, snapshot_id, with_for_update=True) is None:
                raise CatalogError(f"there is no snapshot {snapshot_id} in catalog {self.url}")
            session.execute(
                delete(VectorIndex).where(
                    VectorIndex.snapshot_id == snapshot_id, VectorIndex.metric == metric
                )
            )
            session.add(index)
        return index

    def index(self, snapshot_id: int, metric: str) -> VectorIndex | None:
        """Return the index of a snapshot for a metric, if there is one."""
        query = select(VectorIndex).where(
            VectorIndex.snapshot_id == snapshot_id, VectorIndex.metric == metric
        )
        with self._read() as session:
            return session.scalars(query).one_or_none()
