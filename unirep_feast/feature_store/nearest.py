"""Search of vectors in the online store itself, where it can: PostgreSQL with pgvector, Milvus."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from feast import FeatureStore

from unirep_feast.errors import StoreError, one_line
from unirep_feast.feature_store.views import spec_of

#: Per store type and metric: what the store calls it, and its "distance" turned into a score as
#: `unirep similar` gives it, higher for nearer.
_STORES: dict[str, dict[str, tuple[str, Callable[[np.ndarray], np.ndarray]]]] = {
    "postgres": {
        "cosine": ("cosine", lambda distance: 1 - distance),
        "inner_product": ("inner_product", lambda distance: -distance),
        "l2": ("L2", lambda distance: -distance),
    },
    "milvus": {
        "cosine": ("COSINE", lambda product: product),
        "inner_product": ("IP", lambda product: product),
        "l2": ("L2", lambda square: -np.sqrt(square.clip(min=0))),
    },
}


@dataclass(frozen=True)
class Nearest:
    """Rows of a view by falling score.

    Attributes:
        keys: join key → one id per row.
        scores: (m,) float32, as `unirep similar` gives them.
    """

    keys: dict[str, list[Any]]
    scores: np.ndarray


def nearest(store: FeatureStore, view: str, query: np.ndarray, top: int = 10) -> Nearest:
    """Find the rows of one of our views whose vectors are nearest to a query, in the online store.

    Feast's own ``retrieve_online_documents_v2`` of 0.67 gives the ids in order of distance, but
    distances and features in order of the ids; Milvus gives the query back in place of the vectors,
    and PostgreSQL knows the metrics by other names. This asks the same store, and keeps ids and
    scores together.

    Args:
        store: with an online store of type ``postgres`` (``vector_enabled: true``) or ``milvus``.
        view: name of a view whose rows are one vector each: users of encoders with K = 1, items
            (``_items``), or single interests (``_interests``).
        query: (D,) float32.
        top: at most so many rows.

    Raises:
        StoreError: the store does not search, the view is not ours, its rows hold several vectors,
            or the store failed.
    """
    kind = store.config.online_store.type
    if kind not in _STORES:
        raise StoreError(
            f"online store {kind!r} does not search our vectors, {' and '.join(_STORES)} do; use "
            "`unirep similar`"
        )
    found = store.get_feature_view(view)
    metric = spec_of(found).view.metric
    field = next((one for one in found.features if one.name == "vector"), None)
    if field is None or not field.vector_index:
        raise StoreError(
            f"view {view!r} holds no vector that stores search: its rows have several, or their "
            "width was unknown at `feast apply`; set view.per_interest: true or view.dim, train, "
            "and apply again"
        )
    if query.shape != (field.vector_length,):
        raise StoreError(
            f"the query is {query.shape}; view {view!r} holds vectors of ({field.vector_length},)"
        )
    name, score = _STORES[kind][metric]
    try:
        rows = store._get_provider().retrieve_online_documents_v2(
            config=store.config,
            table=found,
            requested_features=["vector"],
            embedding=np.asarray(query, np.float32).tolist(),
            top_k=top,
            distance_metric=name,
        )
    except Exception as error:
        raise StoreError(f"online store {kind!r} did not search: {one_line(error)}") from error
    keys: dict[str, list[Any]] = {}
    for _, entity, _ in rows:
        for key, value in zip(entity.join_keys, entity.entity_values, strict=True):
            keys.setdefault(key, []).append(_plain(value))
    distances = np.array([_plain(one["distance"]) for _, _, one in rows], np.float64)
    return Nearest(keys, score(distances).astype(np.float32))


def _plain(value: Any) -> Any:
    """What a protobuf value holds; stores choose among its number types."""
    return getattr(value, value.WhichOneof("val"))
