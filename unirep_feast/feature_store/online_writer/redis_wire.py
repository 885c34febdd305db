"""Redis's protocol for many rows at a time, over a connection that redis-py has opened.

Commands are Arrow columns, one command per row; replies are parsed by hiredis, which redis-py uses
too, but without the microseconds of Python that redis-py spends on each.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from redis import exceptions
from redis.connection import Connection, SSLConnection, UnixDomainSocketConnection

from unirep_feast.feature_store.online_writer.values import BYTES, join

try:
    import hiredis
except ImportError:  # redis-py without it is slower, and so are we
    hiredis = None  # type: ignore[assignment]

_RECEIVE_BYTES = 1 << 16
_NOT_YET = object()


@dataclass
class Flight:
    """Commands that were sent together.

    Attributes:
        packed: as the protocol wants them; they may be sent twice.
        count: how many replies there will be.
        replies: empty until :meth:`Wire.receive`.
    """

    packed: list[bytes | memoryview]
    count: int
    replies: list[Any] = field(default_factory=list)


class Wire:
    """A connection that several flights of commands may be under way on.

    A lost connection is taken up again as often as the client is set to, and what has no reply yet
    is sent again; so commands must bear being executed twice.
    """

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._flights: list[Flight] = []
        self._sent = 0

    def send(self, packed: list[bytes | memoryview], count: int) -> Flight:
        """Send packed commands that ``count`` replies are to come for."""
        flight = Flight(packed, count)
        self._flights.append(flight)
        self._connection.retry.call_with_retry(self._send, self._lost)
        return flight

    def receive(self) -> None:
        """Wait for the replies to all that was sent.

        Raises:
            redis.exceptions.RedisError: the server refused a command, or is gone.
        """
        if self._flights:
            self._connection.retry.call_with_retry(self._receive, self._lost)
        self._flights, self._sent = [], 0

    def _send(self) -> None:
        for flight in self._flights[self._sent :]:
            self._connection.send_packed_command(flight.packed)
            self._sent += 1

    def _receive(self) -> None:
        self._send()
        replies = read_replies(self._connection, sum(flight.count for flight in self._flights))
        for flight in self._flights:
            flight.replies, replies = replies[: flight.count], replies[flight.count :]

    def _lost(self, error: Exception) -> None:
        self._connection.disconnect()
        self._sent = 0


@contextmanager
def open_wire(client: Any) -> Iterator[Wire]:
    """Borrow a connection of a client's pool."""
    connection = client.connection_pool.get_connection()
    try:
        yield Wire(connection)
    except BaseException:
        connection.disconnect()  # replies still to come belong to nobody
        raise
    finally:
        client.connection_pool.release(connection)


def read_replies(connection: Any, count: int) -> list[Any]:
    """Read replies, many at a time where the connection is one of redis-py's plain ones.

    Raises:
        redis.exceptions.RedisError: one of them is an error, or the server is gone.
    """
    plain = (Connection, SSLConnection, UnixDomainSocketConnection)
    # In the third version of the protocol, messages that nobody asked for come in between.
    version = str(getattr(connection, "protocol", 2))
    if hiredis is None or type(connection) not in plain or version != "2":
        return [connection.read_response() for _ in range(count)]
    reader = hiredis.Reader(
        protocolError=exceptions.InvalidResponse,
        replyError=exceptions.ResponseError,
        notEnoughData=_NOT_YET,
    )
    replies: list[Any] = []
    while len(replies) < count:
        reader.feed(_receive(connection))
        replies += iter(reader.gets, _NOT_YET)
    for reply in replies:
        if isinstance(reply, exceptions.ResponseError):
            raise reply
    return replies


def _receive(connection: Any) -> bytes:
    try:
        data: bytes = connection._sock.recv(_RECEIVE_BYTES)
    except TimeoutError:
        raise exceptions.TimeoutError("Timeout reading from socket") from None
    except OSError as error:
        raise exceptions.ConnectionError(f"Error while reading from socket: {error}") from None
    if not data:
        raise exceptions.ConnectionError("Connection closed by server.")
    return data


def commands(*words: pa.LargeBinaryArray | bytes) -> pa.LargeBinaryArray:
    """Pack one command per row.

    Args:
        words: of the command: (n,) arrays, and constants; at least one array.
    """
    pieces: list[pa.LargeBinaryArray | bytes] = []
    constant = b"*%d\r\n" % len(words)
    for word in words:
        length = len(word) if isinstance(word, bytes) else _common_length(word)
        constant += b"$"
        if length is None:
            pieces += [constant, _lengths(word)]
            constant = b""
        else:
            constant += b"%d" % length
        constant += b"\r\n"
        if isinstance(word, bytes):
            constant += word
        else:
            pieces += [constant, word]
            constant = b""
        constant += b"\r\n"
    return join(*pieces, constant)


def exists(keys: pa.LargeBinaryArray) -> list[bytes | memoryview]:
    """Pack one command that counts keys."""
    head = b"*%d\r\n$6\r\nEXISTS\r\n" % (len(keys) + 1)
    return [head, flat(join(b"$", _lengths(keys), b"\r\n", keys, b"\r\n"))]


def flat(rows: pa.LargeBinaryArray) -> memoryview:
    """Return all rows one after the other, which is how they lie in memory."""
    _, offsets, data = rows.buffers()
    bounds = np.frombuffer(offsets, np.int64)[rows.offset : rows.offset + len(rows) + 1]
    return memoryview(data)[bounds[0] : bounds[-1]]


def _common_length(words: pa.LargeBinaryArray) -> int | None:
    found = pc.min_max(pc.binary_length(words)).as_py()
    return found["min"] if found["min"] == found["max"] else None


def _lengths(words: pa.LargeBinaryArray) -> pa.LargeBinaryArray:
    return pc.binary_length(words).cast(pa.string()).cast(BYTES)
