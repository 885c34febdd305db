"""Probes on made-up vectors: they learn what is there, and nothing where there is nothing."""

from __future__ import annotations

import builtins
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from unirep_feast.errors import EvaluationError
from unirep_feast.evaluation.boosting import fit_boosting, load_lightgbm
from unirep_feast.evaluation.cells import Wanted, wanted_cells
from unirep_feast.evaluation.chance import chance
from unirep_feast.evaluation.computing import About, compute
from unirep_feast.evaluation.config import EvaluationConfig
from unirep_feast.evaluation.heads import fit_logistic, fit_mlp
from unirep_feast.evaluation.metrics import whole
from unirep_feast.evaluation.results import Cells
from unirep_feast.evaluation.subject import Subject
from unirep_feast.task import Problem

ABOUT = About("made", "rep", "run", 0, False)

PROBLEMS: list[tuple[Problem, float]] = [
    ("binary", 0.9),
    ("multilabel", 0.9),
    ("multiclass", 0.85),
    ("regression", 0.5),
]


@pytest.mark.parametrize(("problem", "wanted"), PROBLEMS)
def test_every_probe_learns_what_vectors_tell(
    problem: Problem, wanted: float, CONFIG: EvaluationConfig, problem_of: Any, data_of: Any
) -> None:
    """AUC, or R² of numbers, of users that no probe has seen; a probe repeats to the bit."""
    split, features = problem_of(problem)
    data, metric = data_of(split, features), split.loaded.task.metrics[0]

    for fit in (
        lambda: fit_logistic(data, CONFIG.logistic),
        lambda: fit_mlp(data, CONFIG.mlp.model_copy(update={"epochs": 60}), 0),
        lambda: fit_boosting(data, CONFIG.boosting, 0),
    ):
        outputs = fit()

        truth = split.examples.targets[split.test]
        assert whole(problem, metric, truth, outputs[split.test]) > wanted
        assert np.array_equal(outputs, fit())


def test_the_logistic_probe_is_scikit_learns(
    CONFIG: EvaluationConfig, problem_of: Any, data_of: Any
) -> None:
    """With one penalty, the same coefficients up to the stopping rule."""
    from sklearn.linear_model import LogisticRegression

    split, features = problem_of("binary")
    data = data_of(split, features)
    config = CONFIG.logistic.model_copy(update={"penalties": (1e-2,), "iterations": 500})

    ours = fit_logistic(data, config)

    # loss / n + 0.01 |w|² is, by n and halves, |w|² / 2 + C * loss with C = 1 / (2 * 0.01 * n)
    model = LogisticRegression(C=1 / (2 * 0.01 * len(data.train)), tol=1e-8, max_iter=1000)
    model.fit(data.scaled[data.train], data.targets[data.train])
    assert np.allclose(ours, model.decision_function(data.scaled), atol=2e-2)


@pytest.mark.parametrize(("problem", "wanted"), PROBLEMS)
def test_on_shuffled_labels_every_probe_sits_at_chance(
    problem: Problem, wanted: float, CONFIG: EvaluationConfig, problem_of: Any
) -> None:
    """The built-in control: labels dealt out anew leave nothing to learn, whatever the probe."""
    found: dict[str, list[float]] = {}
    for seed in range(4):
        split, features = problem_of(problem, seed=seed)
        subject = Subject(features, np.ones(len(features), bool), None, None)
        cells = Cells("key")
        wanted_control = [
            cell for cell in wanted_cells(CONFIG, split, False, control=True) if cell.control
        ]
        users = pa.array(np.arange(len(features)))
        for _ in compute(CONFIG, split, subject, users, wanted_control, cells, ABOUT):
            pass
        for rows in cells.rows.values():
            for row in rows:
                if row.split == "test" and row.primary:
                    assert row.control
                    found.setdefault(row.probe, []).append(row.value)

    level = chance(split, split.loaded.task.metrics[0])
    assert set(found) == {"logistic", "mlp", "boosting"}
    for values in found.values():
        assert abs(np.mean(values) - level) < 0.12 < wanted - level


def test_a_share_of_the_labels_holds_every_smaller_one(
    CONFIG: EvaluationConfig, problem_of: Any
) -> None:
    """Rows tell how many labels were seen; users of a smaller share are among a larger's."""
    split, features = problem_of("binary")
    subject = Subject(features, np.ones(len(features), bool), None, None)
    cells = Cells("key")
    wanted = [Wanted("logistic", share, 0) for share in (1.0, 0.5, 0.25)]
    users = pa.array(np.arange(len(features)))

    for _ in compute(CONFIG, split, subject, users, wanted, cells, ABOUT):
        pass

    sizes = [cells.rows[cell.key][0].train for cell in wanted]
    assert sizes[0] == 300
    assert 110 < sizes[1] < 190
    assert 50 < sizes[2] < 100
    values = [next(r.value for r in cells.rows[c.key] if r.split == "test") for c in wanted]
    assert values[0] >= values[2] - 0.02


def test_users_without_a_vector_are_told_apart_from_zeros(
    CONFIG: EvaluationConfig, problem_of: Any
) -> None:
    """One more column says who has none, so that a probe can use it."""
    split, features = problem_of("binary")
    known = np.ones(len(features), bool)
    known[split.examples.targets > 0] = False  # whoever has no vector is positive
    subject = Subject(features * 0, known, None, None)
    cells = Cells("key")
    users = pa.array(np.arange(len(features)))

    for _ in compute(CONFIG, split, subject, users, [Wanted("logistic", 1, 0)], cells, ABOUT):
        pass

    row = next(row for row in cells.rows["logistic|1|0"] if row.split == "test" and row.primary)
    assert row.value == pytest.approx(1)


def test_boosting_without_lightgbm_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing extra is one line, not a traceback."""
    real = builtins.__import__

    def missing(name: str, *rest: Any) -> Any:
        if name == "lightgbm":
            raise ImportError("No module named 'lightgbm'")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)

    with pytest.raises(EvaluationError, match=r"pip install 'unirep-feast\[evaluation\]'"):
        load_lightgbm()
