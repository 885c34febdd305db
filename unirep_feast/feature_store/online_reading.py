"""The latest vectors out of an online store: its raw bytes where they are known, else Feast."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import cache, lru_cache
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from feast import FeatureStore, FeatureView, RepoConfig
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.infra.online_stores.online_store import OnlineStore
from feast.infra.passthrough_provider import PassthroughProvider
from feast.value_type import ValueType
from feast.version import get_version

from unirep_feast.errors import StoreError, one_line
from unirep_feast.feature_store.columns import from_messages, from_values
from unirep_feast.feature_store.entity_rows import read_ids
from unirep_feast.feature_store.found_vectors import UserVectors, lay_out, missing, view_of
from unirep_feast.feature_store.historical_reading import type_of
from unirep_feast.feature_store.online_writer import VERIFIED
from unirep_feast.feature_store.online_writer.keys import COVERED, KeyEncoder

if TYPE_CHECKING:
    from unirep_feast.feature_store.entity_rows import Ids

_SQLITE = "feast.infra.online_stores.sqlite.SqliteOnlineStore"
_REDIS = "feast.infra.online_stores.redis.RedisOnlineStore"

_logger = logging.getLogger(__name__)


def online_user_vectors(store: FeatureStore, view: str | FeatureView, ids: Ids) -> UserVectors:
    """Fetch the users' latest materialized vectors from the online store.

    SQLite and Redis are read as bytes, which become one array; every other store, and a Feast whose
    bytes were not verified, through ``get_online_features``. Equal results either way: like Feast,
    this does not look at the view's ttl (a key's time to live on Redis is Redis's own business).

    Works for every view of a representation: where it is keyed by items, ids are those of items;
    where by user and interest, they are columns by join key.

    Args:
        store: the feature store. Its copy of the registry is used while it is fresh.
        view: a feature view made by ``representation(...)``, or its name.
        ids: n ids, integers or strings as the view's join key; may repeat. For a view with several
            join keys a dict of columns, a DataFrame or an Arrow table.

    Returns:
        n vectors in the order of ``ids``; unknown users are False in the mask.

    Raises:
        StoreError: the view is unknown or not ours, ids are of the wrong type, nothing was ever
            materialized, or the online store failed.
    """
    view = view_of(store, view, cached=True)
    keys = read_ids(ids, view)
    asked = pa.table(dict(keys))
    rows = asked.num_rows
    valid = np.ones(rows, bool)
    for column in keys.values():
        if column.null_count:
            valid &= column.is_valid().to_numpy(zero_copy_only=False)
    if not valid.any():
        return missing(view, rows)
    if not valid.all():
        keys = {name: column.filter(pa.array(valid)) for name, column in keys.items()}
    found, present = _read(store, view, keys)
    if not present.any():
        _check_materialized(store, view)
    source = np.full(rows, -1, np.int64)
    source[np.flatnonzero(valid)[present]] = np.arange(len(found))
    return lay_out(view, found, source)


def _read(
    store: FeatureStore, view: FeatureView, keys: Mapping[str, pa.Array]
) -> tuple[np.ndarray, np.ndarray]:
    """(m, W) vectors that are there, and (n,) bool, of which keys."""
    name = f"feature {view.name}:vector"
    online, reason = _online_store(store, view)
    try:
        if online is not None:
            messages = read_messages(online, store.config, view, keys)
        else:
            _logger.debug("feature view %s is read through Feast: %s", view.name, reason)
            request = {key: column.to_pylist() for key, column in keys.items()}
            response = store.get_online_features(
                features=[f"{view.name}:vector"], entity_rows=request
            ).proto
    except Exception as error:
        raise StoreError(
            f"feature view {view.name!r}: the {type_of(store.config.online_store)} online store "
            f"failed: {one_line(error)}; is it running, and was `feast apply` run?"
        ) from error
    if online is not None:
        return from_messages(messages, name)
    place = list(response.metadata.feature_names.val).index("vector")
    return from_values(response.results[place].values, name)


def read_messages(
    online: OnlineStore, config: RepoConfig, view: FeatureView, keys: Mapping[str, pa.Array]
) -> list[bytes | None]:
    """Fetch n serialized vectors from SQLite or Redis; None where there is none."""
    encoder = _key_encoder(
        tuple((field.name, field.dtype.to_value_type()) for field in view.entity_columns),
        config.entity_key_serialization_version,
    )
    encoded = encoder(keys).to_numpy(zero_copy_only=False).tolist()
    read = _read_sqlite if _kind(online) == _SQLITE else _read_redis
    return read(online, config, view, encoded)


def _read_sqlite(
    online: OnlineStore, config: RepoConfig, view: FeatureView, keys: list[bytes]
) -> list[bytes | None]:
    import sqlite3

    from feast.infra.online_stores.sqlite import _quote_id, _table_id

    table = _table_id(config.project, view, config.registry.enable_online_feature_view_versioning)
    connection = online._get_conn(config)
    most = connection.getlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER) - 1
    cursor = connection.cursor()
    found: dict[bytes, bytes] = {}
    for start in range(0, len(keys), most):
        part = keys[start : start + most]
        found.update(
            cursor.execute(
                f"SELECT entity_key, value FROM {_quote_id(table)} "  # noqa: S608 - quoted
                f"WHERE feature_name = ? AND entity_key IN ({', '.join('?' * len(part))})",
                ["vector", *part],
            )
        )
    return list(map(found.get, keys))


def _read_redis(
    online: OnlineStore, config: RepoConfig, view: FeatureView, keys: list[bytes]
) -> list[bytes | None]:
    from feast.infra.online_stores.redis import _versioned_fv_name

    name = _versioned_fv_name(view, config)
    _, fields = online._generate_hset_keys_for_features(view, ["vector"], name)
    project = config.project.encode()
    # Feast's own exchange, which knows clusters, sentinels and its two clients.
    replies = online._read_hash_fields(config, [(key + project, fields[:1]) for key in keys])
    return [reply[0] for reply in replies]


def _online_store(store: FeatureStore, view: FeatureView) -> tuple[OnlineStore | None, str]:
    """The online store if its bytes are known; else None and why they are not."""
    provider = store._get_provider()
    if not isinstance(provider, PassthroughProvider):
        return None, f"provider {type(provider).__name__}"
    if _feast() not in VERIFIED:
        return None, f"feast {_feast()}"
    if store.config.entity_key_serialization_version != 3:
        return None, "entity_key_serialization_version"
    for field in view.entity_columns:
        if field.dtype.to_value_type() not in COVERED:
            return None, f"join key {field.name} of type {field.dtype}"
    online = provider.online_store
    kind = _kind(online)
    if kind not in (_SQLITE, _REDIS):
        return None, f"online store {kind}"
    return online, ""


@cache
def _feast() -> str:
    """The version of Feast, whose look-up takes milliseconds."""
    version: str = get_version()
    return version


def _kind(online: OnlineStore) -> str:
    return f"{type(online).__module__}.{type(online).__qualname__}"


@lru_cache(maxsize=64)
def _key_encoder(keys: tuple[tuple[str, ValueType], ...], version: int) -> KeyEncoder:
    return KeyEncoder(dict(keys), lambda key: serialize_entity_key(key, version))


def _check_materialized(store: FeatureStore, view: FeatureView) -> None:
    if view.materialization_intervals:
        return
    if not store.get_feature_view(view.name).materialization_intervals:
        raise StoreError(
            f"feature view {view.name!r} was never materialized; run `unirep encode`, then `feast "
            "materialize`"
        )
