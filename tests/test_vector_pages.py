"""Vectors are found in a mapped parquet file where they lie there, and only there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unirep_feast.feature_store.vector_files import VectorFile
from unirep_feast.snapshot import DIM, VECTORS, VectorBlock, write_snapshot, writing

DAY = 86_400_000_000


def plain_groups(file: VectorFile, width: int) -> list[bool]:
    """Of each row group, whether its vectors are found without a reader."""
    return [file._plain(group, width) is not None for group in range(len(file.starts) - 1)]


def fetch(file: VectorFile, rows: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    vectors, mask = np.zeros((len(rows), width), np.float32), np.zeros(len(rows), bool)
    file.fill(rows, np.random.default_rng(3).permutation(len(rows)), vectors, mask)
    return vectors, mask


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 400),
    width=st.integers(1, 70),
    page=st.sampled_from([64, 1_000, 1 << 26]),
    group=st.integers(1, 500),
    compression=st.sampled_from(["none", "zstd", "snappy"]),
    dictionary=st.booleans(),
    version=st.sampled_from(["1.0", "2.0"]),
    checksum=st.booleans(),
    nulls=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_any_layout_gives_the_bits_that_were_written(
    tmp_path_factory: pytest.TempPathFactory,
    rows: int,
    width: int,
    page: int,
    group: int,
    compression: str,
    dictionary: bool,
    version: str,
    checksum: bool,
    nulls: bool,
    seed: int,
) -> None:
    """Pages and groups of any size, compressed or not, with nulls or not."""
    random = np.random.default_rng(seed)
    written = random.standard_normal((rows, width)).astype(np.float32)
    missing = random.random(rows) < (0.3 if nulls else 0)
    column = pa.array([None if m else v for m, v in zip(missing, written, strict=True)])
    column = column.cast(pa.list_(pa.float32()))
    schema = pa.schema([("vector", column.type)], {VECTORS: b"1", DIM: str(width)})
    path = tmp_path_factory.mktemp("layout") / "a.parquet"
    pq.write_table(
        pa.table([column], schema),
        path,
        row_group_size=group,
        data_page_size=page,
        compression=compression,
        use_dictionary=dictionary,
        data_page_version=version,
        write_page_checksum=checksum,
    )
    asked = random.integers(0, rows, 50)
    file = VectorFile(path)
    found, mask = fetch(file, asked, width)
    place = np.random.default_rng(3).permutation(50)
    wanted = np.where(missing[asked][:, None], np.float32(0), written[asked])
    assert found[place].tobytes() == wanted.tobytes()
    assert (mask[place] == ~missing[asked]).all()


def test_a_snapshot_is_written_so_that_it_is_read_where_it_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every row group, also of blocks that are larger than one."""
    monkeypatch.setattr(writing, "GROUP_ROWS", 300)
    vectors = np.random.default_rng(0).standard_normal((1_000, 40), np.float32)
    block = VectorBlock(
        users=pa.array(np.arange(1_000)),
        vectors=vectors,
        history_length=np.ones(1_000, np.int64),
        last_event=np.full(1_000, DAY),
    )
    path = tmp_path / "a.parquet"
    write_snapshot(path, [block], "user_id", 2 * DAY, 2 * DAY, 2, 20, {})
    file = VectorFile(path)
    assert plain_groups(file, 40) == [True] * 4
    found, mask = fetch(file, np.arange(1_000), 40)
    assert mask.all()
    assert found[np.random.default_rng(3).permutation(1_000)].tobytes() == vectors.tobytes()


@pytest.mark.parametrize(
    "written",
    [
        {"compression": "zstd"},
        {"use_dictionary": True},
        {"data_page_size": 100},
        {"column_encoding": {"vector.list.element": "BYTE_STREAM_SPLIT"}},
        {"data_page_version": "2.0", "compression": "snappy"},
    ],
)
def test_what_is_no_plain_page_is_left_to_the_reader(
    tmp_path: Path, written: dict[str, Any]
) -> None:
    """Compressed, encoded, or cut into pages."""
    column = pa.array(np.ones((3_000, 4), np.float32).tolist(), pa.list_(pa.float32()))
    schema = pa.schema([("vector", column.type)], {VECTORS: b"1", DIM: b"4"})
    path = tmp_path / "a.parquet"
    layout = {"compression": "none", "use_dictionary": False, "data_page_size": 1 << 26}
    pq.write_table(pa.table([column], schema), path, **layout)
    assert plain_groups(VectorFile(path), 4) == [True]
    pq.write_table(pa.table([column], schema), path, **(layout | written))
    assert plain_groups(VectorFile(path), 4) == [False]
    assert fetch(VectorFile(path), np.arange(3_000), 4)[0].tobytes() == b"\0\0\x80?" * 12_000
