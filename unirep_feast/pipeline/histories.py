"""What a few users did before a time, to be shown beside what is found for them."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from unirep_feast.catalogue import read_items
from unirep_feast.config import RepresentationSpec
from unirep_feast.errors import EventsError, one_line
from unirep_feast.events import TIME_TYPE, normalise_events, read_events
from unirep_feast.pipeline.loading import ReadEvents
from unirep_feast.tables import open_dataset

_COLUMNS = ("user_id", "item_id", "event_timestamp")


def read_histories(
    spec: RepresentationSpec, users: pa.Array, before: int, read: ReadEvents = read_events
) -> pa.Table:
    """Read the events of some users strictly before a time, latest first.

    Args:
        spec: the representation; only its event types count. A log in parquet is filtered while it
            is read; a Feast source is read whole.
        users: ids.
        before: T, microseconds.
        read: reads the events of a Feast source.

    Returns:
        Columns user_id, item_id, event_timestamp; no row for users without events.

    Raises:
        EventsError: the log cannot be read.
    """
    bound = pc.field("event_timestamp") < pa.scalar(before, TIME_TYPE)
    chosen = pc.field("user_id").isin(users)
    if spec.events.path is None:
        table = read(spec, before).table
    else:
        table = _scan(spec, spec.resolve(spec.events.path), users)
    table = table.select(_COLUMNS).filter(bound & chosen)
    return table.sort_by([("event_timestamp", "descending"), ("item_id", "ascending")])


def titles_of(spec: RepresentationSpec, items: pa.Array) -> pa.Array | None:
    """Titles of items, null where unknown; None if the spec names no item table."""
    table = read_items(spec)
    if table is None:
        return None
    listed = table["item_id"].combine_chunks()
    if listed.type != items.type:
        listed = listed.cast(items.type)
    return table["title"].combine_chunks().take(pc.index_in(items, value_set=listed))


def latest_titles(
    spec: RepresentationSpec, users: pa.Array, before: int, count: int, read: ReadEvents
) -> dict[int | str, tuple[str, ...]]:
    """Read what a few users turned to last: titles, else ids, of distinct items, by user id.

    Args:
        spec: the representation.
        users: ids.
        before: T, microseconds; only events strictly before it.
        count: how many of each user, latest first.
        read: reads the events of a Feast source.
    """
    history = read_histories(spec, users, before, read).combine_chunks()
    if history.num_rows == 0:
        return {}
    items = history["item_id"].combine_chunks()
    texts = items.cast(pa.string())
    titles = titles_of(spec, items)
    if titles is not None:
        texts = pc.coalesce(titles, texts)
    found: dict[int | str, dict[str, None]] = {}
    for user, text in zip(history["user_id"].to_pylist(), texts.to_pylist(), strict=True):
        seen = found.setdefault(user, {})
        if len(seen) < count:
            seen[text] = None
    return {user: tuple(seen) for user, seen in found.items()}


def _scan(spec: RepresentationSpec, path: str, users: pa.Array) -> pa.Table:
    config = spec.events
    dataset = open_dataset(path, "events")
    wanted = [name for name in config.columns.model_dump().values() if name is not None]
    try:
        kind = dataset.schema.field(config.columns.user).type
        column = ds.field(config.columns.user)
        if pa.types.is_dictionary(kind):
            column = column.cast(kind.value_type)
        table = dataset.to_table(columns=wanted, filter=column.isin(users))
    except (pa.ArrowException, KeyError, OSError) as error:
        raise EventsError(f"{path}: cannot be read: {one_line(error)}; is it complete?") from None
    if table.num_rows == 0:
        empty = {"user_id": users.type, "item_id": pa.int64(), "event_timestamp": TIME_TYPE}
        return pa.schema(empty.items()).empty_table()
    # What encoding refused or left out is of no interest here.
    lenient = config.model_copy(update={"drop_invalid": True, "drop_future": True})
    return normalise_events(table, lenient, path).table
