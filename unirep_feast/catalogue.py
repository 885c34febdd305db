"""The catalogue of items: titles and categories, read and checked."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from unirep_feast.config import ItemsConfig, RepresentationSpec
from unirep_feast.errors import EventsError, one_line
from unirep_feast.tables import cast_column, check_columns, id_column, open_dataset


def read_items(spec: RepresentationSpec) -> pa.Table | None:
    """Read item titles and categories.

    Returns:
        A table item_id (int64 or string), title (string), category (list<string>), one row per
        item, sorted by item id; None if the spec names no item table.

    Raises:
        EventsError: as for :func:`~unirep_feast.events.read_events`; also if an item id stands
            twice or is null.
    """
    config = spec.items
    if config is None:
        return None
    path = spec.resolve(config.path)
    dataset = open_dataset(path, "items")
    wanted = [name for name in (config.item, config.title, config.category) if name is not None]
    check_columns(dataset.schema, wanted, path, "items")
    try:
        table = dataset.to_table(columns=wanted)
    except (pa.ArrowException, OSError) as error:
        raise EventsError(f"{path}: cannot be read: {one_line(error)}; is it complete?") from None
    return normalise_items(table, config, path)


def normalise_items(table: pa.Table, config: ItemsConfig, origin: str) -> pa.Table:
    """Bring any table to the item schema; see :func:`read_items`."""
    ids = id_column(table[config.item], f"{origin}: column {config.item!r}").combine_chunks()
    if ids.null_count:
        raise EventsError(
            f"{origin}: {ids.null_count:,} items without {config.item!r}; remove them"
        )
    rows = table.num_rows
    doubles = rows - pc.count_distinct(ids).as_py()
    if doubles:
        raise EventsError(
            f"{origin}: {doubles:,} item ids stand more than once; keep one row per {config.item!r}"
        )
    titles = pa.nulls(rows, pa.string())
    if config.title is not None:
        titles = cast_column(table[config.title], pa.string(), f"{origin}: column {config.title!r}")
    categories: pa.Array | pa.ChunkedArray = pa.nulls(rows, pa.list_(pa.string()))
    if config.category is not None:
        categories = table[config.category]
        if not pa.types.is_list(categories.type) and not pa.types.is_large_list(categories.type):
            single = cast_column(categories, pa.string(), f"{origin}: column {config.category!r}")
            flat = pa.chunked_array([single]) if isinstance(single, pa.Array) else single
            flat = flat.combine_chunks()
            offsets = pa.array(np.arange(rows + 1, dtype=np.int32))
            categories = pa.ListArray.from_arrays(offsets, flat, mask=flat.is_null())
        else:
            try:
                categories = categories.cast(pa.list_(pa.string()))
            except pa.ArrowException:
                raise EventsError(
                    f"{origin}: column {config.category!r} is {categories.type}; wanted string or "
                    "list<string>"
                ) from None
    items = pa.table({"item_id": ids, "title": titles, "category": categories})
    return items.sort_by("item_id")
