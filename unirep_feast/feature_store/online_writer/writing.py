"""Choose how a view is written to its online store, and say so."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa
from feast import FeatureView, RepoConfig
from feast.infra.online_stores.helpers import get_online_store_from_config
from feast.infra.online_stores.online_store import OnlineStore
from feast.utils import _validate_vector_field_lengths
from feast.version import get_version

from unirep_feast.errors import StoreError
from unirep_feast.feature_store.online_writer.generic_writer import write_generic
from unirep_feast.feature_store.online_writer.keys import COVERED
from unirep_feast.feature_store.online_writer.rows import Layout, layout_of

#: Feast versions whose stored bytes the tests have compared with ours.
VERIFIED = frozenset({"0.67.0"})

#: What becomes of rows that are in the store already.
Stored = Literal["as_feast", "keep_newer", "replace"]

_SQLITE = "feast.infra.online_stores.sqlite.SqliteOnlineStore"
_REDIS = "feast.infra.online_stores.redis.RedisOnlineStore"

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class WriteReport:
    """What was written.

    Attributes:
        rows: rows given; all of them are in the store, but for ``skipped``.
        path: "fast" for bytes made here, "generic" for Feast's ``online_write_batch``.
        reason: why the path is generic; None if it is fast.
        skipped: rows left out because the store, or a later row, holds newer ones.
    """

    rows: int
    path: Literal["fast", "generic"]
    reason: str | None
    skipped: int


def write_online(
    config: RepoConfig,
    view: FeatureView,
    batches: Iterable[pa.RecordBatch | pa.Table],
    progress: Callable[[int], object] | None = None,
    *,
    store: OnlineStore | None = None,
    stored: Stored = "as_feast",
) -> WriteReport:
    """Write rows of a feature view to the online store of a repo.

    Memory holds one batch and some tens of MB, so hand over batches of a size that fits; 32 MB suit
    best. SQLite is written in one transaction, which keeps other writers out, unless
    ``materialization.online_write_batch_size`` is set; so batches should come at reading speed.

    Args:
        config: of the repo.
        view: as the registry has it, for its version decides where rows go.
        batches: join keys, features, event time and created time (nullable) under the names that
            the view uses; other columns are left alone. Within one batch and across batches later
            rows follow earlier ones.
        progress: called with the number of rows done since the last call.
        store: the engine's own, whose connection is then used; by default one is made.
        stored: ``as_feast`` treats what is stored as the store does: SQLite and PostgreSQL replace
            it, Redis leaves rows of the same time or later alone unless ``skip_dedup`` is set.
            ``keep_newer`` leaves rows of a later time alone, and only those, on every store (SQLite
            stores whole seconds).
            ``replace`` replaces all, as going back to an earlier run asks for.

    Raises:
        StoreError: a column is missing or of a wrong type, the store is gone, locked, full or
            read-only, or holds less than was written.
    """
    layout = layout_of(view)
    store = store or get_online_store_from_config(config.online_store)
    progress = progress or (lambda rows: None)
    batches = _with_vectors_checked(view, batches)
    kind = f"{type(store).__module__}.{type(store).__qualname__}"
    reason = _why_generic(config, layout, kind)
    if reason is not None:
        _logger.warning("feature view %s is written the slow way: %s", view.name, reason)
        if kind == _REDIS and stored != "as_feast":
            config = _without_dedup(config)
        rows, skipped = write_generic(
            store, config, view, layout, batches, stored == "keep_newer", progress
        )
        return WriteReport(rows, "generic", reason, skipped)
    if kind == _SQLITE:
        from unirep_feast.feature_store.online_writer.sqlite_writer import write_sqlite

        rows, skipped = write_sqlite(
            store, config, view, layout, batches, stored == "keep_newer", progress
        )
    else:
        from unirep_feast.feature_store.online_writer.redis_writer import Rule, write_redis

        rule: Rule = "newer"
        if stored == "keep_newer":
            rule = "not_older"
        elif stored == "replace" or config.online_store.skip_dedup:
            rule = "all"
        rows, skipped = write_redis(store, config, view, layout, batches, rule, progress)
    return WriteReport(rows, "fast", None, skipped)


def _why_generic(config: RepoConfig, layout: Layout, kind: str) -> str | None:
    version = get_version()
    if version not in VERIFIED:
        return f"stored bytes are verified for feast {', '.join(sorted(VERIFIED))}, not {version}"
    if config.entity_key_serialization_version != 3:
        return f"entity_key_serialization_version {config.entity_key_serialization_version}"
    for name, value_type in layout.join_keys.items():
        if value_type not in COVERED:
            return f"join key {name} of type {value_type.name}"
    if kind == _SQLITE:
        from unirep_feast.feature_store.online_writer import sqlite_writer

        return sqlite_writer.uncovered(config)
    if kind == _REDIS:
        # Not at the top: the redis client is an extra.
        from unirep_feast.feature_store.online_writer import redis_writer

        return redis_writer.uncovered(config)
    return f"online store {kind.rpartition('.')[2]}"


def _with_vectors_checked(
    view: FeatureView, batches: Iterable[pa.RecordBatch | pa.Table]
) -> Iterator[pa.RecordBatch | pa.Table]:
    """Refuse vectors of another length than a searchable field declares, as Feast does."""
    for batch in batches:
        try:
            _validate_vector_field_lengths(batch, view)
        except ValueError as error:
            raise StoreError(f"{error} Correct vector_length, or encode with that length") from None
        yield batch


def _without_dedup(config: RepoConfig) -> RepoConfig:
    """Copy a config, so that Redis stores what it is given."""
    copied = config.model_copy()
    copied._online_store = config.online_store.model_copy(update={"skip_dedup": True})
    return copied
