"""Labels of tasks and time: neither the past nor what lies behind the window tells them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unirep_feast.errors import EvaluationError

#: user, item, days from T, type, value
Rows = list[tuple[int, str, float, str, float]]

events = st.lists(
    st.tuples(
        st.integers(1, 6),
        st.sampled_from("abcd"),
        st.integers(-20, 20).map(lambda d: d / 2),
        st.sampled_from(["buy", "view"]),
        st.integers(0, 9).map(float),
    ),
    min_size=1,
    max_size=40,
)

KINDS: list[tuple[str, dict[str, Any]]] = [
    ("churn", {"days": 5}),
    ("value", {"days": 5}),
    ("preference", {"days": 5, "by": "item", "top": 9}),
    ("propensity", {"days": 5, "top": 9}),
    ("matching", {"days": 5}),
    ("matching", {"days": 5, "mode": "next"}),
    ("matching", {"days": 5, "mode": "short", "starts": 2}),
    ("next_item", {"days": 5}),
]


@pytest.fixture(scope="session")
def labels_by_user(examples_of: Any, users_of: Any, positives_of: Any) -> Callable[..., Any]:
    """Labels by user and as-of time, item names in place of numbers; nothing where none asked."""

    def find(kind: str, rows: Rows, **settings: Any) -> dict[tuple[int, int], Any]:
        try:
            found = examples_of(kind, rows, **settings)
        except EvaluationError:
            return {}
        keys = zip(users_of(found, rows), found.as_of.tolist(), strict=True)
        if kind in ("matching", "next_item"):
            return dict(zip(keys, positives_of(found, rows), strict=True))
        if found.targets.ndim == 2:
            named = [
                {name for name, on in zip(found.outputs, row, strict=True) if on}
                for row in found.targets
            ]
            return dict(zip(keys, named, strict=True))
        return dict(zip(keys, found.targets.tolist(), strict=True))

    return find


@pytest.mark.parametrize(("kind", "options"), KINDS)
@given(rows=events)
@settings(max_examples=40, deadline=None)
def test_no_label_event_lies_before_the_cut_off(
    kind: str, options: dict[str, Any], rows: Rows, labels_by_user: Any
) -> None:
    """Whatever else the same users did before T, their labels are the same."""
    # Everybody has had every item, so that neither users nor candidates hang on what is added.
    known: Rows = [(u, i, -15, "buy", 0.0) for u in range(1, 7) for i in "abcd"]
    after = [row for row in rows if row[2] >= 0]
    before = [row for row in rows if row[2] < 0]

    assert labels_by_user(kind, known + after, **options) == labels_by_user(
        kind, known + after + before, **options
    )


@pytest.mark.parametrize(("kind", "options"), KINDS)
@given(rows=events)
@settings(max_examples=40, deadline=None)
def test_who_is_asked_what_hangs_on_the_past_and_the_window(
    kind: str, options: dict[str, Any], rows: Rows, labels_by_user: Any
) -> None:
    """Events behind the window change nothing; without events after T there are no positives."""
    last: Rows = [(1, "a", -1, "buy", 1.0), (1, "a", 19, "buy", 1.0)]
    inside = [row for row in rows if row[2] < 5]
    if kind == "matching" and options.get("mode") == "short":
        inside = [row for row in rows if row[2] < 3]

    assert labels_by_user(kind, inside + last, **options) == labels_by_user(
        kind, inside + last + [row for row in rows if row[2] >= 5], **options
    )
    past = [row for row in rows if row[2] < 0] + last[:1]
    for label in labels_by_user(kind, past, **options).values():
        assert label in ((1.0,) if kind == "churn" else (0.0, set()))
