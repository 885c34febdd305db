"""Item codes and what is known of items: the persisted vocabulary and the run-time item table."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from unirep_feast.batch import FIRST_ITEM, UNK
from unirep_feast.errors import CheckpointError, EventsError


@dataclass(frozen=True)
class Vocabulary:
    """Which item (and event type) has which code; fitted once, before ``trained_until``, and kept.

    Codes are by falling number of events, ties by item id: the first X codes are the X most
    frequent items. 0, 1, 2 are PAD, MASK, UNK.

    Attributes:
        item_ids: (V - 3,) int64 or string, the item of code ``i + 3``.
        counts: (V - 3,) int64 events per item before ``trained_until``.
        event_types: the event type of code ``i + 1``; code 0 is unknown.
    """

    item_ids: pa.Array
    counts: pa.Array
    event_types: tuple[str, ...] = ()

    @classmethod
    def fit(
        cls,
        item_ids: pa.Array,
        counts: np.ndarray,
        event_types: Sequence[str] = (),
        min_count: int = 1,
        max_items: int | None = None,
    ) -> Vocabulary:
        """Give codes to items.

        Args:
            item_ids: distinct ids, sorted.
            counts: (n,) events of each before the cut-off; items without any get no code.
            event_types: distinct event types, sorted.
            min_count: events an item needs.
            max_items: at most so many items, the most frequent.
        """
        order = np.argsort(-counts, kind="stable")  # ids are sorted, so ties fall by id
        order = order[counts[order] >= max(min_count, 1)]
        order = order[:max_items]
        return cls(
            item_ids.take(pa.array(order)), pa.array(counts[order], pa.int64()), tuple(event_types)
        )

    def __len__(self) -> int:
        """Return V, the number of codes, PAD, MASK and UNK included."""
        return len(self.item_ids) + FIRST_ITEM

    @cached_property
    def hash(self) -> str:
        """SHA-256 over ids and event types, in code order."""
        digest = hashlib.sha256(str(self.item_ids.type).encode())
        # Arrow buffers of an unsliced copy hold exactly the ids, whatever array they came from.
        for buffer in pa.concat_arrays([self.item_ids]).buffers()[1:]:
            digest.update(buffer or b"")
        digest.update(json.dumps(self.event_types).encode())
        return digest.hexdigest()

    def to_table(self) -> pa.Table:
        """Return the vocabulary as an Arrow table, event types in its metadata."""
        table = pa.table({"item_id": self.item_ids, "count": self.counts})
        return table.replace_schema_metadata({"event_types": json.dumps(self.event_types)})

    @classmethod
    def from_table(cls, table: pa.Table) -> Vocabulary:
        """Undo :meth:`to_table`."""
        if table.column_names != ["item_id", "count"]:
            raise CheckpointError(
                f"vocabulary holds columns {table.column_names}, wanted item_id and count"
            )
        types = json.loads((table.schema.metadata or {}).get(b"event_types", b"[]"))
        table = table.combine_chunks()
        ids, counts = (
            column.chunk(0) if column.num_chunks else pa.array([], column.type)
            for column in table.columns
        )
        return cls(ids, counts, tuple(types))


@dataclass(frozen=True)
class ItemTable:
    """What is known of every coded item, in code order; grows at run time, codes never shift.

    Attributes:
        item_ids: (n,) ids of codes 3, 4, …; first the vocabulary's, then appended ones.
        titles: (n,) string, null where unknown.
        categories: (n,) list<string>, null where unknown.
        known: V, codes below it are in the vocabulary and may have trained parameters.
    """

    item_ids: pa.Array
    titles: pa.Array
    categories: pa.Array
    known: int

    @classmethod
    def build(cls, vocabulary: Vocabulary, items: pa.Table | None) -> ItemTable:
        """Line up an item table with a vocabulary.

        Args:
            vocabulary: its items come first, in code order.
            items: item_id, title, category (see ``catalogue.read_items``); items that the
                vocabulary does not hold are appended in order of their id. None: nothing is known.
        """
        ids = vocabulary.item_ids
        if items is None:
            nulls = pa.nulls(len(ids), pa.string())
            return cls(ids, nulls, pa.nulls(len(ids), pa.list_(pa.string())), len(vocabulary))
        items = items.combine_chunks()
        listed = _array(items["item_id"])
        if listed.type != ids.type:
            try:
                listed = listed.cast(ids.type)
            except pa.ArrowException:
                raise EventsError(
                    f"items: ids are {listed.type}, such as {listed[0].as_py()!r}, but those of "
                    f"the events are {ids.type}; write both tables with the same kind of id"
                ) from None
        place = pc.index_in(ids, value_set=listed)
        extra = pc.invert(pc.is_in(listed, value_set=ids))
        appended = pa.array(np.flatnonzero(extra.to_numpy(zero_copy_only=False)))
        place = pa.concat_arrays([place.cast(pa.int64()), appended])
        return cls(
            pa.concat_arrays([ids, listed.take(appended)]),
            _array(items["title"]).take(place),
            _array(items["category"]).take(place),
            len(vocabulary),
        )

    def __len__(self) -> int:
        """Return the number of codes, PAD, MASK and UNK included; at least ``known``."""
        return len(self.item_ids) + FIRST_ITEM

    def codes(self, item_ids: pa.Array) -> np.ndarray:
        """Return the (n,) int32 codes of item ids; UNK for items nothing is known of."""
        if item_ids.type != self.item_ids.type:
            return np.full(len(item_ids), UNK, np.int32)
        place = pc.fill_null(pc.index_in(item_ids, value_set=self.item_ids), UNK - FIRST_ITEM)
        return np.asarray(place, np.int32) + np.int32(FIRST_ITEM)


def _array(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)
