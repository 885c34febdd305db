"""Feast's Redis online store: the same hashes, sent as one run of bytes per slice."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

import numpy as np
import pyarrow as pa
from feast import FeatureView, RepoConfig
from feast.infra.online_stores.helpers import _mmh3, _redis_key
from feast.infra.online_stores.redis import RedisOnlineStore, RedisType, _versioned_fv_name
from google.protobuf.timestamp_pb2 import Timestamp
from redis.exceptions import RedisError

from unirep_feast.errors import StoreError
from unirep_feast.feature_store.online_writer.keys import KeyEncoder
from unirep_feast.feature_store.online_writer.redis_wire import (
    Flight,
    Wire,
    commands,
    exists,
    flat,
    open_wire,
)
from unirep_feast.feature_store.online_writer.rows import Layout, Rows, per_distinct, slices
from unirep_feast.feature_store.online_writer.values import BYTES

#: Of a slice. Small, so that what is built stays in the processor's cache until it is sent.
SLICE_BYTES = 4 << 20

#: Which rows replace what is stored: all of them, those not older, or those that are newer.
Rule = Literal["all", "not_older", "newer"]


def uncovered(config: RepoConfig) -> str | None:
    """Say which option of the store keeps its bytes from being sent from here."""
    options = config.online_store
    if options.redis_type != RedisType.redis:
        return f"Redis online store with redis_type: {options.redis_type.value}"
    _, parameters = RedisOnlineStore._parse_connection_string(options.connection_string)
    if parameters.get("decode_responses"):
        return "Redis online store with decode_responses"
    return None


def write_redis(
    store: RedisOnlineStore,
    config: RepoConfig,
    view: FeatureView,
    layout: Layout,
    batches: Iterable[pa.RecordBatch | pa.Table],
    rule: Rule,
    progress: Callable[[int], object],
) -> tuple[int, int]:
    """Write rows; see :func:`unirep_feast.feature_store.online_writer.write_online`.

    Redis has no transactions across keys that would not stop other clients, so a reader may meet
    rows of both snapshots while this runs, as with Feast's own writer.

    Returns:
        Rows given, and rows left out because the store, or a later row, holds newer ones.
    """
    name = _versioned_fv_name(view, config)
    writer = _Writer(
        fields={feature: _mmh3(f"{name}:{feature}") for feature in layout.features},
        time_field=f"_ts:{name}".encode(),
        ttl=config.online_store.key_ttl_seconds,
        rule=rule,
        keys=KeyEncoder(
            layout.join_keys,
            lambda key: _redis_key(config.project, key, config.entity_key_serialization_version),
        ),
    )
    rows = written = 0
    with (
        _one_line(config.online_store.connection_string, layout.view),
        open_wire(store._get_client(config.online_store)) as wire,
    ):
        for given, stored in writer.write(wire, slices(layout, batches, SLICE_BYTES)):
            rows += given
            written += stored
            progress(given)
    return rows, rows - written


@dataclass(frozen=True)
class _Slice:
    """Commands for a slice of rows.

    Attributes:
        keys: (n,) of those that are to be stored, each key once.
        columns: (n,) commands each, one or more for a key.
        view: for errors.
    """

    keys: pa.LargeBinaryArray
    columns: list[pa.LargeBinaryArray]
    view: str

    def send(self, wire: Wire) -> Callable[[], int]:
        """Send the commands; returns what to call for how many rows they stored, once received."""
        if len(self.keys) == 0:
            return lambda: 0
        # Counted by the server itself, in the same round trip.
        packed = [*map(flat, self.columns), *exists(self.keys)]
        flight = wire.send(packed, len(self.keys) * len(self.columns) + 1)
        return lambda: self._stored(flight)

    def _stored(self, flight: Flight) -> int:
        found, wanted = flight.replies[-1], len(self.keys)
        if found != wanted:
            raise StoreError(
                f"{self.view}: Redis holds {found:,} of {wanted:,} keys just written; it evicts or "
                "somebody deletes: raise maxmemory, then materialize again"
            )
        return wanted


class _Writer:
    """Builds and sends the commands of one slice after the other.

    While the server works on a slice, the next one is read and its commands are built.
    """

    def __init__(
        self,
        fields: dict[str, bytes],
        time_field: bytes,
        ttl: int | None,
        rule: Rule,
        keys: KeyEncoder,
    ) -> None:
        self._fields = fields
        self._time_field = time_field
        self._ttl = ttl
        self._rule = rule
        self._keys = keys
        self._all_new = True  # as far as was seen

    def write(self, wire: Wire, parts: Iterable[Rows]) -> Iterator[tuple[int, int]]:
        """Write slices; yields for each how many rows it had, and how many of them were stored."""
        before: tuple[int, Callable[[], int]] | None = None
        for part in parts:
            keys, times = self._keys(part.ids()), part.event_times()
            places = _last_of_each(keys, times, self._rule)
            if len(places) < len(part):
                keys, times = keys.take(places), times[places.to_numpy()]
            # Asked on the same connection after the slice before, so that its rows count too.
            asking = None if self._rule == "all" else self._ask(wire, keys)
            columns = self._columns(keys, part, places)
            wire.receive()
            if before is not None:
                yield before[0], before[1]()
            if asking is not None:
                old = self._outdated(wire, keys, times, asking)
                if old.any():
                    kept = pa.array(~old)
                    keys, columns = keys.filter(kept), [one.filter(kept) for one in columns]
            before = len(part), _Slice(keys, columns, part.layout.view).send(wire)
        if before is not None:
            wire.receive()
            yield before[0], before[1]()

    def _columns(
        self, keys: pa.LargeBinaryArray, part: Rows, places: pa.Array
    ) -> list[pa.LargeBinaryArray]:
        """Commands that store rows: (n,) each, one or more for a key."""
        if len(places) < len(part):
            part = Rows(part.layout, part.batch.take(places))
        times = pa.array(per_distinct(part.event_times(), _timestamp), BYTES)
        words: list[pa.LargeBinaryArray | bytes] = [b"HSET", keys, self._time_field, times]
        for name, encoded in part.values().items():
            words += [self._fields[name], encoded]
        columns = [commands(*words)]
        if self._ttl:
            columns.append(commands(b"EXPIRE", keys, b"%d" % self._ttl))
        return columns

    def _ask(self, wire: Wire, keys: pa.LargeBinaryArray) -> Flight:
        """Ask for the times of rows, or, where none have been seen yet, whether there are any."""
        if self._all_new:
            return wire.send(exists(keys), 1)
        return wire.send([flat(commands(b"HGET", keys, self._time_field))], len(keys))

    def _outdated(
        self, wire: Wire, keys: pa.LargeBinaryArray, times: np.ndarray, asking: Flight
    ) -> np.ndarray:
        """(n,) bool, which rows are not to replace what is stored."""
        if self._all_new and asking.replies != [0]:
            self._all_new = False
            asking = self._ask(wire, keys)
            wire.receive()
        if self._all_new:
            return np.zeros(len(keys), bool)
        known = {message: _microseconds(message) for message in set(asking.replies)}
        stored = np.fromiter(map(known.__getitem__, asking.replies), np.int64, len(keys))
        old: np.ndarray = times <= stored if self._rule == "newer" else times < stored
        return old & (stored > 0)  # 0 stands for no time, as in Feast


def _last_of_each(keys: pa.LargeBinaryArray, times: np.ndarray, rule: Rule) -> pa.Array:
    """Pick the row that would be left of each key, were the rows written one by one."""
    groups = keys.dictionary_encode()
    places = np.arange(len(keys))
    if len(groups.dictionary) == len(keys):
        return pa.array(places)
    # Of equal times, "newer" lets the first one stand.
    ties = -places if rule == "newer" else places
    key = groups.indices.to_numpy()
    order = np.lexsort((ties, key) if rule == "all" else (ties, times, key))
    last = np.append(np.diff(key[order]) != 0, True)
    return pa.array(np.sort(order[last]))


def _timestamp(time: datetime) -> bytes:
    message = Timestamp()
    message.FromDatetime(time.replace(tzinfo=UTC))
    serialized: bytes = message.SerializeToString()
    return serialized


def _microseconds(message: bytes | None) -> int:
    if not message:
        return 0
    stored: int = Timestamp.FromString(message).ToMicroseconds()
    return stored


@contextmanager
def _one_line(connection_string: str, view: str) -> Iterator[None]:
    try:
        yield
    except RedisError as error:
        # Only the addresses: a parameter may be a password.
        servers = ",".join(part for part in connection_string.split(",") if "=" not in part)
        reason = " ".join(str(error).split())[:200]
        raise StoreError(
            f"online store Redis at {servers}: {reason}; part of {view} may be written, nothing is "
            "recorded; mend the server, then materialize again"
        ) from None
