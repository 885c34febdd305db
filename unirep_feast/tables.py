"""Parquet tables of others: opened, their columns checked and cast, or one line why not."""

from __future__ import annotations

import glob
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds

from unirep_feast.errors import EventsError, one_line


def open_dataset(path: str, what: str) -> ds.Dataset:
    """Open a parquet file, a folder or a glob, or say in one line why not."""
    files: str | list[str] = path
    if glob.has_magic(path) and not Path(path).exists():
        files = sorted(glob.glob(path, recursive=True))  # noqa: PTH207
        if not files:
            raise EventsError(f"{what}: no file matches {path}; check `{what}.path` in the spec")
    elif "://" not in path and not Path(path).exists():
        raise EventsError(f"{what}: no such file or folder {path}; check `{what}.path` in the spec")
    try:
        dataset = ds.dataset(files, format="parquet", exclude_invalid_files=False)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise EventsError(
            f"{what}: {path} cannot be read as parquet: {one_line(error)}; "
            "wanted a complete parquet file (a CSV must be converted first)"
        ) from None
    if not dataset.schema.names:
        raise EventsError(f"{what}: {path} holds no parquet file; check `{what}.path` in the spec")
    return dataset


def check_columns(schema: pa.Schema, wanted: list[str], origin: str, where: str) -> None:
    """Refuse a table that lacks a column; ``where`` is the spec's key that names them."""
    missing = [name for name in wanted if name not in schema.names]
    if missing:
        raise EventsError(
            f"{origin}: no column {', '.join(map(repr, missing))}; found "
            f"{', '.join(schema.names)}; name the right ones under `{where}` in the spec"
        )


def id_column(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    """Bring ids to int64 or string; ``name`` is told where they are neither."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_integer(kind):
        return cast_column(column, pa.int64(), name)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return cast_column(column, pa.string(), name)
    raise EventsError(f"{name} is {column.type}; wanted an integer or a string id")


def cast_column(column: pa.ChunkedArray, kind: pa.DataType, name: str) -> pa.ChunkedArray:
    """Cast a column without loss, or refuse it by its name."""
    if column.type == kind:
        return column
    if pa.types.is_boolean(column.type) or pa.types.is_nested(column.type):
        raise EventsError(f"{name} is {column.type}; wanted {kind}")
    text = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
    if pa.types.is_floating(kind) and text:
        raise EventsError(f"{name} is {column.type}; wanted a number")
    try:
        return column.cast(kind, safe=not pa.types.is_floating(kind))
    except pa.ArrowException as error:
        raise EventsError(f"{name} is {column.type}; wanted {kind}: {one_line(error)}") from None
