"""Labels of tasks, beside plain loops over tiny logs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from unirep_feast.instants import parse_instant

T = parse_instant("2024-03-01")
DAY = 86_400_000_000

#: user, item, days from T, type, value
Rows = list[tuple[int, str, float, str, float]]


def test_churn_is_no_event_from_the_cut_off_on(examples_of: Any, users_of: Any) -> None:
    """Users with a past are asked; an event at T itself, or 29.5 days later, keeps them."""
    found = examples_of("churn", days=30)

    assert users_of(found) == [1, 2, 3, 5]
    assert found.targets.tolist() == [0, 1, 0, 1]
    assert set(found.as_of.tolist()) == {T}


def test_churn_of_some_types_and_of_the_recently_active(examples_of: Any, users_of: Any) -> None:
    """Types count before and after T; `active_days` leaves out whoever has long been gone."""
    found = examples_of("churn", days=30, types=["buy"], active_days=10)

    assert users_of(found) == [1, 5]
    assert found.targets.tolist() == [0, 1]


def test_value_is_the_log_of_the_sum_or_the_number(examples_of: Any) -> None:
    """Sums of the window, never below 0; known users without an event count as 0."""
    assert np.allclose(examples_of("value", days=30).targets, np.log1p([12, 0, 0, 0]))
    counts = examples_of("value", days=30, measure="count").targets
    assert np.allclose(counts, np.log1p([3, 0, 2, 0]))


def test_preference_for_categories(examples_of: Any, users_of: Any) -> None:
    """The most frequent categories before T, and who of the active turns to them after it."""
    found = examples_of("preference", days=30, top=3)

    # before T: x by a, a, b; y by a, a, c; z by c
    assert found.outputs == ("x", "y", "z")
    assert users_of(found) == [1, 3]
    assert found.targets.tolist() == [[1, 1, 1], [1, 1, 1]]


def test_preference_at_a_level_skipping_and_above_the_usual(examples_of: Any) -> None:
    """Only the second level; `skip` leaves out the most frequent; `above` compares shares."""
    level = examples_of("preference", days=30, level=1)
    skipped = examples_of("preference", days=30, by="item", skip=1, top=2, active_only=False)
    above = examples_of("preference", days=30, by="item", target="above", top=4)

    assert level.outputs == ("y", "z")
    assert level.targets.tolist() == [[0, 1], [1, 1]]
    assert len(skipped) == 4
    assert skipped.outputs == ("blue lamp", "red mugs")
    # events after T: user 1 b c d, user 3 a c; a is 1 of 5, c 2 of 5
    assert above.outputs == ("Red Lamp lamp", "blue lamp", "red mugs", "d")
    assert above.targets.tolist() == [[0, 1, 0, 1], [1, 0, 1, 0]]


def test_preference_for_words_of_titles(examples_of: Any) -> None:
    """A word of four letters or more, once per title, in any case."""
    found = examples_of("preference", days=30, by="word")

    assert found.outputs == ("lamp", "blue", "mugs")
    assert found.targets.tolist() == [[1, 1, 1], [1, 0, 1]]


def test_propensity_asks_everybody_about_single_items(examples_of: Any, users_of: Any) -> None:
    """All known users, active or not, for the most frequent items."""
    found = examples_of("propensity", days=30, top=1)

    assert found.outputs == ("Red Lamp lamp",)
    assert users_of(found) == [1, 2, 3, 5]
    assert found.targets.tolist() == [[0], [0], [1], [0]]


def test_matching_long_short_and_next(examples_of: Any, users_of: Any, positives_of: Any) -> None:
    """Positives of 30 days, of single days as of each, and the first by time and id."""
    long = examples_of("matching", days=30)
    short = examples_of("matching", mode="short", days=6, starts=2)
    following = examples_of("matching", mode="next", days=30)

    assert users_of(long) == [1, 3]
    assert positives_of(long) == [{"b", "c", "d"}, {"a", "c"}]
    assert [(u, (t - T) // DAY) for u, t in zip(users_of(short), short.as_of, strict=True)] == [
        (1, 0),
        (1, 3),
    ]
    assert positives_of(short) == [{"b"}, {"c", "d"}]
    assert positives_of(following) == [{"b"}, {"a"}]
    assert long.popularity.tolist() == [2, 1, 1, 1]  # type: ignore[union-attr]


def test_items_nobody_had_before_cannot_be_ranked(
    examples_of: Any, users_of: Any, positives_of: Any
) -> None:
    """A positive without an event before T is no candidate; whoever has no other is left out."""
    rows: Rows = [
        (1, "a", -1, "buy", 1.0),
        (1, "b", 1, "buy", 1.0),
        (2, "a", -1, "buy", 1.0),
        (2, "a", 2, "buy", 1.0),
    ]

    found = examples_of("next_item", rows)

    assert users_of(found, rows) == [2]
    assert positives_of(found, rows) == [{"a"}]


def test_profiles_come_from_a_table(tmp_path: Path, examples_of: Any, users_of: Any) -> None:
    """Known users with a label, classes in order, rare ones left out."""
    labels = pa.table({"user_id": [5, 1, 2, 3, 4, 9], "sex": ["m", "f", "f", "m", "f", None]})
    pq.write_table(labels, tmp_path / "users.parquet")

    found = examples_of("profile", folder=str(tmp_path), label="sex", min_count=2)

    assert found.outputs == ("f", "m")
    assert users_of(found) == [1, 2, 3, 5]
    assert found.targets.tolist() == [0, 0, 1, 1]


def test_numbers_come_from_a_table(tmp_path: Path, examples_of: Any) -> None:
    """Regression reads any number, its logarithm where asked for."""
    pq.write_table(
        pa.table({"user_id": [1, 2, 9], "income": [10, 20, 30]}), tmp_path / "users.parquet"
    )

    found = examples_of("regression", folder=str(tmp_path), label="income", log=True)

    assert np.allclose(found.targets, np.log1p([10, 20]))


def test_labels_with_a_time_count_from_the_cut_off_on(
    tmp_path: Path, examples_of: Any, users_of: Any
) -> None:
    """A label of before T, behind the window or of no known time is left out."""
    day = datetime(2024, 3, 1, tzinfo=UTC)
    times = [day, day - timedelta(microseconds=1), day + timedelta(days=29), None, day]
    table = {
        "user_id": [1, 2, 3, 5, 4],
        "label": [1, 2, 3, 4, 5],
        "when": pa.array(times, pa.timestamp("us", tz="UTC")),
    }
    pq.write_table(pa.table(table), tmp_path / "users.parquet")

    found = examples_of("regression", folder=str(tmp_path), time="when", days=30)
    short = examples_of("regression", folder=str(tmp_path), time="when", days=29)

    assert users_of(found) == [1, 3]
    assert found.targets.tolist() == [1, 3]
    assert users_of(short) == [1]


def impressions(folder: Path) -> None:
    day = datetime(2024, 3, 1, tzinfo=UTC)
    rows = [
        (1, "a", -1.0, "click", 1),
        (2, "a", -1.0, "skip", 1),
        (1, "b", 1.0, "skip", 2),
        (1, "a", 1.0, "click", 2),
        (2, "c", 0.0, "skip", 3),
        (4, "c", 0.0, "click", 4),  # unknown before T
        (2, "c", 40.0, "click", 5),  # behind the window
        (1, "b", 2.0, "history", 6),  # no impression
    ]
    table = pa.table(
        {
            "user_id": [row[0] for row in rows],
            "item_id": [row[1] for row in rows],
            "event_timestamp": pa.array(
                [day + timedelta(days=row[2]) for row in rows], pa.timestamp("us", tz="UTC")
            ),
            "event_type": [row[3] for row in rows],
            "list": [row[4] for row in rows],
        }
    )
    pq.write_table(table, folder / "impressions.parquet")


@pytest.mark.parametrize("kind", ["ctr", "news"])
def test_impressions_of_the_window(
    tmp_path: Path, kind: str, examples_of: Any, users_of: Any
) -> None:
    """Rows after T of known users; what is known of the item comes from before T alone."""
    impressions(tmp_path)

    found = examples_of(kind, folder=str(tmp_path), days=30, group="list")

    assert users_of(found) == [1, 1, 2]
    assert found.items.tolist() == [0, 1, 2]  # type: ignore[union-attr]
    assert found.targets.tolist() == [1, 0, 0]
    groups = found.groups.tolist()  # type: ignore[union-attr]
    assert groups[0] == groups[1] != groups[2]
    clicks, shown = np.expm1(found.context[:, :2]).T  # type: ignore[index]
    assert np.allclose(clicks, [1, 0, 0])
    assert np.allclose(shown, [2, 0, 0])
