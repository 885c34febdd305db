"""Labels of tasks, beside plain loops over tiny logs."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from unirep_feast.config import EventsConfig, TrainingConfig, parse_instant
from unirep_feast.errors import EvaluationError, PluginError, SpecError
from unirep_feast.evaluation.config import EvaluationConfig
from unirep_feast.evaluation.examples import LoadedTask, load_tasks, make_examples
from unirep_feast.evaluation.kinds import BUILT_IN
from unirep_feast.events import normalise_events
from unirep_feast.packing import pack
from unirep_feast.splits import shares
from unirep_feast.task import Examples, TaskLog

T = parse_instant("2024-03-01")
DAY = 86_400_000_000
ITEMS = pa.table(
    {
        "item_id": pa.array(["a", "b", "c", "d"]),
        "title": pa.array(["Red Lamp lamp", "blue lamp", "red mugs", None]),
        "category": pa.array([["x", "y"], ["x"], ["y", "z"], None], pa.list_(pa.string())),
    }
)

#: user, item, days from T, type, value
Rows = list[tuple[int, str, float, str, float]]

SMALL: Rows = [
    (1, "a", -9, "buy", 1.0),
    (1, "a", -2, "buy", 2.0),
    (1, "b", 0, "buy", 3.0),  # at T itself: belongs to the labels
    (1, "c", 3, "view", 4.0),
    (1, "d", 3, "buy", 5.0),
    (2, "b", -1, "view", 1.0),
    (2, "b", 30, "buy", 7.0),  # just behind a window of 30 days
    (3, "c", -40, "buy", 1.0),
    (3, "c", 29.5, "view", 2.0),
    (3, "a", 29.5, "view", -9.0),
    (4, "a", 5, "buy", 1.0),  # unknown before T
    (5, "d", -1, "buy", 1.0),
]


def make_log(rows: Rows, folder: str = ".") -> TaskLog:
    start = datetime(2024, 3, 1, tzinfo=UTC)
    table = pa.table(
        {
            "user_id": pa.array([row[0] for row in rows], pa.int64()),
            "item_id": pa.array([row[1] for row in rows]),
            "event_timestamp": pa.array(
                [start + timedelta(days=row[2]) for row in rows], pa.timestamp("us", tz="UTC")
            ),
            "kind": pa.array([row[3] for row in rows]),
            "amount": pa.array([row[4] for row in rows], pa.float32()),
        }
    )
    config = EventsConfig.model_validate(
        {"path": "-", "columns": {"type": "kind", "value": "amount"}}
    )
    return TaskLog.build(pack(normalise_events(table, config, "-")), ITEMS, folder)


def examples_of(kind: str, rows: Rows = SMALL, folder: str = ".", **settings: Any) -> Examples:
    model, build = BUILT_IN[kind]
    return build(model.model_validate(settings)).examples(make_log(rows, folder), T)


def users_of(examples: Examples, rows: Rows = SMALL) -> list[int]:
    return make_log(rows).users.take(pa.array(examples.users)).to_pylist()  # type: ignore[no-any-return]


def positives_of(examples: Examples, rows: Rows = SMALL) -> list[set[str]]:
    items = make_log(rows).items.take(pa.array(examples.candidates)).to_pylist()
    bounds = zip(examples.offsets[:-1], examples.offsets[1:], strict=True)  # type: ignore[index]
    return [{items[p] for p in examples.positives[lo:hi]} for lo, hi in bounds]  # type: ignore[index]


def test_churn_is_no_event_from_the_cut_off_on() -> None:
    """Users with a past are asked; an event at T itself, or 29.5 days later, keeps them."""
    found = examples_of("churn", days=30)

    assert users_of(found) == [1, 2, 3, 5]
    assert found.targets.tolist() == [0, 1, 0, 1]
    assert set(found.as_of.tolist()) == {T}


def test_churn_of_some_types_and_of_the_recently_active() -> None:
    """Types count before and after T; `active_days` leaves out whoever has long been gone."""
    found = examples_of("churn", days=30, types=["buy"], active_days=10)

    assert users_of(found) == [1, 5]
    assert found.targets.tolist() == [0, 1]


def test_value_is_the_log_of_the_sum_or_the_number() -> None:
    """Sums of the window, never below 0; known users without an event count as 0."""
    assert np.allclose(examples_of("value", days=30).targets, np.log1p([12, 0, 0, 0]))
    counts = examples_of("value", days=30, measure="count").targets
    assert np.allclose(counts, np.log1p([3, 0, 2, 0]))


def test_preference_for_categories() -> None:
    """The most frequent categories before T, and who of the active turns to them after it."""
    found = examples_of("preference", days=30, top=3)

    # before T: x by a, a, b; y by a, a, c; z by c
    assert found.outputs == ("x", "y", "z")
    assert users_of(found) == [1, 3]
    assert found.targets.tolist() == [[1, 1, 1], [1, 1, 1]]


def test_preference_at_a_level_skipping_and_above_the_usual() -> None:
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


def test_preference_for_words_of_titles() -> None:
    """A word of four letters or more, once per title, in any case."""
    found = examples_of("preference", days=30, by="word")

    assert found.outputs == ("lamp", "blue", "mugs")
    assert found.targets.tolist() == [[1, 1, 1], [1, 0, 1]]


def test_propensity_asks_everybody_about_single_items() -> None:
    """All known users, active or not, for the most frequent items."""
    found = examples_of("propensity", days=30, top=1)

    assert found.outputs == ("Red Lamp lamp",)
    assert users_of(found) == [1, 2, 3, 5]
    assert found.targets.tolist() == [[0], [0], [1], [0]]


def test_matching_long_short_and_next() -> None:
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


def test_items_nobody_had_before_cannot_be_ranked() -> None:
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


def test_profiles_come_from_a_table(tmp_path: Path) -> None:
    """Known users with a label, classes in order, rare ones left out."""
    labels = pa.table({"user_id": [5, 1, 2, 3, 4, 9], "sex": ["m", "f", "f", "m", "f", None]})
    pq.write_table(labels, tmp_path / "users.parquet")

    found = examples_of("profile", folder=str(tmp_path), label="sex", min_count=2)

    assert found.outputs == ("f", "m")
    assert users_of(found) == [1, 2, 3, 5]
    assert found.targets.tolist() == [0, 0, 1, 1]


def test_numbers_come_from_a_table(tmp_path: Path) -> None:
    """Regression reads any number, its logarithm where asked for."""
    pq.write_table(
        pa.table({"user_id": [1, 2, 9], "income": [10, 20, 30]}), tmp_path / "users.parquet"
    )

    found = examples_of("regression", folder=str(tmp_path), label="income", log=True)

    assert np.allclose(found.targets, np.log1p([10, 20]))


def test_labels_with_a_time_count_from_the_cut_off_on(tmp_path: Path) -> None:
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
def test_impressions_of_the_window(tmp_path: Path, kind: str) -> None:
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


# -- time ------------------------------------------------------------------------------------------

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


def labels_by_user(kind: str, rows: Rows, **settings: Any) -> dict[tuple[int, int], Any]:
    """Labels by user and as-of time, item names in place of numbers; nothing where none asked."""
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


@pytest.mark.parametrize(("kind", "options"), KINDS)
@given(rows=events)
@settings(max_examples=40, deadline=None)
def test_no_label_event_lies_before_the_cut_off(
    kind: str, options: dict[str, Any], rows: Rows
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
    kind: str, options: dict[str, Any], rows: Rows
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


# -- the file --------------------------------------------------------------------------------------


def config_of(*tasks: dict[str, Any], **changes: Any) -> EvaluationConfig:
    raw = {"name": "small", "events": {"path": "-"}, "cut_off": "2024-03-01", "tasks": list(tasks)}
    return EvaluationConfig.model_validate({**raw, **changes})


def many(users: int = 200) -> Rows:
    """Every second user stays; user u has u % 7 + 1 events before T."""
    rows: Rows = [
        (u, "abcd"[n % 4], -n - 1, "buy", 1.0) for u in range(users) for n in range(u % 7 + 1)
    ]
    return rows + [
        (u, "a", 35, "buy", 1.0) if u % 2 else (u, "b", 1, "buy", 1.0) for u in range(users)
    ]


def test_splits_are_by_hash_of_the_user() -> None:
    """Each user is in one split, the one that the hash of the id says, whatever the task."""
    config = config_of({"name": "gone", "kind": "churn"}, splits={"valid": 0.3, "test": 0.3})
    log = make_log(many())

    made = make_examples(config, load_tasks(config)[0], log)

    share = shares(log.users, 0.3, 0.3, 2025)
    for split, number in (("train", 0), ("valid", 1), ("test", 2)):
        rows = getattr(made, split)
        assert (share[made.examples.users[rows]] == number).all()
        assert len(rows) == (share == number).sum()


def test_splits_are_others_than_those_of_training() -> None:
    """Users that a training validates on are spread over all splits, not all in one."""
    log = make_log(many())
    config = config_of({"name": "gone", "kind": "churn"}, splits={"valid": 0.3, "test": 0.3})
    made = make_examples(config, load_tasks(config)[0], log)

    validated = shares(log.users, TrainingConfig().validation * 4, 0, TrainingConfig().seed) == 1

    for split in ("train", "valid", "test"):
        found = validated[made.examples.users[getattr(made, split)]]
        assert 0.05 < found.mean() < 0.4


def test_cold_start_scores_only_users_with_short_histories() -> None:
    """`max_history` thins the test split; `min_history` and `max_users` thin everything."""
    log = make_log(many())
    one = {"name": "gone", "kind": "churn"}
    config = config_of({**one, "max_history": 2})
    few = config_of({**one, "min_history": 3, "max_users": 50})

    made = make_examples(config, load_tasks(config)[0], log)
    thin = make_examples(few, load_tasks(few)[0], log)

    history = log.users.to_numpy() % 7 + 1
    assert history[made.examples.users[made.test]].max() == 2
    assert history[made.examples.users[made.train]].max() == 7
    assert len(thin.examples) == 50
    assert history[thin.examples.users].min() == 3


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"kind": "chrun"}, "unknown kind 'chrun'; found churn, preference, "),
        (
            {"kind": "churn", "settings": {"dayz": 3}},
            "unknown key `dayz` (the settings of 'churn'",
        ),
        ({"kind": "churn", "settings": {"days": 0}}, "days: Input should be greater than 0"),
    ],
)
def test_a_wrong_task_is_told(task: dict[str, Any], message: str) -> None:
    """Kinds and settings are checked before anything is read, all tasks at once."""
    config = config_of({"name": "one", **task}, {"name": "two", "kind": "none"})

    with pytest.raises(SpecError) as caught:
        load_tasks(config)

    assert message in str(caught.value)
    assert "task 'two': unknown kind 'none'" in str(caught.value)


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"kind": "churn", "settings": {"days": 90}}, "events until 2024-05-30T00:00:00Z, but the"),
        ({"kind": "churn", "settings": {"types": ["by"]}}, "no event of type by; found buy"),
        ({"kind": "churn", "settings": {"days": 36}}, "examples have the same label"),
        ({"kind": "profile", "settings": {"path": "no.parquet"}}, "no such file or folder"),
        ({"kind": "churn", "min_history": 8}, "0 train, 0 valid, 0 test examples"),
    ],
)
def test_a_task_that_the_log_cannot_answer_is_told(task: dict[str, Any], message: str) -> None:
    """A window beyond the log, types nobody uses, one class, no file: one line with the task."""
    config = config_of({"name": "one", **task})

    with pytest.raises(EvaluationError) as caught:
        make_examples(config, load_tasks(config)[0], make_log(many()))

    assert str(caught.value).startswith("task 'one': ")
    assert message in str(caught.value)


def test_all_problems_of_a_file_are_told() -> None:
    """Unknown keys, names twice, no cut-off, fractions out of range."""
    for changes, message in [
        ({"tasks": [{"name": "a", "kind": "churn"}] * 2}, "a stands more than once"),
        ({"cut_off": None}, "a without a cut-off"),
        ({"label_fractions": [0]}, "wanted shares in (0, 1]"),
        ({"splits": {"valid": 0.5, "test": 0.5}}, "must leave users to train on"),
    ]:
        with pytest.raises(ValidationError) as caught:
            config_of({"name": "a", "kind": "churn"}, **changes)
        assert message in str(caught.value)


class Stub:
    """A task of a plugin, with one thing wrong."""

    problem = "binary"
    metrics = ("auc",)

    def __init__(self, change: Callable[[Examples], Any]) -> None:
        self.change = change

    def times(self, cut_off: int) -> tuple[int, ...]:
        return (cut_off,)

    def horizon(self, cut_off: int) -> int:
        return cut_off

    def examples(self, log: TaskLog, cut_off: int) -> Examples:
        n = len(log.users)
        targets = (np.arange(n) % 2).astype(np.float32)
        good = Examples(np.arange(n), np.full(n, cut_off), targets)
        return self.change(good)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e: Examples(e.users, e.as_of - 1, e.targets), "as_of must hold one of the task's"),
        (lambda e: Examples(e.users + 1, e.as_of, e.targets), "users must be rows"),
        (lambda e: Examples(e.users, e.as_of, e.targets[:3]), "targets are (3,)"),
        (lambda e: Examples(e.users, e.as_of, e.targets * np.nan), "targets are not all finite"),
        (lambda e: 1 / 0, "failed: ZeroDivisionError: division by zero"),
    ],
)
def test_a_plugin_task_that_breaks_the_contract_is_named(
    change: Callable[[Examples], Any], message: str
) -> None:
    """What a task returns is checked; the line names task and distribution."""
    config = config_of({"name": "one", "kind": "acme"})
    loaded = LoadedTask(config.tasks[0], Stub(change), T, (T,), "acme from unirep-feast-acme 1.0")  # type: ignore[arg-type]

    with pytest.raises(PluginError) as caught:
        make_examples(config, loaded, make_log(many()))

    assert "task 'one' of acme from unirep-feast-acme 1.0" in str(caught.value)
    assert message in str(caught.value)
