"""Event aggregates: how many, how recent, of what kind, at what price, at what hours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from unirep_feast.batch import FIRST_ITEM, SequenceBatch
from unirep_feast.encoder import Encoded
from unirep_feast.instants import MICROSECONDS_PER_DAY
from unirep_feast.items import ItemTable, Vocabulary
from unirep_feast.sequences import Sequences
from unirep_feast_baselines.config import AggregateSettings
from unirep_feast_baselines.counting import blocks, count_items, row_sums
from unirep_feast_baselines.names import pack, unpack
from unirep_feast_baselines.untrained import Untrained, seconds_of

_DAY = 86_400.0
_HOUR_US = MICROSECONDS_PER_DAY // 24
#: 1970-01-01 was a Thursday; day 0 of the week is Monday.
_FIRST_WEEKDAY = 3


class AggregateEncoder(Untrained):
    """What an analyst would compute first, one number after the other (:attr:`names`).

    Counts (events, items, active days, event types, categories, items by name), recency to the
    as-of time T, counts in windows before T and with half-lives, gaps, values and their histogram,
    hours and weekdays. Counts and amounts enter as log(1 + x), with their sign. Most of it changes
    with T alone, so vectors are never carried over to a later T.

    Args:
        vocabulary: its most frequent items and event types are counted.
        settings: see :class:`AggregateSettings`.
        prepared: from :func:`prepare_aggregates`.
    """

    depends_on_as_of = True
    edges: Tensor
    centre: Tensor
    scale: Tensor

    def __init__(
        self, vocabulary: Vocabulary, settings: AggregateSettings, prepared: Mapping[str, Tensor]
    ) -> None:
        self.settings = settings
        self.known = len(vocabulary)
        fitted = unpack(prepared["aggregates.names"])
        self.types: list[int] = fitted["types"]
        self.categories: list[str] = fitted["categories"]
        self.has_value: bool = fitted["value"]
        self.counted_items = min(settings.items, len(vocabulary) - FIRST_ITEM)
        self.names = self._names(vocabulary)
        super().__init__(len(self.names))
        self.register_buffer("edges", prepared["aggregates.edges"])
        nothing = torch.zeros(self.dim, dtype=torch.float64)
        self.register_buffer("centre", prepared.get("aggregates.centre", nothing))
        self.register_buffer("scale", prepared.get("aggregates.scale", nothing + 1))
        self._category_of = torch.zeros(0, dtype=torch.int64)
        self._category_offsets = torch.zeros(FIRST_ITEM + 1, dtype=torch.int64)

    def bind(self, items: ItemTable) -> None:
        """Look up the counted categories of every item."""
        lists = items.categories
        lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
        place = pc.index_in(lists.flatten(), value_set=pa.array(self.categories, pa.string()))
        ids = pc.fill_null(place, -1).to_numpy(zero_copy_only=False).astype(np.int64)
        parent = np.repeat(np.arange(len(lists)), lengths.astype(np.int64))
        counts = np.bincount(parent[ids >= 0], minlength=len(lists))
        offsets = np.concatenate((np.zeros(FIRST_ITEM + 1, np.int64), np.cumsum(counts)))
        self._category_of = torch.from_numpy(ids[ids >= 0])
        self._category_offsets = torch.from_numpy(offsets)

    def forward(self, batch: SequenceBatch, *, steps: bool = False) -> Encoded:
        """Encode a batch to (B, 1, D)."""
        raw = self.features(batch)
        return Encoded(((raw - self.centre) / self.scale).float()[:, None])

    def features(self, batch: SequenceBatch) -> Tensor:
        """Return the aggregates themselves: (B, D) float64, zeros for rows without events."""
        age = seconds_of(batch) / _DAY  # (N,) days
        columns = [
            *self._activity(batch, age),
            *self._recent(batch, age),
            *self._kinds(batch),
            *self._values(batch, age),
            *self._rhythm(batch),
        ]
        found = torch.cat([c[:, None] if c.dim() == 1 else c for c in columns], 1)
        return found * (batch.lengths > 0)[:, None]

    # -- the features, in the order of their names ---------------------------------------------

    def _names(self, vocabulary: Vocabulary) -> list[str]:
        s = self.settings
        names = ["events", "items", "active_days", "since_last", "since_first", "span"]
        names += ["mean_gap", "gap_deviation"]
        names += [f"events_{days:g}d" for days in s.windows]
        names += [f"decayed_{days:g}d" for days in s.half_lives]
        names += [f"type={vocabulary.event_types[code - 1]}" for code in self.types]
        names += [f"category={name}" for name in self.categories]
        names += [f"item={id_}" for id_ in vocabulary.item_ids[: self.counted_items].to_pylist()]
        if self.has_value:
            names += ["value_sum", "value_mean", "value_deviation", "value_min", "value_max"]
            names += [f"value_{days:g}d" for days in s.windows]
            names += [f"value_bin={number}" for number in range(s.value_bins)]
        names += [f"hour={hour}" for hour in range(24)] if s.hours else []
        return names + ([f"weekday={day}" for day in range(7)] if s.weekdays else [])

    def _activity(self, batch: SequenceBatch, age: Tensor) -> list[Tensor]:
        n = batch.lengths
        filled = n > 0
        days = torch.div(batch.times, MICROSECONDS_PER_DAY, rounding_mode="floor")
        first, last = (torch.zeros(len(batch), dtype=age.dtype, device=age.device) for _ in "12")
        first[filled], last[filled] = age[batch.first[filled]], age[batch.last[filled]]
        gaps = _within(batch, age)  # (N,) days since the row's event before; 0 for the first
        pairs = (n - 1).clamp(min=1)
        mean = (first - last) / pairs
        between = batch.steps > 0
        square = row_sums((gaps - mean[batch.rows]).square() * between, n)
        return [
            n.log1p().double(),
            count_items(batch, self.known).lengths.log1p().double(),
            (_changes(batch, days) + filled).log1p().double(),
            last.log1p(),
            first.log1p(),
            (first - last).log1p(),
            mean.log1p(),
            (square / pairs).sqrt().log1p(),
        ]

    def _recent(self, batch: SequenceBatch, age: Tensor) -> list[Tensor]:
        counts = [row_sums((age <= days).double(), batch.lengths) for days in self.settings.windows]
        counts += [
            row_sums(torch.exp2(-age / days), batch.lengths) for days in self.settings.half_lives
        ]
        return [count.log1p() for count in counts]

    def _kinds(self, batch: SequenceBatch) -> list[Tensor]:
        found = []
        if self.types:
            codes = batch.columns.get("event_type", torch.zeros_like(batch.codes))
            found.append(_table(batch.rows, codes, len(batch), max(self.types) + 1)[:, self.types])
        if self.categories:
            found.append(self._category_counts(batch))
        if self.counted_items:
            kept = (batch.codes >= FIRST_ITEM) & (batch.codes < FIRST_ITEM + self.counted_items)
            places = batch.codes[kept] - FIRST_ITEM
            found.append(_table(batch.rows[kept], places, len(batch), self.counted_items))
        return [table.log1p() for table in found]

    def _category_counts(self, batch: SequenceBatch) -> Tensor:
        if self._category_offsets.device != batch.device:
            self._category_offsets = self._category_offsets.to(batch.device)
            self._category_of = self._category_of.to(batch.device)
        starts = self._category_offsets[batch.codes]
        lengths = self._category_offsets[batch.codes + 1] - starts
        ends = lengths.cumsum(0)
        place = torch.repeat_interleave(starts - (ends - lengths), lengths)
        place = place + torch.arange(len(place), device=batch.device)
        rows = torch.repeat_interleave(batch.rows, lengths)
        return _table(rows, self._category_of[place], len(batch), len(self.categories))

    def _values(self, batch: SequenceBatch, age: Tensor) -> list[Tensor]:
        if not self.has_value:
            return []
        n = len(batch)
        column = batch.columns.get("value", torch.full_like(age, torch.nan))
        given = ~column.isnan()
        rows, value, age = batch.rows[given], column[given].double(), age[given]
        lengths = torch.bincount(rows, minlength=n)
        some = lengths.clamp(min=1)
        total = row_sums(value, lengths)
        mean = total / some
        deviation = (row_sums((value - mean[rows]).square(), lengths) / some).sqrt()
        least, most = (
            torch.zeros(n, dtype=value.dtype, device=value.device).scatter_reduce_(
                0, rows, value, reduce, include_self=False
            )
            for reduce in ("amin", "amax")
        )
        sums = [row_sums(value * (age <= days), lengths) for days in self.settings.windows]
        found = [_signed_log(x) for x in (total, mean, deviation, least, most, *sums)]
        if self.settings.value_bins:
            bins = torch.bucketize(value, self.edges)
            table = _table(rows, bins, n, self.settings.value_bins)
            found.append(table / some[:, None])
        return found

    def _rhythm(self, batch: SequenceBatch) -> list[Tensor]:
        some = batch.lengths.clamp(min=1)[:, None]
        hours = torch.div(batch.times, _HOUR_US, rounding_mode="floor")
        days = torch.div(hours, 24, rounding_mode="floor")
        found = []
        if self.settings.hours:
            found.append(_table(batch.rows, hours - 24 * days, len(batch), 24) / some)
        if self.settings.weekdays:
            day = torch.remainder(days + _FIRST_WEEKDAY, 7)
            found.append(_table(batch.rows, day, len(batch), 7) / some)
        return found


def prepare_aggregates(
    settings: AggregateSettings, vocabulary: Vocabulary, sequences: Sequences
) -> dict[str, Tensor]:
    """Choose what is counted, and fit means and deviations, before the training cut-off."""
    columns = sequences.columns
    names: dict[str, Any] = {
        "types": _frequent_types(sequences, settings.event_types),
        "categories": _frequent_categories(sequences.items, vocabulary, settings.categories),
        "value": "value" in columns,
    }
    prepared = {
        "aggregates.names": pack(names),
        "aggregates.edges": _value_edges(sequences, settings.value_bins),
    }
    if not settings.standardise:
        return prepared
    encoder = AggregateEncoder(vocabulary, settings, prepared)
    encoder.bind(sequences.items)
    total = torch.zeros(2, encoder.dim, dtype=torch.float64)
    users = 0
    for batch in blocks(sequences):
        found = encoder.features(batch)
        total += torch.stack((found.sum(0), found.square().sum(0)))
        users += len(batch)
    centre, square = total / max(users, 1)
    deviation = (square - centre.square()).clamp(min=0).sqrt()
    # What never varies stays as it is, instead of exploding where it once does.
    scale = torch.where(deviation > 1e-6, deviation, torch.ones_like(deviation))
    return {**prepared, "aggregates.centre": centre, "aggregates.scale": scale}


def _frequent_types(sequences: Sequences, at_most: int) -> list[int]:
    if "event_type" not in sequences.columns:
        return []
    counts = torch.zeros(len(sequences.vocabulary.event_types) + 1, dtype=torch.int64)
    for batch in blocks(sequences):
        counts += torch.bincount(batch.columns["event_type"], minlength=len(counts))
    order = torch.argsort(-counts[1:], stable=True)[:at_most] + 1
    return [int(code) for code in order.sort().values if counts[code] > 0]


def _frequent_categories(items: ItemTable, vocabulary: Vocabulary, at_most: int) -> list[str]:
    """Categories by falling number of events before the cut-off, ties by name."""
    lists = items.categories.slice(0, items.known - FIRST_ITEM)
    encoded = lists.flatten().dictionary_encode()
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    events = np.repeat(vocabulary.counts.to_numpy(), lengths.astype(np.int64))
    valid = encoded.indices.is_valid().to_numpy(zero_copy_only=False)
    places = pc.fill_null(encoded.indices, 0).to_numpy(zero_copy_only=False)
    names = encoded.dictionary.to_pylist()
    counts = np.bincount(places[valid], weights=events[valid], minlength=len(names))
    order = sorted(range(len(names)), key=lambda n: (-counts[n], names[n]))
    return [names[n] for n in order[:at_most] if counts[n] > 0]


def _value_edges(sequences: Sequences, bins: int) -> Tensor:
    """Quantiles of all values before the cut-off: (bins - 1,) float64."""
    if "value" not in sequences.columns or bins < 2:
        return torch.zeros(0, dtype=torch.float64)
    values = np.concatenate(
        [np.zeros(0, np.float32), *(b.columns["value"].cpu().numpy() for b in blocks(sequences))]
    )
    values = values[~np.isnan(values)]
    if not len(values):
        return torch.zeros(bins - 1, dtype=torch.float64)
    return torch.from_numpy(np.quantile(values, np.arange(1, bins) / bins).astype(np.float64))


def _table(rows: Tensor, places: Tensor, height: int, width: int) -> Tensor:
    """Count (row, place) pairs: (height, width) float64."""
    counts = torch.bincount(rows * width + places, minlength=height * width)
    return counts.view(height, width).double()


def _within(batch: SequenceBatch, age: Tensor) -> Tensor:
    """(N,) how much older the row's event before is; 0 for each row's first event."""
    gaps = torch.zeros_like(age)
    gaps[1:] = age[:-1] - age[1:]
    return gaps * (batch.steps > 0)


def _changes(batch: SequenceBatch, values: Tensor) -> Tensor:
    """(B,) int64 how often a sorted (N,) column changes within each row."""
    changed = torch.zeros_like(values)
    changed[1:] = (values[1:] != values[:-1]).long()
    return torch.zeros_like(batch.lengths).index_add_(
        0, batch.rows, changed * (batch.steps > 0).long()
    )


def _signed_log(x: Tensor) -> Tensor:
    return x.sign() * x.abs().log1p()
