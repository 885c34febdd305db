"""Nearest vectors: an Annoy index of one snapshot, and exact search as reference and fallback.

``exact`` compares with every vector, ``trees`` builds and opens an index file, ``tuning`` finds how
large it must be to reach a recall. Rows are positions in a snapshot; an owner is a user or an item,
and may have several vectors.
"""

from __future__ import annotations

from unirep_feast.index.exact import Found, Metric, exact_search, without
from unirep_feast.index.trees import Index, IndexFile, build_index

__all__ = ["Found", "Index", "IndexFile", "Metric", "build_index", "exact_search", "without"]
