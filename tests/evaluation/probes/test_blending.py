"""The probe `blend`: several probes' words, weighed by the validation split and by nothing else."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unirep_feast.evaluation.blending import blend, select
from unirep_feast.evaluation.cells import Wanted, wanted_cells
from unirep_feast.evaluation.computing import About, compute
from unirep_feast.evaluation.config import EvaluationConfig
from unirep_feast.evaluation.predicting import Predicted, ranking
from unirep_feast.evaluation.probe_data import ProbeData
from unirep_feast.evaluation.ranking import by_popularity, ranks_of
from unirep_feast.evaluation.results import Cells
from unirep_feast.evaluation.subject import Subject
from unirep_feast.task import Examples

ABOUT = About("made", "rep", "run", 0, False)


def blending(config: EvaluationConfig) -> EvaluationConfig:
    return config.model_copy(update={"probes": ("logistic", "boosting", "blend")})


def value_of(cells: Cells, key: str, split: str = "test") -> float:
    return next(row.value for row in cells.rows[key] if row.split == split and row.primary)


def test_a_blend_is_of_all_that_a_seed_has(CONFIG: EvaluationConfig, problem_of: Any) -> None:
    """What no seed changes is blended with every seed's; thinned labels have their own blend."""
    binary, _ = problem_of("binary")
    cells = wanted_cells(blending(CONFIG), binary, False)
    members = {cell.key: [m.key for m in cell.members] for cell in cells if cell.probe == "blend"}

    assert members == {
        "blend|1|0": ["boosting|1|0", "logistic|1|0"],
        "blend|1|1": ["boosting|1|1", "logistic|1|0"],
        "blend|0.25|0": ["boosting|0.25|0", "logistic|0.25|0"],
        "blend|0.25|1": ["boosting|0.25|1", "logistic|0.25|1"],
    }
    done: set[str] = set()
    for cell in cells:  # each behind its members
        assert done.issuperset(member.key for member in cell.members)
        done.add(cell.key)
    alone = CONFIG.model_copy(update={"probes": ("logistic", "blend")})
    assert {cell.probe for cell in wanted_cells(alone, binary, False)} == {"logistic"}


def test_two_blocks_that_know_halves_say_more_together(CONFIG: EvaluationConfig, made: Any) -> None:
    """Each block tells one of two causes: their blend beats both, and goes with the blocks."""
    draw = np.random.default_rng(3)
    features = draw.normal(size=(1200, 2)).astype(np.float32)
    targets = features.sum(1) + 0.3 * draw.normal(size=1200) > 0
    examples = Examples(np.arange(1200), np.zeros(1200, np.int64), targets.astype(np.float32))
    split = made("binary", ("auc",), examples)
    blocks = {"one": (0, 1), "two": (1, 2)}
    subject = Subject(features, np.ones(1200, bool), None, None, blocks)
    parts = [Wanted("boosting", 1, 0, block=name) for name in blocks]
    cells = Cells("key")
    wanted = [*parts, Wanted("blend", 1, 0, members=tuple(parts))]
    for _ in compute(CONFIG, split, subject, pa.array(np.arange(1200)), wanted, cells, ABOUT):
        pass

    alone = max(value_of(cells, cell.key) for cell in parts)
    assert value_of(cells, "blend|1|0") > alone + 0.05


@pytest.mark.parametrize("problem", ["binary", "multilabel", "multiclass", "regression"])
def test_a_resumed_blend_is_the_same(
    CONFIG: EvaluationConfig, problem_of: Any, problem: str
) -> None:
    """Its members are made again with their seeds, and say the same; every problem blends."""
    split, features = problem_of(problem)
    subject = Subject(features, np.ones(len(features), bool), None, None)
    wanted = [cell for cell in wanted_cells(blending(CONFIG), split, False) if cell.seed == 0]
    found = []
    for parts in ([wanted], [wanted[:2], wanted[2:]]):
        cells = Cells("key")
        for some in parts:
            for _ in compute(
                CONFIG, split, subject, pa.array(split.examples.users), some, cells, ABOUT
            ):
                pass
        found.append(cells.predictions["blend|1|0"])

    np.testing.assert_array_equal(*found)


def test_test_rows_decide_nothing(problem_of: Any, data_of: Any) -> None:
    """Other targets in the test split give the same blend."""
    split, features = problem_of("binary")
    data: ProbeData = data_of(split, features)
    other = data.targets.copy()
    other[data.test] = 1 - other[data.test]
    turned = replace(data, examples=replace(data.examples, targets=other))
    members = [Predicted(features[:, i], logits=True) for i in range(3)]

    mine, theirs = (blend(each, members, "auc").outputs for each in (data, turned))

    np.testing.assert_array_equal(mine, theirs)  # type: ignore[arg-type]


def test_probabilities_and_logits_are_averaged_as_probabilities(
    problem_of: Any, data_of: Any
) -> None:
    """One that tells all takes all the weight; its logits come out as probabilities."""
    split, features = problem_of("binary")
    data = data_of(split, features)
    sure = (data.targets * 2 - 1).astype(np.float32)
    noise = np.random.default_rng(0).random(len(sure)).astype(np.float32)

    found = blend(data, [Predicted(noise), Predicted(sure, logits=True)], "auc").outputs

    assert found is not None
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-sure)), rtol=1e-6)


def one_positive_each(made: Any, positives: np.ndarray, popularity: np.ndarray) -> ProbeData:
    """A ranking in which each user has one item, and nothing is known of users."""
    n = len(positives)
    examples = Examples(
        np.arange(n),
        np.zeros(n, np.int64),
        np.empty(0, np.float32),
        candidates=np.arange(len(popularity)),
        offsets=np.arange(n + 1),
        positives=positives,
        popularity=popularity,
    )
    split = made("ranking", ("mrr@10",), examples)
    return ProbeData("ranking", np.empty((n, 0)), examples, split.train, split.valid, split.test)


def test_rankings_are_blended_on_one_scale(made: Any) -> None:
    """Scores a thousand times larger do not drown others; who has none comes last."""
    n, m = 120, 30
    draw = np.random.default_rng(1)
    first, second = draw.normal(size=(2, n, m)).astype(np.float32)
    first[:, 7] = -np.inf
    sums = np.where(np.isfinite(first), first + second, -np.inf)
    data = one_positive_each(made, sums.argmax(1), np.ones(m, np.float32))
    loud = ranking(data, lambda rows: torch.from_numpy(first[rows] * 1000))
    soft = ranking(data, lambda rows: torch.from_numpy(second[rows]))

    both = blend(data, [loud, soft], "mrr@10")

    assert both.ranks is not None and both.score is not None
    assert loud.ranks is not None and soft.ranks is not None
    alone = max((1 / (one.ranks(data.test) + 1)).mean() for one in (loud, soft))  # type: ignore[misc]
    assert (1 / (both.ranks(data.test) + 1)).mean() > alone + 0.1
    assert torch.isfinite(both.score(data.test)).all()


def test_where_vectors_tell_nothing_popularity_is_left(made: Any) -> None:
    """A ranking's blend is no worse than the list of what is popular."""
    n, m = 300, 40
    draw = np.random.default_rng(2)
    popularity = (100 * 0.8 ** np.arange(m)).astype(np.float32)
    data = one_positive_each(made, draw.choice(m, n, p=popularity / popularity.sum()), popularity)
    noise = draw.normal(size=(n, m)).astype(np.float32)
    blended = blend(data, [ranking(data, lambda rows: torch.from_numpy(noise[rows]))], "mrr@10")

    assert blended.ranks is not None
    popular = ranks_of(by_popularity(data.examples), data.examples, data.test)
    assert (blended.ranks(data.test) == popular).mean() > 0.9
    assert (popular == 0).mean() > 0.1


def by_loop(losses: np.ndarray, some: np.ndarray) -> np.ndarray:
    """Ensemble selection on some rows as Caruana et al. tell it, with a sum of rows as metric."""
    chosen: list[int] = []
    best, kept = -np.inf, []
    for _ in range(10):
        tried = []
        for candidate in range(losses.shape[0]):
            bag = [*chosen, candidate]
            mixed = sum(losses[i] for i in bag) / len(bag)
            tried.append(-float((mixed[some] ** 2).sum()))
        chosen.append(int(np.argmax(tried)))
        if max(tried) > best + 1e-6:
            best, kept = max(tried), list(chosen)
        if len(chosen) - len(kept) == 3:
            break
    return np.bincount(kept, minlength=losses.shape[0]) / len(kept)


@given(st.integers(0, 2**31), st.integers(2, 5))
def test_weights_are_those_of_ensemble_selection(seed: int, count: int) -> None:
    """Beside a loop on each half; weights are no less than 0 and sum to 1, users stay whole."""
    draw = np.random.default_rng(seed)
    losses = draw.normal(size=(count, 24))
    users = np.repeat(np.arange(12), 2)
    halves: dict[bytes, np.ndarray] = {}

    def value(weights: np.ndarray, some: np.ndarray) -> float:
        halves[some.tobytes()] = some
        return -float(((weights @ losses)[some] ** 2).sum())

    found = select(value, count, users)

    assert len(halves) == 5
    for some in halves.values():
        assert len(some) == 12 and (np.bincount(users[some], minlength=12) != 1).all()
    expected = np.mean([by_loop(losses, some) for some in halves.values()], axis=0)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert (found >= 0).all() and found.sum() == pytest.approx(1)
