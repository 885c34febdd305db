"""Made-up vectors and targets that they tell, for every kind of problem."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from unirep_feast.evaluation.config import EvaluationConfig
from unirep_feast.evaluation.examples import LoadedTask, SplitExamples
from unirep_feast.evaluation.probe_data import ProbeData
from unirep_feast.task import Examples, Problem

CONFIG = EvaluationConfig.model_validate(
    {
        "name": "made",
        "events": {"path": "-"},
        "cut_off": "2024-01-01",
        "seeds": 2,
        "label_fractions": [1.0, 0.25],
        "probes": ["logistic", "mlp", "boosting", "neighbors", "direct", "index"],
        "mlp": {"epochs": 15},
        "boosting": {"rounds": 40},
        "tasks": [{"name": "one", "kind": "churn"}],
    }
)


@pytest.fixture(scope="session", name="CONFIG")
def _config() -> EvaluationConfig:
    return CONFIG


class Fixed:
    """A task that is there already."""

    def __init__(self, problem: Problem, metrics: tuple[str, ...]) -> None:
        self.problem, self.metrics = problem, metrics


@pytest.fixture(scope="session")
def made() -> Callable[..., SplitExamples]:
    def split(problem: Problem, metrics: tuple[str, ...], examples: Examples) -> SplitExamples:
        n = len(examples)
        loaded = LoadedTask(CONFIG.tasks[0], Fixed(problem, metrics), 0, (0,), problem)  # type: ignore[arg-type]
        rows = np.arange(n)
        return SplitExamples(
            loaded, examples, rows[: n // 2], rows[n // 2 : n * 3 // 4], rows[n * 3 // 4 :]
        )

    return split


@pytest.fixture(scope="session")
def problem_of(
    made: Callable[..., SplitExamples],
) -> Callable[..., tuple[SplitExamples, np.ndarray]]:
    """Eight numbers per user, the first three of which tell the target but for some noise."""

    def make(problem: Problem, n: int = 600, seed: int = 0) -> tuple[SplitExamples, np.ndarray]:
        draw = np.random.default_rng(seed)
        features = draw.normal(size=(n, 8)).astype(np.float32)
        told = features[:, :3] + 0.3 * draw.normal(size=(n, 3))
        targets: np.ndarray = told[:, 0]
        metrics: tuple[str, ...] = ("r2", "mae")
        outputs: tuple[str, ...] = ()
        if problem == "binary":
            targets, metrics = told[:, 0] > 0, ("auc", "ap")
        elif problem == "multilabel":
            targets, metrics, outputs = told > 0.5, ("auc",), ("a", "b", "c")
        elif problem == "multiclass":
            targets, metrics, outputs = told.argmax(1), ("auc", "accuracy"), ("a", "b", "c")
        users = np.arange(n)
        examples = Examples(users, np.zeros(n, np.int64), targets.astype(np.float32), outputs)
        return made(problem, metrics, examples), features

    return make


@pytest.fixture(scope="session")
def data_of() -> Callable[[SplitExamples, np.ndarray], ProbeData]:
    def probed(split: SplitExamples, features: np.ndarray) -> ProbeData:
        problem = split.loaded.task.problem
        return ProbeData(problem, features, split.examples, split.train, split.valid, split.test)

    return probed
