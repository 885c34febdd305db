"""Is the truth of a synthetic world visible in its events? For tests, and as a first baseline."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from unirep_feast.synthetic.truth import Floats, Ints, Truth, truth_of
from unirep_feast.synthetic.world import World


@dataclass(frozen=True)
class Probe:
    """How well a label follows from category histograms, on users the probe has not seen."""

    accuracy: float
    chance: float  # share of the most frequent label


@dataclass(frozen=True)
class WorldCheck:
    """What the events of a world show.

    Attributes:
        segment, gender: probes that must do better than chance.
        country: the control; it has no bearing on what a user takes, so the probe must not.
        early_drift, late_drift: mean log-likelihood ratio, in nats per event, of the true end
            mixture against the true start mixture, over the first and the last quarter of the
            world's span; below and above 0 with drift, 0 without.
        peak_to_trough: share of the seasonal categories in their peak months over their share half
            a year away; 1 without seasonality, 0 if there is no event in season.
        outside_tenure: events before a user's ``joined_at``, or at or after his ``churned_at``.
        idle_users: users without any event.
    """

    segment: Probe
    gender: Probe
    country: Probe
    early_drift: float
    late_drift: float
    peak_to_trough: float
    outside_tenure: int
    idle_users: int


def check_world(folder: Path) -> WorldCheck:
    """Compare the events in a folder with the truth they were drawn from.

    Reads all events at once: meant for worlds of up to some ten million of them.
    """
    folder = Path(folder)
    world = World(**json.loads((folder / "world.json").read_text(encoding="utf-8")))
    truth = truth_of(world)
    users = pq.read_table(folder / "users.parquet")
    events = pq.read_table(
        folder / "events.parquet", columns=["user_id", "item_id", "event_timestamp"]
    )
    rows = _places(events["user_id"], users["user_id"])
    items = _places(events["item_id"], pq.read_table(folder / "items.parquet")["item_id"])
    categories = truth.item_category[items]  # items.parquet is in the order of the ids
    times = _microseconds(events["event_timestamp"])

    seen = rows * world.categories + categories
    counts = np.bincount(seen, minlength=len(users) * world.categories).reshape(len(users), -1)
    joined = _microseconds(users["joined_at"])
    left = pc.fill_null(users["churned_at"].cast(pa.int64()), world.end).to_numpy()
    active = counts.sum(1) > 0
    early, late = _drift(world, truth, users, rows, categories, times)
    return WorldCheck(
        segment=nearest_mean_probe(counts[active], users["segment"].filter(active)),
        gender=nearest_mean_probe(counts[active], users["gender"].filter(active)),
        country=nearest_mean_probe(counts[active], users["country"].filter(active)),
        early_drift=early,
        late_drift=late,
        peak_to_trough=_peak_to_trough(world, truth, categories, times),
        outside_tenure=int(((times < joined[rows]) | (times >= left[rows])).sum()),
        idle_users=int((~active).sum()),
    )


def nearest_mean_probe(counts: Ints, labels: pa.ChunkedArray) -> Probe:
    """Predict labels by the nearest class mean; fitted on even rows, scored on odd ones.

    Args:
        counts: (n, C) events of each user in each category, at least one per user.
        labels: (n,) any type, without nulls.
    """
    shares = np.sqrt(counts / counts.sum(1, keepdims=True))  # Hellinger: rare categories count too
    encoded = labels.combine_chunks().dictionary_encode()
    codes = encoded.indices.to_numpy().astype(np.int64)
    classes = np.eye(len(encoded.dictionary))[codes[::2]]  # (n/2, L)
    means = (classes.T @ shares[::2]) / np.maximum(classes.sum(0), 1)[:, None]  # (L, C)
    distance = (means**2).sum(1) - 2 * shares[1::2] @ means.T
    distance[:, classes.sum(0) == 0] = np.inf
    return Probe(
        accuracy=float((distance.argmin(1) == codes[1::2]).mean()),
        chance=float(np.bincount(codes).max() / len(codes)),
    )


def _drift(
    world: World, truth: Truth, users: pa.Table, rows: Ints, categories: Ints, times: Ints
) -> tuple[float, float]:
    start, end = (
        np.log(_matrix(users[name], world.personas) @ truth.persona_categories)
        for name in ("mixture_start", "mixture_end")
    )
    place = (times - world.start) / (world.end - world.start)
    ratio = (end - start)[rows, categories]
    early, late = ratio[place < 0.25], ratio[place >= 0.75]
    return _mean(early), _mean(late)


def _peak_to_trough(world: World, truth: Truth, categories: Ints, times: Ints) -> float:
    months = times.astype("datetime64[us]").astype("datetime64[M]").astype(np.int64) % 12
    counts = np.bincount(months * world.categories + categories, minlength=12 * world.categories)
    shares = counts.reshape(12, -1) / np.maximum(counts.reshape(12, -1).sum(1, keepdims=True), 1)
    seasonal = np.flatnonzero(truth.peak_month)
    peak = truth.peak_month[seasonal] - 1
    trough = shares[(peak + 6) % 12, seasonal].sum()
    return float(shares[peak, seasonal].sum() / trough) if trough else 0.0


def _mean(values: Floats) -> float:
    return float(values.mean()) if len(values) else 0.0


def _places(ids: pa.ChunkedArray, known: pa.ChunkedArray) -> Ints:
    """Return (N,) the place of each id among the known ones."""
    return np.asarray(pc.index_in(ids, value_set=known).to_numpy(), np.int64)


def _microseconds(times: pa.ChunkedArray) -> Ints:
    return np.asarray(times.cast(pa.int64()).to_numpy())


def _matrix(lists: pa.ChunkedArray, width: int) -> Floats:
    values = lists.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return np.asarray(values, np.float64).reshape(-1, width)
