"""Exact search, and the Annoy index against it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unirep_feast.errors import SearchError
from unirep_feast.files import sha256
from unirep_feast.index import Found, Index, build_index, exact, exact_search, trees, without
from unirep_feast.index.tuning import recall

METRICS = ("cosine", "inner_product", "l2")


def mixture(owners: int, per_owner: int = 1, dim: int = 16, seed: int = 0) -> np.ndarray:
    """Vectors around a few centres, the same for every seed, as those of one run are."""
    centres = np.random.default_rng(99).standard_normal((12, dim))
    rng = np.random.default_rng(seed)
    kinds = rng.integers(0, 12, (owners, per_owner))
    noise = 0.6 * rng.standard_normal((owners, per_owner, dim))
    return (centres[kinds] + noise).astype(np.float32)


def by_loop(
    vectors: np.ndarray, questions: np.ndarray, metric: str, merge: str | None
) -> np.ndarray:
    """Float64 scores, pair by pair."""
    scores = np.empty((len(questions), len(vectors)))
    for b, question in enumerate(questions.astype(np.float64)):
        for row, owner in enumerate(vectors.astype(np.float64)):
            best = -np.inf
            for u in question:
                for v in owner:
                    lengths = np.sqrt((u * u).sum()) * np.sqrt((v * v).sum())
                    if metric == "cosine":
                        best = max(best, (u @ v) / lengths if lengths > 0 else 0.0)
                    elif metric == "inner_product":
                        best = max(best, u @ v)
                    else:
                        best = max(best, -np.sqrt(((u - v) ** 2).sum()))
            scores[b, row] = best
    if merge == "max":
        return scores.max(0, keepdims=True)
    return scores.mean(0, keepdims=True) if merge == "mean" else scores


@pytest.mark.parametrize("merge", [None, "max", "mean"])
@pytest.mark.parametrize("metric", METRICS)
def test_exact_search_equals_a_loop_over_pairs(
    metric: Any, merge: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scores and order are those of a float64 loop, whatever the chunks."""
    rng = np.random.default_rng(3)
    vectors = rng.standard_normal((37, 3, 5)).astype(np.float32)
    vectors[4, 1] = 0
    questions = rng.standard_normal((4, 2, 5)).astype(np.float32)
    wanted = by_loop(vectors, questions, metric, merge)

    for cells in (40, 200, 1 << 24):
        monkeypatch.setattr(exact, "_CELLS", cells)
        answers = exact_search(vectors, questions, 9, metric, merge)
        assert len(answers) == len(wanted)
        for answer, scores in zip(answers, wanted, strict=True):
            order = np.argsort(-scores, kind="stable")[:9]
            assert answer.rows.tolist() == order.tolist()
            np.testing.assert_allclose(answer.scores, scores[order], rtol=1e-5, atol=1e-6)


def test_ties_fall_by_row_across_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal scores, zeros of either sign among them, are listed by row and cut by row."""
    vectors = np.zeros((20, 1, 2), np.float32)
    vectors[::2, 0, 0] = -0.0
    vectors[7] = [[1, 0]]
    monkeypatch.setattr(exact, "_CELLS", 6)

    (answer,) = exact_search(vectors, np.array([[[1, 0]]], np.float32), 5)

    assert answer.rows.tolist() == [7, 0, 1, 2, 3]
    assert answer.scores.tolist() == [1, 0, 0, 0, 0]


def test_more_asked_for_than_there_are_gives_all() -> None:
    """A top beyond the number of owners lists every owner once."""
    vectors = mixture(6, 2)

    (answer,) = exact_search(vectors, vectors[:1], 50)

    assert sorted(answer.rows.tolist()) == list(range(6))
    assert answer.rows[0] == 0


@settings(max_examples=40)
@given(
    seed=st.integers(0, 10_000),
    scale=st.floats(1e-15, 1e15),
    per_owner=st.integers(1, 4),
)
def test_cosine_ignores_length_and_the_order_of_vectors(
    seed: int, scale: float, per_owner: int
) -> None:
    """Scaling any vector by a positive number, or permuting an owner's, changes no score."""
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((15, per_owner, 4)).astype(np.float32)
    questions = rng.standard_normal((2, per_owner, 4)).astype(np.float32)
    before = exact_search(vectors, questions, 15)

    lengths = np.exp(rng.uniform(-3, 3, (15, per_owner, 1))) * scale
    shuffled = rng.permuted(np.tile(np.arange(per_owner), (15, 1)), axis=1)
    changed = np.take_along_axis((vectors * lengths).astype(np.float32), shuffled[..., None], 1)
    after = exact_search(changed, questions[:, ::-1] * np.float32(scale), 15)

    for old, new in zip(before, after, strict=True):
        np.testing.assert_allclose(
            old.scores[np.argsort(old.rows)], new.scores[np.argsort(new.rows)], atol=1e-5
        )


def test_without_leaves_owners_out_and_cuts_afterwards() -> None:
    """Excluded owners do not count against the top."""
    found = Found(np.array([4, 2, 9, 1]), np.array([0.9, 0.8, 0.7, 0.6], np.float32))

    kept = without(found, np.array([2, 7]), 2)

    assert kept.rows.tolist() == [4, 9]
    assert kept.scores.tolist() == pytest.approx([0.9, 0.7])


@pytest.mark.parametrize("per_owner", [1, 4])
@pytest.mark.parametrize("metric", METRICS)
def test_an_index_reaches_the_stated_recall_on_questions_it_was_not_tuned_on(
    tmp_path: Path, metric: Any, per_owner: int
) -> None:
    """Against exact search: recall as stated, scores those of the pairs, owners once each."""
    vectors = mixture(4_000 // per_owner, per_owner)
    vectors *= np.random.default_rng(1).uniform(0.5, 2, (len(vectors), 1, 1)).astype(np.float32)
    built = build_index(tmp_path / "users.ann", vectors, metric)
    tuning = built.tuning
    assert tuning.reached and tuning.recall >= 0.95
    assert (tuning.top, tuning.questions, tuning.wanted) == (100, 200, 0.95)
    index = Index.open(built.path, len(vectors), per_owner, 16, metric, tuning.search_k)
    assert len(index) == len(vectors)

    questions = mixture(100, per_owner, seed=9)
    truth = exact_search(vectors, questions, 100, metric)
    answers = [index.search(question, 100) for question in questions]

    assert recall(truth, answers) >= 0.93
    (everything,) = exact_search(vectors, questions[:1], len(vectors), metric)
    scores = dict(zip(everything.rows.tolist(), everything.scores.tolist(), strict=True))
    found = answers[0]
    assert len(set(found.rows.tolist())) == len(found) == 100
    assert (np.diff(found.scores) <= 0).all()
    for row, score in zip(found.rows.tolist(), found.scores.tolist(), strict=True):
        # The best pair of an owner may be one that the trees missed; it is never more than exact.
        assert score <= scores[row] + 1e-4
        assert per_owner > 1 or score == pytest.approx(scores[row], abs=1e-4)


@pytest.mark.parametrize("metric", METRICS)
def test_a_full_search_of_the_index_is_exact_search(tmp_path: Path, metric: Any) -> None:
    """Looking at every node, the index gives the ids and scores of exact search."""
    vectors = mixture(300, 3)
    built = build_index(tmp_path / "users.ann", vectors, metric, recall=0.5)
    index = Index.open(built.path, 300, 3, 16, metric, search_k=1_000_000)
    questions = mixture(20, 2, seed=5)

    truth = exact_search(vectors, questions, 25, metric)

    for question, wanted in zip(questions, truth, strict=True):
        answer = index.search(question, 25)
        assert answer.rows.tolist() == wanted.rows.tolist()
        np.testing.assert_allclose(answer.scores, wanted.scores, rtol=1e-4, atol=1e-5)


def test_an_owner_whose_vectors_crowd_a_query_does_not_crowd_others_out(tmp_path: Path) -> None:
    """The top M are M owners, though all K vectors of the nearest come first."""
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((50, 10, 8)).astype(np.float32)
    query = rng.standard_normal((1, 8)).astype(np.float32)
    vectors[3] = query + 0.001 * rng.standard_normal((10, 8)).astype(np.float32)
    built = build_index(tmp_path / "a.ann", vectors)
    index = Index.open(built.path, 50, 10, 8, "cosine", 100_000)

    answer = index.search(query, 5)

    assert len(answer) == 5 and answer.rows[0] == 3
    assert answer.rows.tolist() == exact_search(vectors, query[None], 5)[0].rows.tolist()


def test_vectors_come_back_from_an_index(tmp_path: Path) -> None:
    """The index holds the very vectors it was built from, in owner order."""
    vectors = mixture(40, 3)
    built = build_index(tmp_path / "a.ann", vectors)
    index = Index.open(built.path, 40, 3, 16, "cosine", 100)

    rows = np.array([5, 0, 39, 5])

    np.testing.assert_array_equal(index.vectors(rows), vectors[rows])


@pytest.mark.parametrize("metric", METRICS)
def test_the_same_vectors_and_seed_give_the_same_file(tmp_path: Path, metric: Any) -> None:
    """Building is deterministic, though it grew in several steps; another seed differs."""
    vectors = mixture(1500, dim=64)
    vectors += np.random.default_rng(0).standard_normal(vectors.shape).astype(np.float32)

    first = build_index(tmp_path / "a.ann", vectors, metric)
    second = build_index(tmp_path / "b.ann", vectors, metric)
    other = build_index(tmp_path / "c.ann", vectors, metric, seed=5)

    assert first.checksum == second.checksum == sha256(first.path)
    assert first.tuning == second.tuning
    assert other.checksum != first.checksum
    assert first.size == first.path.stat().st_size


def test_recall_is_measured_on_the_questions_that_will_be_asked(tmp_path: Path) -> None:
    """Given questions, the sample is drawn from them, and they find every owner."""
    vectors = mixture(2_000)
    questions = mixture(30, 3, seed=4)

    tuning = build_index(tmp_path / "a.ann", vectors, queries=questions).tuning

    assert tuning.questions == 30
    assert tuning.reached


def test_an_index_that_stays_below_the_recall_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no size suffices, the figure is told as it is, with what was wanted."""
    from unirep_feast.index import tuning

    monkeypatch.setattr(tuning, "_TREES", (64,))
    monkeypatch.setattr(tuning, "_QUICK", 1)
    noise = np.random.default_rng(0).standard_normal((3_000, 1, 64)).astype(np.float32)

    found = build_index(tmp_path / "a.ann", noise, recall=1.0).tuning

    assert not found.reached and 0 < found.recall < 1
    assert found.line().endswith("; 1 was wanted and not reached")


def test_users_with_one_history_count_as_found_whichever_is_listed() -> None:
    """Recall forgives ties with the last of the exact top, and nothing else."""
    truth = [Found(np.array([0, 1]), np.array([1.0, 0.5], np.float32))]

    tied = [Found(np.array([0, 8]), np.array([1.0, 0.5], np.float32))]
    worse = [Found(np.array([0, 8]), np.array([1.0, 0.49], np.float32))]
    short = [Found(np.array([0]), np.array([1.0], np.float32))]

    assert (recall(truth, tied), recall(truth, worse), recall(truth, short)) == (1.0, 0.5, 0.5)


@pytest.mark.parametrize("owners", [1, 2, 5])
def test_few_owners_are_no_special_case(tmp_path: Path, owners: int) -> None:
    """An index of a handful of owners finds them all."""
    vectors = mixture(owners, 2)

    built = build_index(tmp_path / "a.ann", vectors)

    assert built.tuning.reached
    index = Index.open(built.path, owners, 2, 16, "cosine", built.tuning.search_k)
    assert sorted(index.search(vectors[0], 10).rows.tolist()) == list(range(owners))


# -- refusals and faults ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda v, p: exact_search(v, np.ones((1, 1, 3), np.float32), 5), "same D: do both come"),
        (lambda v, p: exact_search(v, v[:1], 0), "top is 0; wanted at least 1"),
        (lambda v, p: build_index(p, v[:0]), "0 x 2 vectors cannot be indexed"),
        (lambda v, p: build_index(p, v, recall=1.5), "must lie in"),
        (lambda v, p: Index.open(p, 1, 1, 16, "cosine", 1), "index .*cannot be read"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    tmp_path: Path, call: Callable[..., Any], message: str
) -> None:
    """Shapes that do not fit, nothing to index, no file: one line each."""
    with pytest.raises(SearchError, match=message) as caught:
        call(mixture(10, 2), tmp_path / "none.ann")

    assert "\n" not in str(caught.value)


def test_an_index_of_something_else_is_refused(tmp_path: Path) -> None:
    """A file with another number of vectors does not open."""
    built = build_index(tmp_path / "a.ann", mixture(10, 2))

    with pytest.raises(SearchError, match=r"holds 20 vectors; wanted 11 x 2 of 16 numbers"):
        Index.open(built.path, 11, 2, 16, "cosine", 10)


def test_a_disk_that_refuses_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What fails half-way leaves neither an index nor a temporary file."""

    def refuse(path: Path) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(trees, "sha256", refuse)

    with pytest.raises(SearchError, match=r"a\.ann cannot be written: No space left on device"):
        build_index(tmp_path / "a.ann", mixture(10))

    assert list(tmp_path.iterdir()) == []
