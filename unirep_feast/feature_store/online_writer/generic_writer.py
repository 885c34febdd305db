"""Every other online store: Feast's own ``online_write_batch``, fed without a float in Python."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
from feast import FeatureView, RepoConfig
from feast.infra.online_stores.online_store import OnlineStore
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.value_type import ValueType

from unirep_feast.errors import StoreError
from unirep_feast.feature_store.online_writer.rows import (
    Layout,
    Rows,
    as_microseconds,
    created_per_distinct,
    per_distinct,
    slices,
)
from unirep_feast.feature_store.online_writer.values import encode

SLICE_BYTES = 16 << 20
SLICE_ROWS = 5_000

_SAMPLE = 100
_PAUSES = (0.1, 0.5, 2.0)


def write_generic(
    store: OnlineStore,
    config: RepoConfig,
    view: FeatureView,
    layout: Layout,
    batches: Iterable[pa.RecordBatch | pa.Table],
    keep_newer: bool,
    progress: Callable[[int], object],
) -> tuple[int, int]:
    """Write rows; see :func:`unirep_feast.feature_store.online_writer.write_online`.

    Returns:
        Rows given, and rows left out because the store holds newer ones; what a store leaves out on
        its own account is not known here.
    """
    per_call = config.materialization_config.online_write_batch_size or SLICE_ROWS
    # The smallest feature tells when a row is of; vectors would only be carried about.
    small = [min(layout.features, key=lambda name: layout.features[name] == ValueType.FLOAT_LIST)]

    def read(keys: list[Any]) -> list[datetime | None]:
        return [when for when, _ in store.online_read(config, view, keys, list(small))]

    rows = skipped = 0
    for part in slices(layout, batches, SLICE_BYTES, per_call):
        records = _records(part)
        try:
            if keep_newer:
                stored = read([record[0] for record in records])
                times = part.event_times().tolist()
                records = [
                    record
                    for record, when, there in zip(records, times, stored, strict=True)
                    if there is None or when >= as_microseconds(there)
                ]
            if records:
                store.online_write_batch(config, view, records, lambda count: None)
            sample = [record[0] for record in records[:: max(1, len(records) // _SAMPLE)]]
            missing = _count_missing(read, sample)
        except Exception as error:  # whatever the driver of this store raises
            raise StoreError(
                f"online store {type(store).__name__}: {' '.join(str(error).split())[:200]}; part "
                f"of {layout.view} may be written, nothing is recorded; mend the store, then "
                "materialize again"
            ) from None
        if missing:
            raise StoreError(
                f"online store {type(store).__name__}: {missing} of {len(sample)} rows of "
                f"{layout.view} looked up after writing are not there; materialize again"
            )
        rows += len(part)
        skipped += len(part) - len(records)
        progress(len(part))
    return rows, skipped


def _count_missing(read: Callable[[list[Any]], list[datetime | None]], keys: list[Any]) -> int:
    """Look rows up, more than once: some stores show what was written a moment later."""
    for pause in (*_PAUSES, None):
        missing = sum(when is None for when in read(keys)) if keys else 0
        if not missing or pause is None:
            break
        time.sleep(pause)
    return missing


def _records(part: Rows) -> list[tuple[Any, dict[str, Any], datetime, datetime | None]]:
    """Rows as Feast's stores take them."""
    join_keys = list(part.layout.join_keys)
    ids = part.ids()
    parts = [
        _messages(encode(ids[name], kind, name)) for name, kind in part.layout.join_keys.items()
    ]
    keys = (
        EntityKey(join_keys=join_keys, entity_values=values) for values in zip(*parts, strict=True)
    )
    columns = [_messages(encoded) for encoded in part.values().values()]
    names = list(part.layout.features)
    values = (dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True))
    times = per_distinct(part.event_times(), lambda when: when)
    created = created_per_distinct(part.created(), len(part), lambda when: when)
    return list(zip(keys, values, times, created, strict=True))


def _messages(encoded: pa.LargeBinaryArray) -> list[Any]:
    return list(map(Value.FromString, np.asarray(encoded.to_numpy(zero_copy_only=False)).tolist()))
