"""Feast's Redis online store: the same hashes, sent as one run of bytes per slice."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from feast import FeatureView, RepoConfig
from feast.infra.online_stores.helpers import _mmh3, _redis_key
from feast.infra.online_stores.redis import RedisOnlineStore, RedisType, _versioned_fv_name
from google.protobuf.timestamp_pb2 import Timestamp
from redis.exceptions import RedisError

from unirep_feast.errors import StoreError
from unirep_feast.feature_store.online_writer.keys import KeyEncoder
from unirep_feast.feature_store.online_writer.rows import Layout, Rows, per_distinct, slices
from unirep_feast.feature_store.online_writer.values import BYTES, join

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
    with _one_line(config.online_store.connection_string, layout.view):
        client = store._get_client(config.online_store)
        for part in slices(layout, batches, SLICE_BYTES):
            written += writer.write(client, part)
            rows += len(part)
            progress(len(part))
    return rows, rows - written


class _Writer:
    """Builds and sends the commands of one slice after the other."""

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

    def write(self, client: Any, part: Rows) -> int:
        """Write a slice; returns how many of its rows were stored."""
        keys = self._keys(part.ids())
        times = part.event_times()
        kept = _last_of_each(keys, times, self._rule)
        if self._rule != "all":
            stored = self._stored_times(client, keys.take(kept))
            times = times[kept.to_numpy()]
            old = times <= stored if self._rule == "newer" else times < stored
            old &= stored > 0  # 0 stands for no time, as in Feast
            kept = kept.filter(pa.array(~old))
        if len(kept) == 0:
            return 0
        if len(kept) < len(part):
            keys, part = keys.take(kept), Rows(part.layout, part.batch.take(kept))
        pieces = self._hset(keys, part)
        if self._ttl:
            pieces += _command(b"EXPIRE", keys, b"%d" % self._ttl)
        # Counted by the server itself, in the same round trip.
        replies = _exchange(
            client, [_flat(join(*pieces)), *_exists(keys)], len(keys) * (2 if self._ttl else 1) + 1
        )
        if replies[-1] != len(keys):
            raise StoreError(
                f"{part.layout.view}: Redis holds {replies[-1]:,} of {len(keys):,} keys just "
                "written; it evicts or somebody deletes: raise maxmemory, then materialize again"
            )
        return len(keys)

    def _hset(self, keys: pa.LargeBinaryArray, part: Rows) -> list[pa.LargeBinaryArray | bytes]:
        times = pa.array(per_distinct(part.event_times(), _timestamp), BYTES)
        words: list[pa.LargeBinaryArray | bytes] = [b"HSET", keys, self._time_field, times]
        for name, encoded in part.values().items():
            words += [self._fields[name], encoded]
        return _command(*words)

    def _stored_times(self, client: Any, keys: pa.LargeBinaryArray) -> np.ndarray:
        """(n,) int64 microseconds of the rows that are there, 0 where there is none."""
        if _exchange(client, [*_exists(keys)], 1) == [0]:  # one reply, and mostly the only one
            return np.zeros(len(keys), np.int64)
        command = _flat(join(*_command(b"HMGET", keys, self._time_field)))
        found = [reply[0] for reply in _exchange(client, [command], len(keys))]
        known = {message: _microseconds(message) for message in set(found)}
        return np.fromiter(map(known.__getitem__, found), np.int64, len(found))


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


def _command(*words: pa.LargeBinaryArray | bytes) -> list[pa.LargeBinaryArray | bytes]:
    """Put one command per row in the protocol's form, as pieces to be joined."""
    pieces: list[pa.LargeBinaryArray | bytes] = []
    constant = b"*%d\r\n" % len(words)
    for word in words:
        if isinstance(word, bytes):
            constant += b"$%d\r\n%b\r\n" % (len(word), word)
        else:
            pieces += [constant + b"$", _lengths(word), b"\r\n", word]
            constant = b"\r\n"
    return [*pieces, constant]


def _exists(keys: pa.LargeBinaryArray) -> tuple[bytes, memoryview]:
    """One command that counts keys."""
    head = b"*%d\r\n$6\r\nEXISTS\r\n" % (len(keys) + 1)
    return head, _flat(join(b"$", _lengths(keys), b"\r\n", keys, b"\r\n"))


def _lengths(words: pa.LargeBinaryArray) -> pa.LargeBinaryArray:
    return pc.binary_length(words).cast(pa.string()).cast(BYTES)


def _flat(rows: pa.LargeBinaryArray) -> memoryview:
    """Return all rows one after the other, which is how they lie in memory."""
    _, offsets, data = rows.buffers()
    bounds = np.frombuffer(offsets, np.int64)[rows.offset : rows.offset + len(rows) + 1]
    return memoryview(data)[bounds[0] : bounds[-1]]


def _exchange(client: Any, packed: list[bytes | memoryview], replies: int) -> list[Any]:
    """Send commands that are already packed, as a pipeline of the client would.

    A lost connection is taken up again as often as the client is set to; the commands bear it.
    """
    pool = client.connection_pool
    connection = pool.get_connection()

    def talk() -> list[Any]:
        connection.send_packed_command(packed)
        return [connection.read_response() for _ in range(replies)]

    try:
        received: list[Any] = connection.retry.call_with_retry(
            talk, lambda error: connection.disconnect()
        )
    except BaseException:
        connection.disconnect()  # replies still to come belong to nobody
        raise
    finally:
        pool.release(connection)
    return received


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
