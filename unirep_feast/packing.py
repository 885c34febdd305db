"""Events in any order to histories end to end: one sort of one composite key where it fits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from unirep_feast.errors import EventsError
from unirep_feast.events import EventReport, Events

_KEY_BITS = 63
_MAX_TYPES = 32_766  # positions are int16, 0 is null


@dataclass(frozen=True)
class PackedEvents:
    """Events sorted by user, time and item id, not yet coded by a vocabulary.

    Attributes:
        users: (U,) distinct user ids, sorted.
        offsets: (U + 1,) int64; user u has events ``offsets[u]:offsets[u + 1]``.
        times: (N,) int64 microseconds.
        items: (N,) int32 positions in ``item_ids``.
        item_ids: distinct item ids, sorted; so ties in time fall by id, whatever the file order.
        columns: ``event_type`` (int16 positions in ``event_types`` + 1, 0 for null) and ``value``
            (float32, NaN for null), where the log has them.
        event_types: distinct event types, sorted.
        report: what was read and dropped.
    """

    users: pa.Array
    offsets: np.ndarray
    times: np.ndarray
    items: np.ndarray
    item_ids: pa.Array
    columns: Mapping[str, np.ndarray]
    event_types: tuple[str, ...]
    report: EventReport


def pack(events: Events, duplicates: str = "drop") -> PackedEvents:
    """Sort events into histories.

    Args:
        events: a checked table; it may be freed by the caller afterwards.
        duplicates: what to do with rows equal in user, item, time, type and value: ``drop`` (and
            count), ``keep`` or ``error``.

    Raises:
        EventsError: there are duplicates and ``duplicates`` is ``error``.
    """
    table = events.table
    users, user_rank = _ranks(table["user_id"])
    item_ids, item_rank = _ranks(table["item_id"])
    times = _int64(table["event_timestamp"])
    columns: dict[str, np.ndarray] = {}
    event_types: tuple[str, ...] = ()
    if "event_type" in table.column_names:
        names, type_rank = _ranks(table["event_type"])
        event_types = tuple(names.to_pylist())
        if len(event_types) > _MAX_TYPES:
            raise EventsError(
                f"{events.origin}: {len(event_types):,} event types, at most {_MAX_TYPES:,} are "
                "possible; name another column under `events.columns.type` in the spec"
            )
        columns["event_type"] = (type_rank + 1).astype(np.int16)
    if "value" in table.column_names:
        columns["value"] = _float32(table["value"])
    origin, report = events.origin, events.report
    # The sort is where memory peaks: a caller that let go of the table gets it freed before.
    del events, table
    pa.default_memory_pool().release_unused()
    user_rank, times, item_rank, columns = _sort(user_rank, times, item_rank, columns)
    if duplicates != "keep":
        keep = _first_of_equals(user_rank, times, item_rank, columns)
        if keep is not None:
            dropped = int(keep.size - np.count_nonzero(keep))
            if duplicates == "error":
                raise EventsError(
                    f"{origin}: {dropped:,} duplicate rows (equal in user, item, time, type "
                    "and value); mend the log, or set events.duplicates to drop or keep"
                )
            report = report.with_dropped("duplicate", dropped)
            user_rank, times, item_rank = user_rank[keep], times[keep], item_rank[keep]
            columns = {name: column[keep] for name, column in columns.items()}
    counts = np.bincount(user_rank, minlength=len(users))
    offsets = np.concatenate(([0], np.cumsum(counts, dtype=np.int64)))
    return PackedEvents(users, offsets, times, item_rank, item_ids, columns, event_types, report)


def _ranks(column: pa.ChunkedArray) -> tuple[pa.Array, np.ndarray]:
    """Return the distinct values, sorted, and each row's (n,) int32 position (-1 for null)."""
    encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    encoded = encoded.unify_dictionaries()
    chunks = encoded.chunks
    distinct = chunks[0].dictionary if chunks else pa.array([], column.type)
    order = pc.sort_indices(distinct)
    rank = np.empty(len(distinct) + 1, np.int32)
    rank[order.to_numpy()] = np.arange(len(distinct), dtype=np.int32)
    rank[-1] = -1
    out = np.empty(len(column), np.int32)
    start = 0
    for chunk in chunks:  # a handful of record batches, not rows
        indices = pc.fill_null(chunk.indices, len(distinct))
        np.take(rank, indices.to_numpy(zero_copy_only=False), out=out[start : start + len(chunk)])
        start += len(chunk)
    return distinct.take(order), out


def _int64(column: pa.ChunkedArray) -> np.ndarray:
    out = np.empty(len(column), np.int64)
    start = 0
    for chunk in column.chunks:
        out[start : start + len(chunk)] = chunk.view(pa.int64()).to_numpy()
        start += len(chunk)
    return out


def _float32(column: pa.ChunkedArray) -> np.ndarray:
    # Adding zero turns -0.0 into 0.0: equal numbers have equal bits, whichever row came first.
    zero = np.float32(0)
    return np.asarray(column.to_numpy(), np.float32) + zero


def _sort(
    users: np.ndarray, times: np.ndarray, items: np.ndarray, columns: dict[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Sort by user, time, item; ``columns`` follow, and break what ties are left."""
    start = int(times.min()) if times.size else 0
    span = int(times.max()) - start if times.size else 0
    # A span beyond 63 bits would overflow in numpy; it does not fit a key anyway.
    unit = _resolution(times) if span.bit_length() <= _KEY_BITS else 1
    ticks = span // unit
    item_bits = int(items.max(initial=0)).bit_length()
    time_bits = ticks.bit_length()
    user_bits = int(users.max(initial=0)).bit_length()
    if user_bits + time_bits + item_bits > _KEY_BITS:
        order = _order_in_two(users, times, items)
        users, times, items = users[order], times[order], items[order]
        columns = {name: column[order] for name, column in columns.items()}
    else:
        key = times - start
        if unit > 1:
            key //= unit
        key |= users.astype(np.int64) << time_bits
        key <<= item_bits
        key |= items
        # torch's stable sort is a radix sort: 2–3 times the speed of numpy's on 64-bit keys.
        ordered = torch.sort(torch.from_numpy(key), stable=True)
        key = ordered.values.numpy()
        columns = {name: column[ordered.indices.numpy()] for name, column in columns.items()}
        del ordered
        # The key holds all three columns, so they are read back from it instead of gathered.
        items = (key & ((1 << item_bits) - 1)).astype(np.int32)
        key >>= item_bits
        users = (key >> time_bits).astype(np.int32)
        key &= (1 << time_bits) - 1
        if unit > 1:
            key *= unit
        key += start
        times = key
    return users, times, items, _settle(users, times, items, columns)


def _resolution(times: np.ndarray) -> int:
    """The coarsest of second, millisecond, microsecond that loses nothing relative to the first."""
    if times.size:
        start = times.min()
        for unit in (1_000_000, 1_000):
            if not np.any((times - start) % unit):
                return unit
    return 1


def _order_in_two(users: np.ndarray, times: np.ndarray, items: np.ndarray) -> np.ndarray:
    """Order by item and time first, then stably by user, when one key is too narrow for all."""
    order = torch.sort(torch.from_numpy(items), stable=True).indices
    order = order[torch.sort(torch.from_numpy(times)[order], stable=True).indices]
    order = order[torch.sort(torch.from_numpy(users)[order], stable=True).indices]
    return np.asarray(order)


def _equal_to_previous(*columns: np.ndarray) -> np.ndarray:
    equal = np.ones(max(columns[0].size - 1, 0), bool)
    for column in columns:
        equal &= column[1:] == column[:-1]
    return equal


def _settle(
    users: np.ndarray, times: np.ndarray, items: np.ndarray, columns: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Order rows equal in user, time and item by type and value, so file order changes nothing."""
    if not columns:
        return columns
    equal = _equal_to_previous(users, times, items)
    if not equal.any():
        return columns
    tied = np.flatnonzero(np.concatenate((equal, [False])) | np.concatenate(([False], equal)))
    keys = [columns[name][tied] for name in sorted(columns, reverse=True)]
    group = np.cumsum(~np.concatenate(([False], equal)))[tied]
    order = np.lexsort((*keys, group))
    settled = {}
    for name, column in columns.items():
        settled[name] = column.copy()
        settled[name][tied] = column[tied][order]
    return settled


def _first_of_equals(
    users: np.ndarray, times: np.ndarray, items: np.ndarray, columns: dict[str, np.ndarray]
) -> np.ndarray | None:
    """Return (N,) bool keeping the first of rows equal in everything; None if all differ."""
    equal = _equal_to_previous(users, times, items)
    if not equal.any():
        return None
    for column in columns.values():
        same = column[1:] == column[:-1]
        if column.dtype == np.float32:  # two missing values are equal
            same |= np.isnan(column[1:]) & np.isnan(column[:-1])
        equal &= same
    return np.concatenate(([True], ~equal)) if equal.any() else None
