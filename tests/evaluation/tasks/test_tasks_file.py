"""Tasks of a file: how their users are split, and what is refused, all at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from unirep_feast.config import TrainingConfig
from unirep_feast.errors import EvaluationError, PluginError, SpecError
from unirep_feast.evaluation.config import EvaluationConfig
from unirep_feast.evaluation.examples import LoadedTask, load_tasks, make_examples
from unirep_feast.instants import parse_instant
from unirep_feast.splits import shares
from unirep_feast.task import Examples, TaskLog

T = parse_instant("2024-03-01")

#: user, item, days from T, type, value
Rows = list[tuple[int, str, float, str, float]]


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


def test_splits_are_by_hash_of_the_user(make_log: Any) -> None:
    """Each user is in one split, the one that the hash of the id says, whatever the task."""
    config = config_of({"name": "gone", "kind": "churn"}, splits={"valid": 0.3, "test": 0.3})
    log = make_log(many())

    made = make_examples(config, load_tasks(config)[0], log)

    share = shares(log.users, 0.3, 0.3, 2025)
    for split, number in (("train", 0), ("valid", 1), ("test", 2)):
        rows = getattr(made, split)
        assert (share[made.examples.users[rows]] == number).all()
        assert len(rows) == (share == number).sum()


def test_splits_are_others_than_those_of_training(make_log: Any) -> None:
    """Users that a training validates on are spread over all splits, not all in one."""
    log = make_log(many())
    config = config_of({"name": "gone", "kind": "churn"}, splits={"valid": 0.3, "test": 0.3})
    made = make_examples(config, load_tasks(config)[0], log)

    validated = shares(log.users, TrainingConfig().validation * 4, 0, TrainingConfig().seed) == 1

    for split in ("train", "valid", "test"):
        found = validated[made.examples.users[getattr(made, split)]]
        assert 0.05 < found.mean() < 0.4


def test_cold_start_scores_only_users_with_short_histories(make_log: Any) -> None:
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
def test_a_task_that_the_log_cannot_answer_is_told(
    task: dict[str, Any], message: str, make_log: Any
) -> None:
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
    change: Callable[[Examples], Any], message: str, make_log: Any
) -> None:
    """What a task returns is checked; the line names task and distribution."""
    config = config_of({"name": "one", "kind": "acme"})
    loaded = LoadedTask(config.tasks[0], Stub(change), T, (T,), "acme from unirep-feast-acme 1.0")  # type: ignore[arg-type]

    with pytest.raises(PluginError) as caught:
        make_examples(config, loaded, make_log(many()))

    assert "task 'one' of acme from unirep-feast-acme 1.0" in str(caught.value)
    assert message in str(caught.value)
