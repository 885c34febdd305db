"""Metrics beside scikit-learn, scipy and plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from sklearn import metrics as reference

from unirep_feast.errors import EvaluationError
from unirep_feast.evaluation.metrics import (
    auc_columns,
    check_metric,
    higher_is_better,
    per_row,
    ranked_values,
    whole,
)
from unirep_feast.evaluation.significance import p_value, resampled

pairs = st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=2, max_size=40)


@given(pairs)
@settings(deadline=None)
def test_auc_and_average_precision_are_scikit_learns(rows: list[tuple[bool, int]]) -> None:
    """With ties, for any labels of which there are two kinds."""
    targets = np.array([row[0] for row in rows], np.float32)
    scores = np.array([row[1] for row in rows], np.float32)
    if targets.min() == targets.max():
        assert math.isnan(whole("binary", "auc", targets, scores))
        return

    auc = whole("binary", "auc", targets, scores)
    ap = whole("binary", "ap", targets, scores)

    assert auc == pytest.approx(reference.roc_auc_score(targets, scores))
    assert ap == pytest.approx(reference.average_precision_score(targets, scores))


def test_several_labels_are_averaged_without_those_of_one_kind() -> None:
    """A column with only positives has no AUC and takes no part in the mean."""
    draw = np.random.default_rng(0)
    targets = np.column_stack([draw.integers(0, 2, (30, 2)), np.ones(30)]).astype(np.float32)
    scores = draw.normal(size=(30, 3)).astype(np.float32)

    columns = auc_columns(targets, scores)
    mean = whole("multilabel", "auc", targets, scores)

    assert np.isnan(columns[2])
    wanted = reference.roc_auc_score(targets[:, :2], scores[:, :2])
    assert mean == pytest.approx(wanted)


def test_classes_are_scored_each_against_the_others() -> None:
    """Macro one-vs-rest AUC and accuracy of class probabilities."""
    draw = np.random.default_rng(1)
    targets = draw.integers(0, 3, 50).astype(np.float32)
    scores = draw.dirichlet(np.ones(3), 50).astype(np.float32)
    scores /= scores.sum(1, keepdims=True)

    auc = whole("multiclass", "auc", targets, scores)

    one_hot = np.eye(3)[targets.astype(int)]
    assert auc == pytest.approx(reference.roc_auc_score(one_hot, scores), abs=1e-6)
    accuracy = whole("multiclass", "accuracy", targets, scores)
    assert accuracy == pytest.approx(reference.accuracy_score(targets, scores.argmax(1)))


def test_numbers_are_scored_as_elsewhere() -> None:
    """R², mean absolute error, Spearman's rank correlation with ties."""
    draw = np.random.default_rng(2)
    targets = draw.integers(0, 5, 40).astype(np.float32)
    scores = (targets + draw.normal(size=40)).round().astype(np.float32)

    assert whole("regression", "r2", targets, scores) == pytest.approx(
        reference.r2_score(targets, scores)
    )
    assert whole("regression", "mae", targets, scores) == pytest.approx(
        reference.mean_absolute_error(targets, scores)
    )
    assert whole("regression", "spearman", targets, scores) == pytest.approx(
        spearmanr(targets, scores).statistic
    )
    assert not higher_is_better("mae")
    assert higher_is_better("r2")


@given(
    st.lists(
        st.tuples(st.integers(0, 4), st.booleans(), st.integers(0, 3)), min_size=1, max_size=40
    )
)
@settings(deadline=None)
def test_metrics_within_groups_are_a_loop_over_groups(rows: list[tuple[int, bool, int]]) -> None:
    """AUC and nDCG@10 of each impression with clicks and others, at its first row."""
    groups = np.array([row[0] for row in rows])
    targets = np.array([row[1] for row in rows], np.float32)
    scores = np.array([row[2] for row in rows], np.float32)

    auc = per_row("auc_per_group", targets, scores, groups)
    ndcg = per_row("ndcg@10_per_group", targets, scores, groups)

    for group in set(groups.tolist()):
        mine = np.flatnonzero(groups == group)
        assert np.isnan(auc[mine[1:]]).all()
        wanted = targets[mine]
        if wanted.min() == wanted.max():
            assert np.isnan(auc[mine[0]])
            continue
        assert auc[mine[0]] == pytest.approx(reference.roc_auc_score(wanted, scores[mine]))
        order = sorted(range(len(mine)), key=lambda i: (-scores[mine][i], i))
        gain = sum(wanted[i] / math.log2(place + 2) for place, i in enumerate(order[:10]))
        best = sum(1 / math.log2(place + 2) for place in range(min(int(wanted.sum()), 10)))
        assert ndcg[mine[0]] == pytest.approx(gain / best)


@given(st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=8, unique=True), min_size=1))
@settings(deadline=None)
def test_rankings_are_a_loop_over_users(lists: list[list[int]]) -> None:
    """recall@M, mrr@M and ndcg@M from the ranks of each user's positives."""
    ranks = np.array([rank for ranked in lists for rank in ranked])
    offsets = np.concatenate(([0], np.cumsum([len(ranked) for ranked in lists])))

    recall = ranked_values("recall@10", ranks, offsets)
    mrr = ranked_values("mrr@10", ranks, offsets)
    ndcg = ranked_values("ndcg@10", ranks, offsets)

    for place, ranked in enumerate(lists):
        hits = [rank for rank in ranked if rank < 10]
        best = sum(1 / math.log2(n + 2) for n in range(min(len(ranked), 10)))
        assert recall[place] == pytest.approx(len(hits) / len(ranked))
        assert mrr[place] == pytest.approx(max((1 / (rank + 1) for rank in hits), default=0))
        assert ndcg[place] == pytest.approx(sum(1 / math.log2(rank + 2) for rank in hits) / best)


@pytest.mark.parametrize(
    ("problem", "metric"), [("binary", "r2"), ("ranking", "auc"), ("ranking", "recall@0")]
)
def test_a_metric_of_another_problem_is_refused(problem: str, metric: str) -> None:
    """The line lists those that fit."""
    with pytest.raises(EvaluationError, match="wanted "):
        check_metric(problem, metric)  # type: ignore[arg-type]


def test_bootstrap_draws_whole_users_and_the_same_for_all() -> None:
    """Rows of one user come together; two metrics on the same users see the same draws."""
    users = np.array([7, 7, 7, 8, 9])
    seen: list[np.ndarray] = []

    def metric(rows: np.ndarray) -> float:
        seen.append(rows)
        return float(len(rows))

    first, second = resampled(users, metric), resampled(users, lambda rows: float(len(rows)))

    for rows in seen:
        counts = np.bincount(rows, minlength=5)
        assert counts[0] == counts[1] == counts[2]
        assert counts[0] + counts[3] + counts[4] == 3
    assert np.array_equal(first, second)


def test_p_values_tell_a_difference_from_none() -> None:
    """A constant gap is significant, one drowned in noise is not, none at all is 1."""
    draw = np.random.default_rng(3)
    base, noise = draw.normal(size=200), draw.normal(size=200)

    assert p_value(base + 1, base + 0.01 * noise, 1.0) < 1e-6
    assert p_value(base, base + noise, 0.1) > 0.5
    assert p_value(base, base, 0.0) == 1.0
