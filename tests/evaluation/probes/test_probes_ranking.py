"""Probes that rank made-up items: what is near stands first, and the control falls to chance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from unirep_feast.evaluation.cells import Wanted, wanted_cells
from unirep_feast.evaluation.chance import chance
from unirep_feast.evaluation.computing import About, compute
from unirep_feast.evaluation.config import EvaluationConfig
from unirep_feast.evaluation.examples import SplitExamples, take
from unirep_feast.evaluation.ranking import (
    ItemSpace,
    by_items,
    by_neighbors,
    by_popularity,
    ranks_by_index,
    ranks_of,
)
from unirep_feast.evaluation.results import Cells
from unirep_feast.evaluation.subject import Subject
from unirep_feast.task import Examples

ABOUT = About("made", "rep", "run", 0, False)


@pytest.fixture
def ranking_of(made: Any) -> Callable[..., tuple[SplitExamples, np.ndarray, ItemSpace]]:
    """Users whose positives are the three items nearest to their vector."""

    def rank(n: int = 200, m: int = 60) -> tuple[SplitExamples, np.ndarray, ItemSpace]:
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

    return rank


def test_cells_of_a_task(CONFIG: EvaluationConfig, problem_of: Any, ranking_of: Any) -> None:
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


@pytest.mark.parametrize("few", [0, 16])
def test_ranks_are_counted_among_all_candidates(
    ranking_of: Any, monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    """Beside a loop, counted or sorted; equal scores by popularity, then place; unknown last."""
    monkeypatch.setattr("unirep_feast.evaluation.ranking._FEW_POSITIVES", few)
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


def test_direct_index_and_neighbors_find_what_is_near(data_of: Any, ranking_of: Any) -> None:
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


def test_ranking_cells_and_their_control(CONFIG: EvaluationConfig, ranking_of: Any) -> None:
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


def test_impressions_are_scored_by_what_was_shown(CONFIG: EvaluationConfig, made: Any) -> None:
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


def test_rows_of_examples_are_taken_with_their_positives(ranking_of: Any) -> None:
    """Keeping some users keeps their lists of positives."""
    split, _, _ = ranking_of(10)

    kept = take(split.examples, np.array([1, 4]))

    assert kept.users.tolist() == [1, 4]
    wanted = split.examples.positives.reshape(10, 3)[[1, 4]].ravel()  # type: ignore[union-attr]
    assert kept.positives.tolist() == wanted.tolist()  # type: ignore[union-attr]
    assert kept.offsets.tolist() == [0, 3, 6]  # type: ignore[union-attr]
