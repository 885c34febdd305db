"""Snapshots: one immutable parquet file as of T, whole or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from unirep_feast.errors import SnapshotError
from unirep_feast.files import sha256
from unirep_feast.instants import parse_instant
from unirep_feast.snapshot import (
    AS_OF,
    DIM,
    LEAKAGE,
    RUN,
    VECTORS,
    SnapshotFile,
    VectorBlock,
    point_promoted,
    read_vectors,
    snapshot_path,
    write_plain,
    write_snapshot,
    writing,
)

T = parse_instant("2020-03-01")
CREATED = parse_instant("2021-01-01T12:00:00.5Z")


def block(
    first: int, users: int, width: int = 6, slots: int = 0, text: bool = False
) -> VectorBlock:
    random = np.random.default_rng(first)
    ids = range(first, first + users)
    return VectorBlock(
        users=pa.array([f"u{n:05d}" for n in ids] if text else list(ids)),
        vectors=random.standard_normal((users, width)).astype(np.float32),
        history_length=random.integers(1, 9, users),
        last_event=T - random.integers(1, 9, users),
        slots=random.integers(0, 9, (users, slots)) if slots else None,
    )


def write(path: Path, blocks: list[VectorBlock], **changes: Any) -> SnapshotFile:
    arguments: dict[str, Any] = {
        "join_key": "user_id",
        "as_of": T,
        "created": CREATED,
        "num_vectors": 2,
        "dim": 3,
        "metadata": {RUN: b"run-1", LEAKAGE: b"0"},
    }
    return write_snapshot(path, iter(blocks), **{**arguments, **changes})


@pytest.mark.parametrize("text", [False, True])
def test_a_snapshot_holds_what_was_encoded(tmp_path: Path, text: bool) -> None:
    """Users, times, vectors, lengths and slots of all blocks stand in the file, in order."""
    blocks = [block(0, 5, slots=2, text=text), block(5, 1, slots=2, text=text)]

    written = write(tmp_path / "s.parquet", blocks)

    table = pq.read_table(written.path)
    assert table.column_names == [
        "user_id",
        "event_timestamp",
        "created",
        "vector",
        "history_length",
        "last_event",
        "slots",
    ]
    assert table["user_id"].to_pylist() == [u for b in blocks for u in b.users.to_pylist()]
    assert pa.types.is_string(table.schema.field("user_id").type) == text
    assert table["event_timestamp"].cast(pa.int64()).to_pylist() == [T] * 6
    assert table.schema.field("event_timestamp").type == pa.timestamp("us", tz="UTC")
    assert table["created"].cast(pa.int64()).to_pylist() == [CREATED] * 6
    assert table.schema.field("vector").type.value_type == pa.float32()
    assert table["slots"].to_pylist() == [list(row) for b in blocks for row in b.slots.tolist()]
    lengths = [n for b in blocks for n in b.history_length.tolist()]
    assert table["history_length"].to_pylist() == lengths
    last = [n for b in blocks for n in b.last_event.tolist()]
    assert table["last_event"].cast(pa.int64()).to_pylist() == last
    assert written == SnapshotFile(tmp_path / "s.parquet", 6, sha256(written.path))
    assert (table["vector"].combine_chunks().flatten().to_numpy() == flat(blocks)).all()


def flat(blocks: list[VectorBlock]) -> np.ndarray:
    return np.concatenate([b.vectors for b in blocks]).reshape(-1)


def test_the_footer_tells_where_it_came_from(tmp_path: Path) -> None:
    """Run, K, D, T and whether it leaks are in the footer, for whoever finds the file."""
    written = write(tmp_path / "s.parquet", [block(0, 2)])

    found = pq.read_metadata(written.path).metadata
    assert {key: found[key] for key in (RUN, VECTORS, DIM, AS_OF, LEAKAGE)} == {
        RUN: b"run-1",
        VECTORS: b"2",
        DIM: b"3",
        AS_OF: str(T).encode(),
        LEAKAGE: b"0",
    }


def test_the_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    """A snapshot that is made again has the checksum it had."""
    one = write(tmp_path / "1.parquet", [block(0, 50), block(50, 50)])
    two = write(tmp_path / "2.parquet", [block(0, 50), block(50, 50)])

    assert one.checksum == two.checksum
    assert one.path.read_bytes() == two.path.read_bytes()


def test_a_lost_snapshot_must_come_out_the_same(tmp_path: Path) -> None:
    """Made again with other content, nothing is written over what readers were told."""
    checksum = write(tmp_path / "s.parquet", [block(0, 3)]).checksum
    (tmp_path / "s.parquet").unlink()

    with pytest.raises(SnapshotError, match=f"recorded with checksum {checksum[:12]} and is lost"):
        write(tmp_path / "s.parquet", [block(1, 3)], expected=checksum)
    assert list(tmp_path.iterdir()) == []
    assert write(tmp_path / "s.parquet", [block(0, 3)], expected=checksum).checksum == checksum


def test_vectors_read_back_bit_equal(tmp_path: Path) -> None:
    """Ids and vectors come back in file order, from snapshots and from plain files."""
    blocks = [block(0, 700), block(700, 300)]
    write(tmp_path / "s.parquet", blocks)
    write_plain(tmp_path / "p.parquet", iter(blocks), "customer")

    for name, key in (("s.parquet", "user_id"), ("p.parquet", "customer")):
        ids, vectors = read_vectors(tmp_path / name, key)
        assert ids.to_pylist() == list(range(1000))
        assert vectors.dtype == np.float32
        assert (vectors.view(np.int32) == flat(blocks).reshape(1000, 6).view(np.int32)).all()


def test_a_plain_file_has_two_columns(tmp_path: Path) -> None:
    """Without Feast, one parquet of user id and vector is all there is."""
    written = write_plain(tmp_path / "new" / "p.parquet", [block(0, 4)], "user_id", {RUN: b"r"})

    table = pq.read_table(written.path)
    assert table.column_names == ["user_id", "vector"]
    assert written.rows == 4
    assert table.schema.metadata[RUN] == b"r"


def test_blocks_are_cut_where_offsets_would_overflow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A list column has 32-bit offsets: larger blocks are written in pieces, with equal content."""
    monkeypatch.setattr(writing, "MOST_NUMBERS", 20)  # three users of six numbers
    whole = block(0, 10, slots=2)

    written = write(tmp_path / "s.parquet", [whole])

    assert pq.read_metadata(written.path).num_row_groups == 4
    ids, vectors = read_vectors(written.path)
    assert ids.to_pylist() == list(range(10))
    assert (vectors == whole.vectors).all()
    assert pq.read_table(written.path)["slots"].to_pylist() == whole.slots.tolist()


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("2020-03-01", "20200301T000000Z.parquet"),
        ("1969-12-31T23:59:59", "19691231T235959Z.parquet"),
        ("2020-03-01T10:20:30.000007", "20200301T102030.000007Z.parquet"),
        ("1960-01-01T00:00:00.5Z", "19600101T000000.500000Z.parquet"),
    ],
)
def test_the_path_tells_run_and_time(text: str, name: str) -> None:
    """A snapshot's name is its time; two times never share one."""
    assert snapshot_path(Path("home"), "run-1", parse_instant(text)) == (
        Path("home/snapshots/run-1") / name
    )


def refused(path: Path, blocks: Iterator[VectorBlock] | list[VectorBlock], **changes: Any) -> str:
    before = sorted(path.parent.iterdir()) if path.parent.is_dir() else []
    with pytest.raises(SnapshotError) as caught:
        write(path, blocks, **changes)
    assert "\n" not in str(caught.value)
    if path.parent.is_dir():
        assert sorted(path.parent.iterdir()) == before
    return str(caught.value)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_vectors_that_are_no_numbers_are_refused(tmp_path: Path, bad: float) -> None:
    """NaN or infinity anywhere, even in a late block, leaves no file; the users are named."""
    late = block(10, 9)
    late.vectors[[1, 3, 4, 5, 6, 8], 2] = bad

    message = refused(tmp_path / "s.parquet", [block(0, 10), late])

    assert "6 vectors hold NaN or infinity (users 11, 13, 14, 15, 16, …)" in message


@pytest.mark.parametrize("width", [5, 7])
def test_vectors_of_another_width_are_refused(tmp_path: Path, width: int) -> None:
    """K · D must be what the run declares."""
    message = refused(tmp_path / "s.parquet", [block(0, 2, width)])

    assert f"vectors are (2, {width}) float32; wanted (2, 6) float32" in message


def test_double_precision_is_refused(tmp_path: Path) -> None:
    """Vectors are float32 only."""
    wrong = block(0, 2)
    wrong = VectorBlock(
        wrong.users, wrong.vectors.astype(np.float64), wrong.history_length, wrong.last_event
    )

    assert "float64; wanted (2, 6) float32" in refused(tmp_path / "s.parquet", [wrong])


@pytest.mark.parametrize("blocks", [[], [block(0, 0)]])
def test_no_user_is_no_snapshot(tmp_path: Path, blocks: list[VectorBlock]) -> None:
    """A time before everybody's first event is told, and no empty file is left."""
    message = refused(tmp_path / "s.parquet", blocks)

    assert "no user has an event before 2020-03-01T00:00:00Z" in message


def test_a_snapshot_is_kept_when_another_fails(tmp_path: Path) -> None:
    """A failure while writing leaves the file that was there before."""
    write(tmp_path / "s.parquet", [block(0, 2)])
    before = (tmp_path / "s.parquet").read_bytes()

    def failing() -> Iterator[VectorBlock]:
        yield block(0, 2)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_snapshot(tmp_path / "s.parquet", failing(), "user_id", T, CREATED, 2, 3, {})

    assert (tmp_path / "s.parquet").read_bytes() == before
    assert list(tmp_path.iterdir()) == [tmp_path / "s.parquet"]


def test_a_folder_that_refuses_says_so_before_anything_is_encoded(tmp_path: Path) -> None:
    """A path that cannot be written fails before the first block is asked for."""
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()

    def never() -> Iterator[VectorBlock]:
        raise AssertionError("asked for a block")
        yield

    for path in (tmp_path / "file" / "s.parquet", tmp_path / "folder"):
        message = refused(path, never())
        assert f"{path} cannot be written: " in message
        assert "free space or name another folder" in message


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    """When the system refuses to write on, the error is one line and no file is left."""
    code = """
        import resource, sys
        from pathlib import Path
        sys.path.insert(0, {tests!r})
        from test_snapshot import block, write
        from unirep_feast.errors import SnapshotError
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            write(Path(sys.argv[1]), [block(n, 3000) for n in range(0, 30000, 3000)])
        except SnapshotError as error:
            sys.exit(str(error))
    """
    code = textwrap.dedent(code.format(tests=str(Path(__file__).parent)))

    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "s.parquet"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )

    (line,) = done.stderr.strip().splitlines()
    assert "cannot be written: " in line and "File too large" in line
    assert list(tmp_path.iterdir()) == []


def test_reading_what_is_no_snapshot_is_one_line(tmp_path: Path) -> None:
    """Missing, damaged, foreign and ragged files are refused with what is wrong."""
    pq.write_table(pa.table({"user_id": [1]}), tmp_path / "other.parquet")
    (tmp_path / "damaged.parquet").write_bytes(b"PAR1 no")
    ragged = pa.table({"user_id": [1, 2], "vector": pa.array([[1.0], [1.0, 2.0]])})
    pq.write_table(ragged, tmp_path / "ragged.parquet")
    pq.write_table(pa.table({"user_id": [1], "vector": [1.0]}), tmp_path / "flat.parquet")

    for name, message in {
        "none.parquet": "cannot be read",
        "other.parquet": "has no column 'vector'; wanted a snapshot",
        "damaged.parquet": "cannot be read",
        "ragged.parquet": "cannot be read",
        "flat.parquet": "cannot be read",
    }.items():
        with pytest.raises(SnapshotError) as caught:
            read_vectors(tmp_path / name)
        assert message in str(caught.value)
        assert str(tmp_path / name) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_file_without_rows_reads_as_no_vectors(tmp_path: Path) -> None:
    """No rows are no error."""
    schema = pa.schema([("user_id", pa.string()), ("vector", pa.list_(pa.float32()))])
    pq.write_table(schema.empty_table(), tmp_path / "empty.parquet")

    ids, vectors = read_vectors(tmp_path / "empty.parquet")

    assert ids.to_pylist() == []
    assert vectors.shape == (0, 0)


def test_promoting_moves_a_link_in_one_step(tmp_path: Path) -> None:
    """Readers follow one relative link; promoting, and going back, replaces it."""
    for run in ("one", "two", "one"):
        point_promoted(tmp_path, run)

        link = tmp_path / "snapshots" / "promoted"
        assert link.readlink() == Path(run)
        assert link.resolve() == (tmp_path / "snapshots" / run).resolve()

    assert sorted(p.name for p in (tmp_path / "snapshots").iterdir()) == ["one", "promoted", "two"]


def test_a_folder_in_the_links_place_is_one_line(tmp_path: Path) -> None:
    """Something else of that name is not removed; nothing temporary stays."""
    (tmp_path / "snapshots" / "promoted" / "mine").mkdir(parents=True)

    with pytest.raises(SnapshotError, match="promoted cannot be pointed at run one: "):
        point_promoted(tmp_path, "one")

    names = sorted(path.name for path in (tmp_path / "snapshots").iterdir())
    assert names == ["one", "promoted"]
