"""Vectors straight from snapshot files: an as-of join over ids and times, then a gather.

What Feast's duckdb store answers, without its rows: of each entity row the latest snapshot row at
or before it, not older than the view's ttl; between equal times the later ``created``, a null being
the earliest. Files are opened once, so a promotion or a removal meanwhile changes nothing.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
from feast import FeatureView, FileSource
from feast.data_format import ParquetFormat

from unirep_feast.errors import StoreError
from unirep_feast.feature_store.entity_rows import EntityRows, KeyCodes, check_ids, join_keys
from unirep_feast.feature_store.online_writer.values import microseconds
from unirep_feast.feature_store.vector_files import VectorFile, mixed, readable

_EARLIEST = np.iinfo(np.int64).min
_FILES = "*.parquet"
_ESCAPED = re.compile(r"\[([*?[])\]")


@dataclass(frozen=True)
class Span:
    """One column of times, where its statistics tell all of it."""

    first: int
    last: int

    @property
    def constant(self) -> bool:
        """Whether it is one time over and over."""
        return self.first == self.last


class Snapshot(VectorFile):
    """An open file of a view's source, with ids and times beside the vectors."""

    def __init__(self, path: Path, view: FeatureView) -> None:
        """Open a file.

        Raises:
            StoreError: it cannot be read, or lacks a column.
        """
        super().__init__(path)
        self._view = view
        source = view.batch_source
        self._time, self._created = source.timestamp_field, source.created_timestamp_column or None
        wanted = [*join_keys(view), "vector", self._time, *([self._created] * bool(self._created))]
        names = self._file.schema_arrow.names
        missing = [name for name in wanted if name not in names]
        if missing:
            raise StoreError(
                f"snapshot {path} has no column {', '.join(map(repr, missing))}; found "
                f"{', '.join(names)}; move it out of the folder"
            )

    def span(self) -> Span | None:
        """First and last event time, where the footer tells them."""
        return self._span(self._time)

    def keys(self) -> dict[str, pa.Array]:
        """By join key, (rows,) int64 or string."""
        names = join_keys(self._view)
        table = self._read(names)
        where = f"snapshot {self.path}:"
        return {
            name: check_ids(table[name], self._view, name, f"{where} {name!r}") for name in names
        }

    def event_times(self) -> np.ndarray | int:
        """(rows,) int64 microseconds, the earliest there is for a null; or the one of all rows."""
        return self._times(self._time)

    def created(self) -> np.ndarray | int:
        """As :meth:`event_times`, of the time a row was made."""
        return _EARLIEST if self._created is None else self._times(self._created)

    def _read(self, names: list[str]) -> pa.Table:
        with readable(self.path):
            return self._file.read(columns=names, use_threads=False)

    def _span(self, name: str) -> Span | None:
        metadata = self._file.metadata
        place = metadata.schema.names.index(name)
        unit = self._file.schema_arrow.field(name).type
        if not pa.types.is_timestamp(unit) or unit.unit != "us":
            return None
        bounds = []
        for group in range(metadata.num_row_groups):
            statistics = metadata.row_group(group).column(place).statistics
            if statistics is None or not statistics.has_min_max or statistics.null_count != 0:
                return None
            bounds += [statistics.min_raw, statistics.max_raw]
        return Span(min(bounds), max(bounds)) if bounds else None

    def _times(self, name: str) -> np.ndarray | int:
        span = self._span(name)
        if span is not None and span.constant:
            return span.first
        column = self._read([name])[name].combine_chunks()
        if not pa.types.is_timestamp(column.type):
            raise StoreError(f"snapshot {self.path}: {name!r} is {column.type}; wanted timestamps")
        times = microseconds(column.fill_null(0))
        return np.where(column.is_valid().to_numpy(zero_copy_only=False), times, _EARLIEST)


@dataclass(frozen=True)
class Located:
    """Where the vectors of n entity rows lie.

    Attributes:
        file: (n,) int32 place in the list of snapshots, -1 where a row has none.
        row: (n,) int64 row of that file.
    """

    file: np.ndarray
    row: np.ndarray


def snapshot_folder(view: FeatureView) -> Path | None:
    """Folder that a view's source reads, with links resolved once and for all.

    Returns:
        None where the source is no local folder of parquet files, which then is Feast's to read.
    """
    source = view.batch_source
    if type(source) is not FileSource or source.field_mapping:
        return None
    if not isinstance(source.file_format, ParquetFormat):
        return None
    folder, pattern = os.path.split(source.path)
    plain = _ESCAPED.sub(r"\1", folder)
    if not os.path.isabs(folder) or pattern != _FILES or glob.escape(plain) != folder:  # noqa: PTH117
        return None
    return Path(os.path.realpath(plain))


def snapshot_paths(folder: Path) -> list[Path]:
    """Files of a folder, by name, which is by time.

    Raises:
        StoreError: the folder cannot be read.
    """
    try:
        return sorted(folder.glob(_FILES))
    except OSError as error:
        raise StoreError(f"{folder} cannot be read: {error.strerror or error}") from None


def locate(snapshots: Sequence[Snapshot], rows: EntityRows, ttl: timedelta | None) -> Located:
    """Find the latest row at or before each entity row.

    Args:
        snapshots: in the order of their names; the later one wins where times and ``created`` are
            equal, which Feast leaves open.
        rows: n rows.
        ttl: rows older than that do not count; None or 0 is for ever.
    """
    codes = KeyCodes(rows.keys)
    asked = np.flatnonzero(codes.of_rows >= 0)
    code, time = codes.of_rows[asked], rows.times[asked]
    file, row = np.full(len(rows), -1, np.int32), np.full(len(rows), -1, np.int64)
    if len(asked) == 0:
        return Located(file, row)
    oldest = ttl // timedelta(microseconds=1) if ttl else None
    first, last = int(time.min()), int(time.max())
    best_file, best_row = np.full(len(asked), -1, np.int32), np.full(len(asked), -1, np.int64)
    best_time = np.full(len(asked), _EARLIEST, np.int64)
    best_created = best_time.copy()
    for number, snapshot in enumerate(snapshots):
        span = snapshot.span()
        if span and (span.first > last or (oldest is not None and span.last + oldest < first)):
            continue
        place, when, created = _as_of(snapshot, codes, code, time)
        better = place >= 0
        if oldest is not None:
            better &= time - when <= oldest
        better &= (when > best_time) | ((when == best_time) & (created >= best_created))
        best_file[better], best_row[better] = number, place[better]
        best_time = np.where(better, when, best_time)
        best_created = np.where(better, created, best_created)
    file[asked], row[asked] = best_file, best_row
    return Located(file, row)


def gather(snapshots: Sequence[Snapshot], located: Located) -> tuple[np.ndarray, np.ndarray]:
    """Fetch located vectors into one array, files side by side.

    Returns:
        (n, W) float32, zeros where there is no vector, and (n,) bool, where there is one. W is 0 if
        there is none at all.

    Raises:
        StoreError: a file cannot be read, or the files hold vectors of different lengths.
    """
    tasks = [
        (snapshots[number], np.flatnonzero(located.file == number))
        for number in np.unique(located.file)
        if number >= 0
    ]
    widths = {width: snapshot.path for snapshot, _ in tasks if (width := snapshot.width())}
    if len(widths) > 1:
        (one, _), (other, path) = list(widths.items())[:2]
        raise mixed(path, other, one)
    mask = np.zeros(len(located.file), bool)
    if not widths:
        return np.zeros((len(mask), 0), np.float32), mask
    vectors = np.zeros((len(mask), next(iter(widths))), np.float32)

    def fill(task: tuple[Snapshot, np.ndarray]) -> None:
        snapshot, places = task
        snapshot.fill(located.row[places], places, vectors, mask)

    with ThreadPoolExecutor(min(len(tasks), pa.cpu_count())) as pool:
        list(pool.map(fill, tasks))
    return vectors, mask


def _as_of(
    snapshot: Snapshot, codes: KeyCodes, code: np.ndarray, time: np.ndarray
) -> tuple[np.ndarray, np.ndarray | int, np.ndarray | int]:
    """Latest row of one file at or before each of (a,) entities and times.

    Returns:
        (a,) row, -1 where there is none, and its event time and created.
    """
    known = codes(snapshot.keys())
    when, created = snapshot.event_times(), snapshot.created()
    some = np.flatnonzero(known >= 0)
    if isinstance(when, int) and isinstance(created, int):
        # One row per entity, as in every snapshot: a table instead of a search.
        table = np.full(codes.count, -1, np.int64)
        table[known[some]] = some
        return np.where(time >= when, table[code], -1), when, created
    when = np.broadcast_to(when, len(known))
    created = np.broadcast_to(created, len(known))
    some = some[when[some] != _EARLIEST]
    order = some[np.lexsort((created[some], when[some], known[some]))]
    if len(order) == 0:
        return np.full(len(code), -1, np.int64), 0, 0
    # Times become ranks, so that entity and time fit one integer, which can be searched for.
    distinct = np.unique(when[order])
    steps = len(distinct) + 1
    stored = known[order] * steps + np.searchsorted(distinct, when[order], side="right")
    wanted = code * steps + np.searchsorted(distinct, time, side="right")
    place = np.searchsorted(stored, wanted, side="right") - 1
    row = order[np.maximum(place, 0)]
    row = np.where((place >= 0) & (known[row] == code), row, -1)
    return row, when[row], created[row]
