"""What a report shows is what the vectors, the log and the catalog say."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unirep_feast.report import population as populations
from unirep_feast.report.curves import read_curves
from unirep_feast.report.neighbors import shared_groups
from unirep_feast.report.population import Population, top_categories
from unirep_feast.report.users_map import GROUPS, group_codes, principal_plane


def population(vectors: np.ndarray, groups: list[str | None] | None) -> Population:
    size = len(vectors)
    named = None if groups is None else pa.array(groups, pa.string())
    return Population(
        as_of=0,
        users=size,
        ids=pa.array(np.arange(size)),
        vectors=vectors,
        lengths=np.ones(size, np.int64),
        groups=named,
        grouped_by="colour",
    )


def test_of_a_log_written_twice_the_later_line_counts(tmp_path: Path) -> None:
    """A resumed run repeats steps, and a kill may cut the last line short."""
    lines = [
        {"kind": "start", "step": 0, "epoch": 0, "seconds": 0},
        {"kind": "step", "step": 1, "epoch": 0.1, "seconds": 1, "loss": 3.0},
        {"kind": "step", "step": 2, "epoch": 0.2, "seconds": 2, "loss": 9.0},
        {"kind": "validation", "step": 2, "epoch": 0.2, "seconds": 2, "loss": 4.0},
        {"kind": "step", "step": 2, "epoch": 0.2, "seconds": 2, "loss": 2.0},
        {"kind": "step", "step": 3, "epoch": 0.3, "seconds": 3, "loss": None},
    ]
    text = "\n".join(map(json.dumps, lines)) + '\n{"kind": "step", "st'
    (tmp_path / "log.jsonl").write_text(text)

    assert read_curves(tmp_path) == [
        {"kind": "step", "name": "loss", "steps": [1, 2], "values": [3.0, 2.0]},
        {"kind": "validation", "name": "loss", "steps": [2], "values": [4.0]},
    ]
    assert read_curves(tmp_path / "nowhere") == []


EVENTS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 6)), max_size=60)
CATEGORIES = st.lists(st.lists(st.sampled_from("abc"), max_size=2), min_size=7, max_size=7)


@settings(max_examples=60, deadline=None)
@given(events=EVENTS, categories=CATEGORIES, latest=st.integers(1, 8))
def test_the_top_category_is_that_of_most_latest_items(
    events: list[tuple[int, int]], categories: list[list[str]], latest: int
) -> None:
    """Counted one by one: items without a category do not count, and the first name wins a tie."""
    items = pa.table(
        {"item_id": np.arange(7), "category": pa.array(categories, pa.list_(pa.string()))}
    )
    users = pa.array([3, 0, 1, 2])
    asked = [pair for pair in events if pair[0] < 4]  # of these users, latest first
    table = pa.table(
        {
            "user_id": pa.array([user for user, _ in asked], pa.int64()),
            "item_id": pa.array([item for _, item in asked], pa.int64()),
        }
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(populations, "read_items", lambda spec: items)
        patch.setattr(populations, "read_histories", lambda *_: table)
        patch.setattr(populations, "_LATEST", latest)
        found = top_categories(None, users, 0, None)  # type: ignore[arg-type]

    if not any(categories):
        assert found is None
        return
    expected: list[str | None] = []
    for user in users.to_pylist():
        mine = [item for who, item in events if who == user][:latest]
        counts = Counter(categories[item][0] for item in mine if categories[item])
        expected.append(min(counts, key=lambda name: (-counts[name], name)) if counts else None)
    assert found is not None
    assert found.to_pylist() == expected


@given(st.lists(st.none() | st.sampled_from("abcdefghijkl"), max_size=80))
def test_every_user_keeps_a_colour_and_rare_groups_share_one(values: list[str | None]) -> None:
    """At most seven names, then "other"; the unknown are -1."""
    names, places = group_codes(values)
    assert len(names) <= GROUPS + 1
    for value, place in zip(values, places, strict=True):
        if value is None:
            assert place == -1
        elif names[place] != "other":
            assert names[place] == value
    counts = Counter(value for value in values if value is not None)
    sizes = [counts[name] for name in names if name != "other"]
    assert sizes == sorted(sizes, reverse=True)


def test_the_plane_keeps_the_largest_distances() -> None:
    """Points that lie in a plane of many dimensions keep all distances."""
    random = np.random.default_rng(0)
    axes = np.linalg.qr(random.standard_normal((9, 2)))[0]
    vectors = random.standard_normal((40, 2)) @ axes.T + 5
    points = principal_plane(vectors)
    wanted = np.linalg.norm(vectors[:, None] - vectors[None], axis=-1)
    found = np.linalg.norm(points[:, None] - points[None], axis=-1)
    np.testing.assert_allclose(found, wanted, atol=1e-9)
    assert principal_plane(np.ones((3, 1))).shape == (3, 2)


def test_shared_groups_are_counted_as_by_hand() -> None:
    """Shares of the ten nearest, and of any two users; who has no group is left out."""
    random = np.random.default_rng(1)
    groups = ["red", "blue", None, "green"] * 15
    vectors = random.standard_normal((60, 5)).astype(np.float32)
    found = shared_groups(population(vectors, groups))
    assert found is not None

    known = [n for n, group in enumerate(groups) if group is not None]
    some = vectors[known] / np.linalg.norm(vectors[known], axis=1, keepdims=True)
    near, pairs = [], []
    for place, row in enumerate(some):
        cosine = some @ row
        cosine[place] = -9
        nearest = np.argsort(-cosine)[:10]
        near += [groups[known[place]] == groups[known[other]] for other in nearest]
        pairs += [
            groups[known[place]] == groups[known[other]]
            for other in range(len(known))
            if other != place
        ]
    assert found["near"] == pytest.approx(np.mean(near))
    assert found["any"] == pytest.approx(np.mean(pairs))


def test_clusters_share_their_group_and_noise_does_not() -> None:
    """Where vectors know the group all neighbors share it."""
    centres = np.eye(3, 8)[[0, 1, 2] * 20] * 9
    noise = np.random.default_rng(0).standard_normal((60, 8))
    names: Any = ["a", "b", "c"] * 20
    assert shared_groups(population((centres + 0.1 * noise).astype("f4"), names))["near"] == 1.0  # type: ignore[index]
    assert shared_groups(population(noise.astype("f4"), None)) is None
