"""A sample of the users of a snapshot: vectors, and something to colour them by."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from unirep_feast.catalogue import read_items
from unirep_feast.config import RepresentationSpec
from unirep_feast.errors import EvaluationError, one_line
from unirep_feast.pipeline.histories import read_histories
from unirep_feast.pipeline.loading import ReadEvents
from unirep_feast.snapshot import read_vectors

#: Events of a user, the latest, whose categories are counted.
_LATEST = 50


@dataclass(frozen=True)
class Labels:
    """A column of a table that tells something of users.

    Attributes:
        path: of a parquet file with a column of user ids, named as in the spec's events.
        column: what to colour by.
    """

    path: Path
    column: str


@dataclass(frozen=True)
class Population:
    """n users as of a time.

    Attributes:
        as_of: T of the snapshot, microseconds.
        users: in the snapshot, of whom these are a sample.
        ids: (n,) ids.
        vectors: (n, K D) float32.
        lengths: (n,) events in the encoder's window.
        groups: (n,) text each user is coloured by, null where unknown; None if nothing is known.
        grouped_by: what the groups are.
    """

    as_of: int
    users: int
    ids: pa.Array
    vectors: np.ndarray
    lengths: np.ndarray
    groups: pa.Array | None
    grouped_by: str


def read_population(
    spec: RepresentationSpec,
    path: Path,
    as_of: int,
    sample: int,
    labels: Labels | None,
    read: ReadEvents,
) -> Population:
    """Draw users of a snapshot, always the same ones, in file order.

    Raises:
        SnapshotError: the snapshot cannot be read.
        EvaluationError: labels are asked for and not there.
        EventsError: the log cannot be read.
    """
    ids, vectors = read_vectors(path, spec.view.join_key)
    users = len(ids)
    rows = np.sort(np.random.default_rng(0).permutation(users)[:sample])
    ids, vectors = ids.take(pa.array(rows)), vectors[rows]
    lengths = pq.read_table(path, columns=["history_length"])["history_length"].to_numpy()[rows]
    if labels is not None:
        groups, by = _labels(spec, labels, ids), labels.column
    else:
        groups, by = top_categories(spec, ids, as_of, read), "category of most latest items"
    return Population(as_of, users, ids, vectors, lengths, groups, by)


def top_categories(
    spec: RepresentationSpec, users: pa.Array, as_of: int, read: ReadEvents
) -> pa.Array | None:
    """The category that most of each user's latest items before T are of.

    An item counts for the first category that it has; between equal counts the first by name wins.

    Returns:
        (n,) strings, null for users without a categorised item; None if items have no categories.
    """
    items = read_items(spec)
    if items is None:
        return None
    first = pc.list_element(_not_empty(items["category"].combine_chunks()), 0)
    if first.null_count == len(first):
        return None
    events = read_histories(spec, users, as_of, read)
    user = pc.index_in(events["user_id"].combine_chunks(), value_set=users).to_numpy()
    latest = _rank(user) < _LATEST
    known = items["item_id"].combine_chunks()
    item = events["item_id"].combine_chunks().cast(known.type)
    table = pa.table({"user": user, "category": first.take(pc.index_in(item, value_set=known))})
    table = table.filter(pc.and_(pa.array(latest), pc.is_valid(table["category"])))
    counts = table.group_by(["user", "category"]).aggregate([([], "count_all")])
    order = [("user", "ascending"), ("count_all", "descending"), ("category", "ascending")]
    counts = counts.sort_by(order)
    best = np.unique(counts["user"].to_numpy(), return_index=True)[1]
    place = pc.index_in(pa.array(np.arange(len(users))), value_set=counts["user"].take(best))
    return counts["category"].combine_chunks().take(pa.array(best)).take(place)


def _rank(user: np.ndarray) -> np.ndarray:
    """(m,) how many rows of the same user stand before each row."""
    order = np.argsort(user, kind="stable")
    starts = np.flatnonzero(np.diff(user[order], prepend=-1))
    sizes = np.diff(np.append(starts, len(user)))
    rank = np.empty(len(user), np.int64)
    rank[order] = np.arange(len(user)) - np.repeat(starts, sizes)
    return rank


def _not_empty(lists: pa.ListArray) -> pa.ListArray:
    """The same with null for lists without an element, which have no first one."""
    return pc.if_else(pc.greater(pc.list_value_length(lists), 0), lists, None)


def _labels(spec: RepresentationSpec, labels: Labels, users: pa.Array) -> pa.Array:
    try:
        table = pq.read_table(labels.path)
    except (pa.ArrowException, OSError) as error:
        raise EvaluationError(
            f"--labels {labels.path}: {one_line(error)}; wanted a parquet file"
        ) from None
    key = spec.events.columns.user
    missing = [name for name in (key, labels.column) if name not in table.schema.names]
    if missing:
        raise EvaluationError(
            f"--labels {labels.path} has no column {missing[0]!r}; found "
            f"{', '.join(table.schema.names)}"
        )
    try:
        known = table[key].combine_chunks().cast(users.type)
        values = table[labels.column].combine_chunks().cast(pa.string())
    except pa.ArrowException as error:
        raise EvaluationError(
            f"--labels {labels.path}: {one_line(error)}; wanted ids like those of the events, and "
            "a column of text or numbers"
        ) from None
    return values.take(pc.index_in(users, value_set=known))
