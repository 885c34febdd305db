"""Feast's SQLite online store: the same statement on the same connection, many rows at a time."""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from feast import FeatureView, RepoConfig
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.infra.online_stores.sqlite import SqliteOnlineStore, _quote_id, _table_id

from unirep_feast.errors import StoreError
from unirep_feast.feature_store.online_writer.keys import KeyEncoder
from unirep_feast.feature_store.online_writer.rows import (
    Layout,
    Rows,
    created_per_distinct,
    per_distinct,
    slices,
)
from unirep_feast.feature_store.online_writer.values import texts

#: Of the rows that are sorted and written together.
SHEAF_BYTES = 32 << 20

#: How long to wait for another writer, such as a second materialize, to commit.
BUSY_SECONDS = 60

#: Written by one statement; SQLite before 3.32 takes 999 parameters.
_FEATURES = 400

_SAMPLE = 500


def uncovered(config: RepoConfig) -> str | None:
    """Say which option of the store asks for columns that are not written here."""
    for option in ("vector_enabled", "enable_openai_compatible_store"):
        if getattr(config.online_store, option, False):
            return f"SQLite online store with {option}: true"
    return None


def write_sqlite(
    store: SqliteOnlineStore,
    config: RepoConfig,
    view: FeatureView,
    layout: Layout,
    batches: Iterable[pa.RecordBatch | pa.Table],
    keep_newer: bool,
    progress: Callable[[int], object],
) -> tuple[int, int]:
    """Write rows; see :func:`unirep_feast.feature_store.online_writer.write_online`.

    Transactions end where Feast's own do: after ``materialization.online_write_batch_size`` rows,
    or after the last one where that is not set. Whatever stops the writing in between, a reader
    finds finished transactions and nothing else.

    Returns:
        Rows given, and rows left out because the store holds newer ones.
    """
    table = _table_id(config.project, view, config.registry.enable_online_feature_view_versioning)
    per_transaction = config.materialization_config.online_write_batch_size
    encode_keys = KeyEncoder(
        layout.join_keys,
        lambda key: serialize_entity_key(key, config.entity_key_serialization_version),
    )
    rows = pending = 0
    with _one_line(store._get_db_path(config)), _waiting(_connect(store, config)) as connection:
        sheaf = _Sheaf(connection, table, keep_newer, encode_keys, progress)
        for part in slices(layout, batches, SHEAF_BYTES, per_transaction):
            sheaf.add(part)
            rows += len(part)
            pending += len(part)
            full = per_transaction is not None and pending >= per_transaction
            if full or sheaf.bytes >= SHEAF_BYTES:
                sheaf.write()
            if full:
                connection.commit()
                pending = 0
        sheaf.write()
        connection.commit()
        skipped = rows - sheaf.changed // len(layout.features)
        if skipped and not keep_newer:
            raise StoreError(
                f"{layout.view}: SQLite wrote {rows - skipped:,} of {rows:,} rows; materialize "
                "again"
            )
        _check_stored(connection, table, layout, sheaf.sample)
    return rows, skipped


class _Sheaf:
    """Rows that are written together, in the order of their keys.

    Scattered keys dirty a page of the table's indexes each; sorted ones fill a page before the
    next, and the more of them there are, the better.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        table: str,
        keep_newer: bool,
        encode_keys: KeyEncoder,
        progress: Callable[[int], object],
    ) -> None:
        self.bytes = 0
        self.changed = 0
        self.sample: list[bytes] = []
        self._connection = connection
        self._table = table
        self._keep_newer = keep_newer
        self._encode_keys = encode_keys
        self._progress = progress
        self._keys: list[pa.LargeBinaryArray] = []
        self._records: dict[str, list[tuple[Any, ...]]] = {}

    def add(self, part: Rows) -> None:
        """Take rows up; writes those before where they do not go together."""
        keys = self._encode_keys(part.ids())
        event_times = per_distinct(part.event_times(), self._adapt)
        created = created_per_distinct(part.created(), len(part), self._adapt)
        fixed = (_as_list(keys), event_times, created)
        encoded = part.values()
        added = {}
        features = sorted(encoded)  # the order of the table's index
        for start in range(0, len(features), _FEATURES):
            names = features[start : start + _FEATURES]
            columns: list[list[Any]] = []
            has_text = []
            for name in names:
                columns.append(_as_list(encoded[name]))
                text = texts(part.column(name), part.layout.features[name], encoded[name])
                has_text.append(text is not None)
                if text is not None:
                    columns.append(text)
            statement = _upsert(self._table, names, has_text, self._keep_newer)
            added[statement] = zip(*fixed, *columns, strict=True)
        if added.keys() != self._records.keys():  # the columns are of other types than before
            self.write()
        for statement, records in added.items():
            self._records.setdefault(statement, []).extend(records)
        self._keys.append(keys)
        self.bytes += sum(one.nbytes for one in (keys, *encoded.values()))

    def write(self) -> None:
        """Write the rows taken up, in the transaction that is open."""
        if not self._keys:
            return
        # At once, so that two writers wait for each other rather than deadlock.
        if not self._connection.in_transaction:
            self._connection.execute("BEGIN IMMEDIATE")
        keys = pa.concat_arrays(self._keys)
        order = pc.sort_indices(keys).to_numpy()
        places = order.tolist()
        cursor = self._connection.cursor()
        for statement, records in self._records.items():
            cursor.executemany(statement, map(records.__getitem__, places))
            self.changed += cursor.rowcount
        sample = order[:: max(1, len(order) // _SAMPLE)][:_SAMPLE]
        self.sample = keys.take(pa.array(sample)).to_pylist()
        self.bytes, self._keys, self._records = 0, [], {}
        self._progress(len(order))

    def _adapt(self, time: Any) -> Any:  # as the adapter that Feast registered, local zone and all
        return self._connection.execute("SELECT ?", (time,)).fetchone()[0]


def _as_list(words: pa.LargeBinaryArray) -> list[bytes]:
    as_list: list[bytes] = words.to_numpy(zero_copy_only=False).tolist()
    return as_list


def _upsert(table: str, names: list[str], has_text: list[bool], keep_newer: bool) -> str:
    """Feast's statement for several features of one key at once, which halves what it costs."""
    columns = ("entity_key", "feature_name", "value", "value_text", "event_ts", "created_ts")
    numbers = itertools.count(4)
    rows = []
    for name, with_text in zip(names, has_text, strict=True):
        literal = name.replace("'", "''")
        value = f"?{next(numbers)}"
        text = f"?{next(numbers)}" if with_text else "NULL"
        rows.append(f"(?1, '{literal}', {value}, {text}, ?2, ?3)")
    update = ", ".join(f"{column} = excluded.{column}" for column in columns[2:])
    statement = (
        f"INSERT INTO {_quote_id(table)} ({', '.join(columns)}) "  # noqa: S608 - quoted
        f"VALUES {', '.join(rows)} ON CONFLICT(entity_key, feature_name) DO UPDATE SET {update}"
    )
    return f"{statement} WHERE excluded.event_ts >= event_ts" if keep_newer else statement


def _check_stored(
    connection: sqlite3.Connection, table: str, layout: Layout, sample: list[bytes]
) -> None:
    """Look a part of the last keys up again; counting them all would cost as much as reading."""
    keys = sorted(set(sample))
    names = list(layout.features)
    query = (
        f"SELECT COUNT(*) FROM {_quote_id(table)} "  # noqa: S608 - quoted by Feast
        f"WHERE entity_key IN ({', '.join('?' * len(keys))}) "
        f"AND feature_name IN ({', '.join('?' * len(names))})"
    )
    found = connection.execute(query, [*keys, *names]).fetchone()[0]
    if found != len(keys) * len(names):
        raise StoreError(
            f"{layout.view}: SQLite holds {found:,} of {len(keys) * len(names):,} values just "
            "written; somebody deletes from the online store meanwhile; materialize again"
        )


@contextmanager
def _waiting(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """Wait longer for locks than Python's five seconds; leave no transaction open."""
    before = connection.execute("PRAGMA busy_timeout").fetchone()[0]
    connection.execute(f"PRAGMA busy_timeout = {int(BUSY_SECONDS * 1000)}")
    try:
        yield connection
    finally:
        connection.rollback()  # nothing, after a commit
        connection.execute(f"PRAGMA busy_timeout = {before:d}")


def _connect(store: SqliteOnlineStore, config: RepoConfig) -> sqlite3.Connection:
    try:
        connection: sqlite3.Connection = store._get_conn(config)
    except OSError as error:  # the folder of the file
        raise sqlite3.OperationalError(f"unable to open: {error.strerror or error}") from None
    return connection


@contextmanager
def _one_line(path: str) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        advice = "materialize again"
        if "no such table" in str(error):
            advice = "run `feast apply` first"
        elif "locked" in str(error):
            advice = "wait for the other writer to finish, then materialize again"
        elif "full" in str(error):
            advice = "free disk space, then materialize again"
        elif "readonly" in str(error) or "unable to open" in str(error):
            advice = "make the file and its folder writable, then materialize again"
        raise StoreError(
            f"online store {path}: {error}; the unfinished write is undone, {advice}"
        ) from None
