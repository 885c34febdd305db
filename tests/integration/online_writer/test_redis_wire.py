"""Redis's protocol as it is written and read here, beside redis-py's own."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unirep_feast.feature_store.online_writer import redis_wire, write_online
from unirep_feast.feature_store.online_writer.redis_wire import commands, exists, flat, open_wire
from unirep_feast.feature_store.online_writer.values import BYTES

WORDS = st.lists(st.tuples(st.binary(max_size=12), st.binary(max_size=3)), min_size=1, max_size=9)


@given(words=WORDS, constant=st.binary(max_size=5))
def test_commands_are_packed_as_redis_packs_them(
    words: list[tuple[bytes, bytes]], constant: bytes
) -> None:
    """Columns of words, of one length or of many, become the bytes that redis-py would send."""
    from redis.connection import Connection

    pack = Connection().pack_command
    first, second = (pa.array(column, BYTES) for column in zip(*words, strict=True))
    wanted = [b"".join(pack(b"HSET", one, constant, other)) for one, other in words]
    assert commands(b"HSET", first, constant, second).to_pylist() == wanted
    sliced = commands(b"HSET", first, constant, second).slice(1)
    assert bytes(flat(sliced)) == b"".join(wanted[1:])
    keys = [one for one, _ in words]
    assert b"".join(exists(first)) == b"".join(pack(b"EXISTS", *keys))


@pytest.fixture(params=["bulk", "third protocol", "no hiredis"])
def client(redis: Any, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A client whose replies are parsed in bulk, or one for which redis-py has to do it."""
    from redis import Redis

    host, port = redis.server.split(":")
    if request.param == "no hiredis":
        monkeypatch.setattr(redis_wire, "hiredis", None)
    protocol = 3 if request.param == "third protocol" else 2
    with Redis(host, int(port), protocol=protocol) as client:
        yield client


def test_replies_of_every_kind(redis: Any, client: Any) -> None:
    """Numbers, texts with line ends in them, nothing, and longer ones than a packet come back."""
    key = f"wire {redis.project}".encode()
    values = pa.array([b"\r\n+OK\r\n", b"", b"x" * 200_000, b"$5\r\n"], BYTES)
    fields = pa.array([b"a", b"b", b"c", b"d"], BYTES)
    missing = pa.array([b"a", b"none", b"c", b"d"], BYTES)
    with open_wire(client) as wire:
        written = wire.send([flat(commands(b"HSET", key, fields, values))], 4)
        read = wire.send([flat(commands(b"HGET", key, missing))], 4)
        counted = wire.send(exists(pa.array([key, b"wire none", key], BYTES)), 1)
        wire.receive()
        assert written.replies == [1, 1, 1, 1]
        assert read.replies == [values[0].as_py(), None, values[2].as_py(), values[3].as_py()]
        assert counted.replies == [2]
        wire.send([flat(commands(b"DEL", pa.array([key], BYTES)))], 1)
        wire.receive()


def test_a_refused_command_is_an_error(redis: Any, client: Any) -> None:
    """One refusal among many replies is raised, and the client works on."""
    from redis.exceptions import ResponseError

    key = f"wire {redis.project}".encode()
    client.set(key, b"no hash", ex=60)
    keys = pa.array([b"wire none", key, b"wire none"], BYTES)
    with (
        pytest.raises(ResponseError, match="wrong kind of value"),
        open_wire(client) as wire,
    ):
        wire.send([flat(commands(b"HGET", keys, b"field"))], 3)
        wire.receive()
    assert client.get(key) == b"no hash"
    client.delete(key)


def test_a_lost_connection_is_sent_again_what_has_no_reply(redis: Any, client: Any) -> None:
    """Commands under way on a connection that the server closed are sent once more."""
    key = f"wire {redis.project}".encode()
    fields = pa.array([b"a", b"b"], BYTES)
    with open_wire(client) as wire:
        number = wire.send([b"*2\r\n$6\r\nCLIENT\r\n$2\r\nID\r\n"], 1)
        wire.receive()
        written = wire.send([flat(commands(b"HSET", key, fields, b"1"))], 2)
        redis.client.client_kill_filter(_id=number.replies[0])
        read = wire.send([flat(commands(b"HGET", key, fields))], 2)
        wire.receive()
        assert len(written.replies) == 2
        assert read.replies == [b"1", b"1"]
    client.delete(key)


def test_same_bytes_by_the_third_protocol(lab: Any, redis: Any) -> None:
    """A connection string that asks for the third protocol ends in the same hashes."""
    view = lab.view("string")
    tables = [lab.rows(view, when=when, seed=n) for n, when in enumerate((lab.late, lab.early))]
    for writer in ("second", "third"):
        server = redis.server if writer == "second" else f"{redis.server},protocol=3"
        config = redis.config(writer, connection_string=server)
        reports = [write_online(config, view, [table]) for table in tables]
        assert [report.skipped for report in reports] == [0, 40]
    assert redis.dump("third") == redis.dump("second")
