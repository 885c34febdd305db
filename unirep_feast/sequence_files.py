"""Histories on disk: uncompressed Arrow files that are mapped, not read.

A folder holds ``columns.arrow`` (one row per event), ``users.arrow`` (one per user),
``vocabulary.arrow``, ``items.arrow`` and ``manifest.json``; pyarrow opens each of them.
"""

from __future__ import annotations

import json
import mmap
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from unirep_feast.errors import CheckpointError, EventsError
from unirep_feast.files import atomic_path, sha256
from unirep_feast.items import ItemTable, Vocabulary
from unirep_feast.sequences import Sequences

FORMAT = 1
_MANIFEST = "manifest.json"
_FILES = ("columns.arrow", "users.arrow", "vocabulary.arrow", "items.arrow")
#: Columns of ``columns.arrow``; the last two only where the log has them.
_COLUMNS = {
    "code": pa.int32(),
    "time": pa.int64(),
    "event_type": pa.int16(),
    "value": pa.float32(),
}


@dataclass(frozen=True)
class SequenceManifest:
    """What a folder of histories says of itself.

    Attributes:
        users: rows of ``users.arrow``.
        events: rows of ``columns.arrow``.
        known: V, codes below it are in the vocabulary; items behind it were appended.
        until: microseconds; every event is strictly earlier.
        cut: whether ``until`` was asked for, or is only where the log ends.
        vocabulary_hash: of the vocabulary beside it.
        files: SHA-256 of every other file by name.
        format: version of this layout.
    """

    users: int
    events: int
    known: int
    until: int
    cut: bool
    vocabulary_hash: str
    files: dict[str, str]
    format: int = FORMAT


def save_sequences(
    sequences: Sequences, folder: str | Path, overwrite: bool = False
) -> SequenceManifest:
    """Write histories under a temporary name, sync them, and rename the folder.

    Only events within the current bounds are written: what was cut off with ``before(T)`` is not in
    the files. The clip of :meth:`Sequences.limit` is the encoder's and is not saved.

    Args:
        sequences: on any device.
        folder: must not exist, unless ``overwrite``.
        overwrite: replace a folder that exists, once the new one is complete.

    Raises:
        EventsError: the folder exists, or the disk refuses.
    """
    folder = Path(folder)
    if folder.exists() and not overwrite:
        raise EventsError(
            f"{folder} exists already; name another folder, or allow it to be overwritten"
        )
    try:
        if not folder.exists():
            return _write(sequences, folder)
        fresh = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.new")
        manifest = _write(sequences, fresh)
        stale = fresh.with_suffix(".old")
        folder.rename(stale)
        fresh.rename(folder)
        shutil.rmtree(stale)
    except OSError as error:
        raise EventsError(
            f"{folder} cannot be written: {error.strerror or error}; free space or name another "
            "folder"
        ) from None
    return manifest


def load_sequences(folder: str | Path, verify: bool = True) -> Sequences:
    """Map histories into memory; pages are read when they are touched, and shared by processes.

    The tensors may be written to: the mapping is private, a change never reaches the file.

    Args:
        folder: written by :func:`save_sequences`.
        verify: hold every file against its checksum, which reads all of it once.

    Raises:
        EventsError: the folder is missing, damaged, truncated, or of another format.
    """
    folder = Path(folder)
    manifest = _read_manifest(folder)
    if verify:
        for name, wanted in manifest.files.items():
            if not (folder / name).is_file() or sha256(folder / name) != wanted:
                why = "its checksum differs: it is missing, truncated or was changed"
                raise EventsError(_damaged(folder, name, why))
    columns, users, known, items = (_map(folder, name) for name in _FILES)
    try:
        vocabulary = Vocabulary.from_table(known)
    except (CheckpointError, ValueError) as error:
        raise EventsError(_damaged(folder, "vocabulary.arrow", error)) from None
    if vocabulary.hash != manifest.vocabulary_hash:
        raise EventsError(_damaged(folder, "vocabulary.arrow", "its hash differs"))
    _check(folder, "columns.arrow", columns, manifest.events, _column_types(columns))
    _check(folder, "users.arrow", users, manifest.users, {"start": pa.int64(), "end": pa.int64()})
    kinds = {"title": pa.string(), "category": pa.list_(pa.string())}
    _check(folder, "items.arrow", items, items.num_rows, kinds)
    table = ItemTable(
        _only(items["item_id"]),
        _only(items["title"]),
        _only(items["category"]),
        known=manifest.known,
    )
    tensors = {name: _tensor(columns[name]) for name in columns.column_names}
    return Sequences(
        users=_only(users["user_id"]),
        starts=_tensor(users["start"]),
        ends=_tensor(users["end"]),
        codes=tensors.pop("code"),
        times=tensors.pop("time"),
        columns=tensors,
        vocabulary=vocabulary,
        items=table,
        until=manifest.until,
        cut=manifest.cut,
    )


def _write(sequences: Sequences, folder: Path) -> SequenceManifest:
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        offsets, picked = _compact(sequences)
        named = {"code": sequences.codes, "time": sequences.times, **sequences.columns}
        columns = {
            name: pa.array((tensor if picked is None else tensor[picked]).cpu().numpy())
            for name, tensor in named.items()
        }
        users = {"user_id": sequences.users, "start": offsets[:-1], "end": offsets[1:]}
        items = sequences.items
        tables = (
            pa.table(columns),
            pa.table(users),
            sequences.vocabulary.to_table(),
            pa.table(
                {"item_id": items.item_ids, "title": items.titles, "category": items.categories}
            ),
        )
        for name, table in zip(_FILES, tables, strict=True):
            _write_arrow(temporary / name, table)
        manifest = SequenceManifest(
            users=len(sequences),
            events=int(offsets[-1]),
            known=items.known,
            until=sequences.until,
            cut=sequences.cut,
            vocabulary_hash=sequences.vocabulary.hash,
            files={name: sha256(temporary / name) for name in _FILES},
        )
        (temporary / _MANIFEST).write_text(json.dumps(asdict(manifest), indent=1))
    return manifest


def _compact(sequences: Sequences) -> tuple[np.ndarray, Tensor | None]:
    """Return (U + 1,) int64 offsets of the written columns, and which events to write.

    Where histories already lie end to end over all events there is nothing to pick (None).
    """
    starts, lengths = sequences.starts, sequences.lengths
    offsets = torch.cat((lengths.new_zeros(1), lengths.cumsum(0)))
    events = int(offsets[-1])
    whole = events == sequences.codes.shape[0] and torch.equal(starts, offsets[:-1])
    picked = None
    if not whole:
        picked = torch.repeat_interleave(starts - offsets[:-1], lengths, output_size=events)
        picked += torch.arange(events, device=picked.device)
    return offsets.cpu().numpy(), picked


def _write_arrow(path: Path, table: pa.Table) -> None:
    """Write a table as one record batch, so that every column is one piece of the file."""
    table = table.combine_chunks()
    arrays = [_only(column) for column in table.columns]
    batch = pa.record_batch(arrays, schema=table.schema)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_batch(batch)


def _read_manifest(folder: Path) -> SequenceManifest:
    try:
        raw: Any = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise EventsError(
            f"{folder} holds no histories (no {_MANIFEST}); give a folder that save_sequences wrote"
        ) from None
    except (OSError, ValueError) as error:
        raise EventsError(_damaged(folder, _MANIFEST, error)) from None
    found = raw.get("format") if isinstance(raw, dict) else None
    if found != FORMAT:
        raise EventsError(
            f"{folder} holds histories in format {found!r}, this version reads {FORMAT}; pack the "
            "events again"
        )
    try:
        manifest = SequenceManifest(**raw)
    except TypeError as error:
        raise EventsError(_damaged(folder, _MANIFEST, error)) from None
    if set(manifest.files) != set(_FILES):
        raise EventsError(_damaged(folder, _MANIFEST, f"it lists files {sorted(manifest.files)}"))
    return manifest


def _map(folder: Path, name: str) -> pa.Table:
    """Map an Arrow file; its buffers are pages of the file, nothing is copied."""
    try:
        with (folder / name).open("rb") as file:
            # Copy on write: tensors over a read-only mapping would crash the process on a write.
            pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        reader = pa.ipc.open_file(pa.BufferReader(pa.py_buffer(pages)))
        table = pa.Table.from_batches([reader.get_batch(0)])
        table.validate()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise EventsError(_damaged(folder, name, error)) from None
    return table


def _column_types(columns: pa.Table) -> dict[str, pa.DataType]:
    """The types wanted of ``columns.arrow``: the first two always, the others where present."""
    return {
        name: kind
        for name, kind in _COLUMNS.items()
        if name in ("code", "time") or name in columns.column_names
    }


def _check(
    folder: Path, name: str, table: pa.Table, rows: int, wanted: Mapping[str, pa.DataType]
) -> None:
    found = dict(zip(table.column_names, table.schema.types, strict=True))
    lacking = [f"{column} {kind}" for column, kind in wanted.items() if found.get(column) != kind]
    if lacking or table.num_rows != rows:
        what = f"{', '.join(lacking)} is not in it; " if lacking else ""
        raise EventsError(
            _damaged(folder, name, f"{what}it has {table.num_rows:,} rows, the manifest {rows:,}")
        )


def _only(column: pa.ChunkedArray) -> pa.Array:
    """The one array of a column, without copying it."""
    return column.chunk(0) if column.num_chunks else pa.array([], column.type)


def _tensor(column: pa.ChunkedArray) -> Tensor:
    """A tensor over a column's own memory, which it keeps alive."""
    # DLPack and not numpy: numpy marks Arrow memory read-only, of which torch would warn.
    return from_dlpack(_only(column))


def _damaged(folder: Path, name: str, why: object) -> str:
    detail = " ".join(str(why).split())[:200]
    return f"{folder}: {name} cannot be used ({detail}); pack the events again"
