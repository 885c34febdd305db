"""Probes on made-up vectors: they learn what is there, and nothing where there is nothing."""

from __future__ import annotations

import builtins
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from unirep_feast.errors import EvaluationError
from unirep_feast.evaluation.boosting import fit_boosting, load_lightgbm
from unirep_feast.evaluation.cells import Wanted, missing_cells, wanted_cells
from unirep_feast.evaluation.chance import chance
from unirep_feast.evaluation.computing import About, compute
from unirep_feast.evaluation.config import EvaluationConfig
from unirep_feast.evaluation.examples import LoadedTask, SplitExamples, take
from unirep_feast.evaluation.heads import fit_logistic, fit_mlp
from unirep_feast.evaluation.leaderboard import leaderboard, pairs
from unirep_feast.evaluation.metrics import whole
from unirep_feast.evaluation.probe_data import ProbeData
from unirep_feast.evaluation.ranking import (
    ItemSpace,
    by_items,
    by_neighbors,
    by_popularity,
    ranks_by_index,
    ranks_of,
)
from unirep_feast.evaluation.results import Cells, ResultFolder, read_csv, to_csv
from unirep_feast.evaluation.subject import Subject
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
ABOUT = About("made", "rep", "run", 0, False)


class Fixed:
    """A task that is there already."""

    def __init__(self, problem: Problem, metrics: tuple[str, ...]) -> None:
        self.problem, self.metrics = problem, metrics


def made(problem: Problem, metrics: tuple[str, ...], examples: Examples) -> SplitExamples:
    n = len(examples)
    loaded = LoadedTask(CONFIG.tasks[0], Fixed(problem, metrics), 0, (0,), problem)  # type: ignore[arg-type]
    rows = np.arange(n)
    return SplitExamples(
        loaded, examples, rows[: n // 2], rows[n // 2 : n * 3 // 4], rows[n * 3 // 4 :]
    )


def problem_of(problem: Problem, n: int = 600, seed: int = 0) -> tuple[SplitExamples, np.ndarray]:
    """Eight numbers per user, the first three of which tell the target but for some noise."""
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


def data_of(split: SplitExamples, features: np.ndarray) -> ProbeData:
    problem = split.loaded.task.problem
    return ProbeData(problem, features, split.examples, split.train, split.valid, split.test)


PROBLEMS: list[tuple[Problem, float]] = [
    ("binary", 0.9),
    ("multilabel", 0.9),
    ("multiclass", 0.85),
    ("regression", 0.5),
]


@pytest.mark.parametrize(("problem", "wanted"), PROBLEMS)
def test_every_probe_learns_what_vectors_tell(problem: Problem, wanted: float) -> None:
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


def test_the_logistic_probe_is_scikit_learns() -> None:
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
def test_on_shuffled_labels_every_probe_sits_at_chance(problem: Problem, wanted: float) -> None:
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


def test_a_share_of_the_labels_holds_every_smaller_one() -> None:
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


def test_users_without_a_vector_are_told_apart_from_zeros() -> None:
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


def test_cells_of_a_task() -> None:
    """Deterministic probes run once on all labels; rankings have probes of their own."""
    binary, _ = problem_of("binary")
    keys = [cell.key for cell in wanted_cells(CONFIG, binary, True, control=True)]

    assert keys == [
        *("logistic|1|0", "mlp|1|0", "boosting|1|0", "mlp|1|1", "boosting|1|1"),
        *("logistic|0.25|0", "mlp|0.25|0", "boosting|0.25|0"),
        *("logistic|0.25|1", "mlp|0.25|1", "boosting|0.25|1"),
        *("logistic|1|0|control", "mlp|1|0|control", "boosting|1|0|control"),
        *("logistic|1|1|control", "mlp|1|1|control", "boosting|1|1|control"),
    ]
    ranking, _, _ = ranking_of()
    with_items = {cell.probe for cell in wanted_cells(CONFIG, ranking, True)}
    without = {cell.probe for cell in wanted_cells(CONFIG, ranking, False)}
    assert with_items == {"mlp", "neighbors", "direct", "index"}
    assert without == {"mlp", "neighbors"}
    assert "fine_tune" not in {cell.probe for cell in wanted_cells(CONFIG, binary, True)}


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


# -- rankings --------------------------------------------------------------------------------------


def ranking_of(n: int = 200, m: int = 60) -> tuple[SplitExamples, np.ndarray, ItemSpace]:
    """Users whose positives are the three items nearest to their vector."""
    draw = np.random.default_rng(5)
    features = draw.normal(size=(n, 4)).astype(np.float32)
    items = draw.normal(size=(m, 4)).astype(np.float32)
    space = ItemSpace(items, np.ones(m, bool), "cosine", 1)
    nearest = np.argsort(-space.score(features), axis=1)[:, :3]
    examples = Examples(
        np.arange(n),
        np.zeros(n, np.int64),
        np.empty(0, np.float32),
        candidates=np.arange(m),
        offsets=np.arange(n + 1) * 3,
        positives=nearest.ravel(),
        popularity=np.bincount(nearest[: n // 2].ravel(), minlength=m).astype(np.float32),
    )
    return made("ranking", ("recall@5", "mrr@5"), examples), features, space


def test_ranks_are_counted_among_all_candidates() -> None:
    """Beside a loop; equal scores stand by popularity, then by place; unknown items last."""
    split, features, space = ranking_of()
    scores = space.score(features).round(1)
    popularity = split.examples.popularity
    assert popularity is not None

    import torch

    found = ranks_of(lambda rows: torch.from_numpy(scores[rows]), split.examples, split.test)

    expected = []
    for row in split.test:
        order = sorted(range(60), key=lambda i: (-scores[row, i], -popularity[i], i))
        wanted = split.examples.positives[row * 3 : row * 3 + 3]  # type: ignore[index]
        expected += [order.index(item) for item in wanted]
    assert found.tolist() == expected
    hidden = replace(space, known=np.arange(60) > 0)
    assert (hidden.score(features)[:, 0] == -np.inf).all()
    popular = ranks_of(by_popularity(split.examples), split.examples, split.test)
    order = sorted(range(60), key=lambda i: (-popularity[i], i))
    positives = split.examples.positives[split.test[0] * 3 :]  # type: ignore[index]
    assert popular.tolist() == [order.index(item) for item in positives]


@pytest.mark.parametrize("metric", ["cosine", "inner_product", "l2"])
def test_the_best_of_a_users_vectors_counts(metric: Any) -> None:
    """Scores over K vectors are the highest, beside the exact search of `unirep similar`."""
    from unirep_feast.index import exact_search

    draw = np.random.default_rng(6)
    users = draw.normal(size=(7, 3 * 4)).astype(np.float32)
    items = draw.normal(size=(20, 4)).astype(np.float32)
    space = ItemSpace(items, np.ones(20, bool), metric, 3)

    scores = space.score(users)

    found = exact_search(items[:, None], users.reshape(7, 3, 4), 20, metric)
    for row, hits in enumerate(found):
        assert np.argsort(-scores[row], kind="stable").tolist() == hits.rows.tolist()


def test_direct_index_and_neighbors_find_what_is_near() -> None:
    """Item vectors find all; an index nearly all; neighbors far more than popularity."""
    split, features, space = ranking_of(600)
    data = data_of(split, features)

    direct = ranks_of(by_items(features, space), split.examples, split.test)
    index = ranks_by_index(features, space, split.examples, split.test, 5)
    neighbors = ranks_of(by_neighbors(data, 10), split.examples, split.test)
    popular = ranks_of(by_popularity(split.examples), split.examples, split.test)

    assert direct.max() == 2
    assert (index < 5).mean() > 0.9
    assert (neighbors < 5).mean() > 2 * (popular < 5).mean()


def test_ranking_cells_and_their_control() -> None:
    """Trained and untrained probes; the control falls to what is popular."""
    split, features, space = ranking_of(400)
    subject = Subject(features, np.ones(400, bool), space, None)
    cells = Cells("key")
    users = pa.array(np.arange(400))
    wanted = wanted_cells(CONFIG, split, True, control=True)

    for _ in compute(CONFIG, split, subject, users, wanted, cells, ABOUT):
        pass

    values = {
        key: next(row.value for row in rows if row.split == "test" and row.primary)
        for key, rows in cells.rows.items()
    }
    level = chance(split, "recall@5")
    assert values["direct|1|0"] == 1
    assert values["neighbors|1|0"] > level + 0.2
    assert values["mlp|1|0"] > level + 0.2
    for key in ("direct|1|0|control", "neighbors|1|0|control", "mlp|1|0|control"):
        assert values[key] < level + 0.08


def test_impressions_are_scored_by_what_was_shown() -> None:
    """Clicks on items near the user: item vectors tell by themselves, and tell the probes."""
    draw = np.random.default_rng(8)
    features = np.repeat(draw.normal(size=(300, 4)), 5, axis=0).astype(np.float32)
    items = draw.normal(size=(50, 4)).astype(np.float32)
    shown = draw.integers(0, 50, len(features))
    near = (features * items[shown]).sum(1)
    examples = Examples(
        np.repeat(np.arange(300), 5),
        np.zeros(1500, np.int64),
        (near > 1).astype(np.float32),
        items=shown,
        groups=np.repeat(np.arange(300), 5),
        context=np.zeros((1500, 1), np.float32),
    )
    space = ItemSpace(items, np.ones(50, bool), "inner_product", 1)
    users = pa.array(np.arange(300))
    for metrics in (("auc", "ap"), ("auc_per_group", "ndcg@10_per_group")):
        split = made("impressions", metrics, examples)
        probes = [Wanted("direct", 1, 0), Wanted("boosting", 1, 0), Wanted("direct", 1, 0, True)]
        with_items, without = Cells("key"), Cells("key")
        subject = Subject(features, np.ones(1500, bool), space, None)
        for _ in compute(CONFIG, split, subject, users, probes, with_items, ABOUT):
            pass
        bare = replace(subject, items=None)
        for _ in compute(CONFIG, split, bare, users, probes[1:2], without, ABOUT):
            pass

        values = {
            key: next(row.value for row in rows if row.split == "test" and row.primary)
            for key, rows in with_items.rows.items()
        }
        assert values["direct|1|0"] == 1
        assert values["boosting|1|0"] > 0.95
        assert abs(values["direct|1|0|control"] - 0.5) < 0.12
        row = next(r for r in without.rows["boosting|1|0"] if r.split == "test" and r.primary)
        assert row.value < 0.85  # who clicks much, but not what


def test_rows_of_examples_are_taken_with_their_positives() -> None:
    """Keeping some users keeps their lists of positives."""
    split, _, _ = ranking_of(10)

    kept = take(split.examples, np.array([1, 4]))

    assert kept.users.tolist() == [1, 4]
    wanted = split.examples.positives.reshape(10, 3)[[1, 4]].ravel()  # type: ignore[union-attr]
    assert kept.positives.tolist() == wanted.tolist()  # type: ignore[union-attr]
    assert kept.offsets.tolist() == [0, 3, 6]  # type: ignore[union-attr]


# -- results ---------------------------------------------------------------------------------------


def cells_of(problem: Problem = "binary", noise: float = 0.0, name: str = "rep") -> Cells:
    split, features = problem_of(problem)
    draw = np.random.default_rng(9)
    features = features + noise * draw.normal(size=features.shape).astype(np.float32)
    subject = Subject(features, np.ones(len(features), bool), None, None)
    cells = Cells("key")
    about = replace(ABOUT, representation=name)
    users = pa.array(np.arange(len(features)))
    wanted = [Wanted("logistic", 1, 0), Wanted("mlp", 1, 0), Wanted("mlp", 1, 1)]
    for _ in compute(CONFIG, split, subject, users, wanted, cells, about):
        pass
    return cells


def test_cells_are_read_back_as_they_were(tmp_path: Path) -> None:
    """Rows and predictions; under another key nothing is there; a damaged file is told."""
    folder, cells = ResultFolder(tmp_path), cells_of()
    folder.save("rep", "run", "one", cells)

    again = folder.cells("rep", "run", "one", "key")

    assert again.rows == cells.rows
    assert set(again.predictions) == set(cells.predictions)
    for name, values in cells.predictions.items():
        assert np.array_equal(again.predictions[name], values)
    assert again.ids.tolist() == cells.ids.tolist()
    assert missing_cells(again, [Wanted("mlp", 1, 1), Wanted("mlp", 1, 2)]) == [Wanted("mlp", 1, 2)]
    assert folder.cells("rep", "run", "one", "other").rows == {}
    (tmp_path / "results/rep/run/one.npz").unlink()
    assert folder.cells("rep", "run", "one", "key").rows == {}
    folder.save("rep", "run", "one", cells)
    (tmp_path / "results/rep/run/one.json").write_text("{")
    with pytest.raises(EvaluationError, match="remove it, and evaluate again"):
        folder.cells("rep", "run", "one", "key")


def test_rows_survive_csv() -> None:
    """Every column with its type."""
    rows = [row for found in cells_of().rows.values() for row in found]

    assert read_csv(to_csv(rows)) == rows


def test_a_leaderboard_chooses_probes_by_validation_and_says_who_is_better() -> None:
    """Clean vectors lead, very noisy ones are significantly worse, nearly clean ones are not."""
    found = {name: cells_of(noise=noise, name=name) for name, noise in
             (("noisy", 2.0), ("clean", 0.0), ("near", 0.05))}  # fmt: skip
    rows = [row for cells in found.values() for one in cells.rows.values() for row in one]

    all_cells = {(name, "run", "one"): cells for name, cells in found.items()}
    entries = leaderboard(rows, all_cells)

    by_name = {entry["representation"]: entry for entry in entries}
    assert entries[-1]["representation"] == "noisy"
    assert by_name["noisy"]["p_value"] < 0.01
    assert not by_name["noisy"]["best"]
    assert by_name["near"]["best"] and by_name["clean"]["best"]
    for name, entry in by_name.items():
        valid = [r for r in rows if r.representation == name and r.split == "valid" and r.primary]
        means = {p: np.mean([r.value for r in valid if r.probe == p]) for p in ("logistic", "mlp")}
        assert entry["probe"] == max(means, key=lambda probe: means[probe])
        tested = [
            row.value
            for row in rows
            if (row.representation, row.split, row.probe) == (name, "test", entry["probe"])
            and row.primary
        ]
        assert entry["mean"] == pytest.approx(np.mean(tested))
        assert entry["n"] == len(tested)
    compared = pairs(rows, all_cells, entries)
    ranked = [entry["representation"] for entry in entries]
    assert [(one["first"], one["second"]) for one in compared] == [
        (ranked[0], ranked[1]),
        (ranked[0], "noisy"),
        (ranked[1], "noisy"),
    ]
    assert compared[0]["p_value"] >= 0.05 > compared[1]["p_value"] == by_name["noisy"]["p_value"]
    assert compared[1]["difference"] == pytest.approx(entries[0]["mean"] - by_name["noisy"]["mean"])
