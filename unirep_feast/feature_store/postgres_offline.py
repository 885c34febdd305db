"""A snapshot into a PostgreSQL table: Feast's offline store for PostgreSQL only reads.

Binary COPY, whose rows numpy and Arrow put together: a vector takes no Python float on the way.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from feast import FeatureView, RepoConfig
from feast.infra.utils.postgres.connection_utils import _get_conn
from psycopg import sql

from unirep_feast.errors import StoreError
from unirep_feast.feature_store.online_writer.values import BYTES, cut, join

#: 2000-01-01, from which PostgreSQL counts, in microseconds since 1970.
_EPOCH = 946_684_800_000_000

_SIGNATURE = b"PGCOPY\n\xff\r\n\0" + struct.pack(">ii", 0, 0)
_END = struct.pack(">h", -1)
_NULL = struct.pack(">i", -1)

#: PostgreSQL's name of a type that a column of a snapshot is stored as, and others that do as well.
_TYPES = {
    "int8": ("bigint", ()),
    "text": ("text", ("varchar",)),
    "timestamptz": ("timestamptz", ("timestamp",)),
    "_float4": ("real[]", ()),
    "_int8": ("bigint[]", ()),
}

_BATCH_ROWS = 4096


def table_columns(config: RepoConfig, view: FeatureView) -> dict[str, str]:
    """Names and types of a table's columns, as PostgreSQL calls them; empty where there is none.

    Raises:
        StoreError: the source is a query.
    """
    query = (
        "SELECT attname, typname FROM pg_attribute JOIN pg_type ON pg_type.oid = atttypid "
        "WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped ORDER BY attnum"
    )
    with _get_conn(config.offline_store) as connection:
        return dict(connection.execute(query, [_name(view)]).fetchall())


def write_postgres(
    config: RepoConfig,
    view: FeatureView,
    snapshot: Path,
    names: Mapping[str, str],
    types: Mapping[str, str],
    as_of: int,
) -> None:
    """Replace the rows of a time in a view's table by a snapshot's, in one transaction.

    The table is made where there is none; readers find all of the snapshot or nothing of it.

    Args:
        config: of the repo; its offline store is PostgreSQL.
        view: over a ``PostgreSQLSource`` that names a table.
        snapshot: what to write.
        names: column of the table to column of the snapshot.
        types: what :func:`table_columns` found.
        as_of: its time, microseconds.

    Raises:
        StoreError: a column of the table is of another type than the snapshot's.
        psycopg.Error: the server failed; nothing is changed.
    """
    table = sql.SQL(_name(view))  # as Feast does: quoted or not
    schema = pq.read_schema(snapshot)
    kinds = {name: _kind(view, schema.field(column)) for name, column in names.items()}
    for name, found in types.items():
        wanted, others = _TYPES[kinds[name]]
        if found not in (kinds[name], *others):
            raise StoreError(
                f"feature view {view.name!r}: column {name!r} of its table is {found}, wanted "
                f"{wanted}; alter it, or name another table"
            )
    columns = sql.SQL(", ").join(map(sql.Identifier, names))
    copy = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT BINARY)").format(table, columns)
    old = sql.SQL("DELETE FROM {} WHERE {} = %s").format(
        table, sql.Identifier(view.batch_source.timestamp_field)
    )
    with _get_conn(config.offline_store) as connection:
        connection.execute(_creation(table, kinds))
        # Nobody else writes meanwhile; whoever reads is let through.
        connection.execute(sql.SQL("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE").format(table))
        connection.execute("SET LOCAL timezone = 'UTC'")  # for a column without a zone
        connection.execute(old, [datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=as_of)])
        with connection.cursor() as cursor, cursor.copy(copy) as stream:
            stream.write(_SIGNATURE)
            with pq.ParquetFile(snapshot) as file:
                for batch in file.iter_batches(_BATCH_ROWS, columns=list(names.values())):
                    stream.write(_rows([batch.column(column) for column in names.values()]))
            stream.write(_END)


def _name(view: FeatureView) -> str:
    source = view.batch_source
    name: str | None = source._postgres_options._table
    if not name:
        raise StoreError(
            f"feature view {view.name!r}: source {source.name!r} is a query, which cannot be "
            "written; name a table"
        )
    return name


def _kind(view: FeatureView, field: pa.Field) -> str:
    kind = field.type
    if pa.types.is_integer(kind):
        return "int8"
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return "text"
    if pa.types.is_timestamp(kind):
        return "timestamptz"
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return "_float4" if pa.types.is_floating(kind.value_type) else "_int8"
    raise StoreError(
        f"feature view {view.name!r}: column {field.name!r} of the snapshot is {kind}, which "
        "is not written to PostgreSQL; leave it out of the table"
    )


def _creation(table: sql.SQL, kinds: Mapping[str, str]) -> sql.Composed:
    columns = [
        sql.SQL("{} " + _TYPES[kind][0]).format(sql.Identifier(name))
        for name, kind in kinds.items()
    ]
    return sql.SQL("CREATE TABLE IF NOT EXISTS {} ({})").format(table, sql.SQL(", ").join(columns))


def _rows(columns: list[pa.Array]) -> memoryview:
    """Rows as COPY has them: the number of fields, then each with its length before it."""
    pieces: list[pa.LargeBinaryArray | bytes] = [struct.pack(">h", len(columns))]
    for column in columns:
        field = _field(column)
        if column.null_count:
            field = pc.if_else(column.is_valid(), field, pa.scalar(_NULL, BYTES))
        pieces.append(field)
    joined = join(*pieces)
    return memoryview(b"".join(joined.to_pylist()))


def _field(column: pa.Array) -> pa.LargeBinaryArray:
    kind, rows = column.type, len(column)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        raw = column.cast(BYTES).fill_null(b"")
        sizes = pc.binary_length(raw).to_numpy(zero_copy_only=False).astype(">i4")
        return join(cut(sizes, np.full(rows, 4)), raw)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _array(column)
    numbers = column.cast(pa.timestamp("us", kind.tz)) if pa.types.is_timestamp(kind) else column
    numbers = numbers.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
    if pa.types.is_timestamp(kind):
        numbers = numbers - _EPOCH
    return join(struct.pack(">i", 8), cut(numbers.astype(">i8"), np.full(rows, 8)))


def _array(column: pa.Array) -> pa.LargeBinaryArray:
    """Arrays of one dimension: a head per row, then each number with its length before it."""
    floating = pa.types.is_floating(column.type.value_type)
    kind, oid = (np.dtype(">f4"), 700) if floating else (np.dtype(">i8"), 20)
    flat = column.flatten().to_numpy(zero_copy_only=False)
    elements = np.empty(len(flat), [("size", ">i4"), ("number", kind)])
    elements["size"], elements["number"] = kind.itemsize, flat
    counts = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
    sizes = counts.astype(np.int64) * elements.itemsize
    head = np.zeros((len(column), 6), ">i4")
    # Bytes of the field, dimensions, whether there are nulls, type, length, lowest subscript.
    head[:, 0], head[:, 1], head[:, 3], head[:, 4], head[:, 5] = sizes + 20, 1, oid, counts, 1
    return join(cut(head, np.full(len(column), 24)), cut(elements, sizes))
