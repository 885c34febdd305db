"""Vectors with named blocks: a probe may look at one block alone, as a model may."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest

from unirep_feast.evaluation.cells import Wanted, wanted_cells
from unirep_feast.evaluation.computing import About, compute
from unirep_feast.evaluation.config import EvaluationConfig
from unirep_feast.evaluation.examples import LoadedTask, SplitExamples
from unirep_feast.evaluation.leaderboard import leaderboard
from unirep_feast.evaluation.results import Cells, Row
from unirep_feast.evaluation.subject import PUBLISHED, Subject
from unirep_feast.task import Examples

CONFIG = EvaluationConfig.model_validate(
    {
        "name": "made",
        "events": {"path": "-"},
        "cut_off": "2024-01-01",
        "seeds": 1,
        "probes": ["logistic", "mlp", "fine_tune"],
        "mlp": {"epochs": 30},
        "tasks": [{"name": "one", "kind": "churn"}],
    }
)
ABOUT = About("made", "rep", "run", 0, False)
BLOCKS = {"noise": (0, 60), "signal": (60, 62)}
N = 400


class Fixed:
    """A task that is there already."""

    problem, metrics = "binary", ("auc",)


def world() -> tuple[SplitExamples, np.ndarray]:
    """Sixty numbers that tell nothing, and two of which one tells the target but for noise."""
    draw = np.random.default_rng(0)
    features = draw.normal(size=(N, 62)).astype(np.float32)
    targets = features[:, 60] + 0.5 * draw.normal(size=N) > 0
    examples = Examples(np.arange(N), np.zeros(N, np.int64), targets.astype(np.float32))
    loaded = LoadedTask(CONFIG.tasks[0], Fixed(), 0, (0,), "churn")  # type: ignore[arg-type]
    parts = np.split(np.arange(N), [120, 240])
    return SplitExamples(loaded, examples, *parts), features


def rows_of(subject: Subject, cells: Sequence[Wanted]) -> Cells:
    split, _ = world()
    found = Cells("key")
    for _ in compute(CONFIG, split, subject, pa.array(np.arange(N)), list(cells), found, ABOUT):
        pass
    return found


def on_test(cells: Cells, key: str) -> Row:
    return next(row for row in cells.rows[key] if row.split == "test")


def test_every_probe_of_numbers_is_wanted_of_every_block() -> None:
    """Item vectors and fine-tuning are of the whole; the file can turn blocks off."""
    split, _ = world()
    names = [c.name for c in wanted_cells(CONFIG, split, tunable=True, blocks=("a", "b"))]
    off = CONFIG.model_copy(update={"blocks": False})

    assert names == ["logistic", "logistic:a", "logistic:b", "mlp", "mlp:a", "mlp:b", "fine_tune"]
    assert [c.name for c in wanted_cells(off, split, blocks=("a", "b"))] == ["logistic", "mlp"]


@pytest.mark.parametrize("everyone", [True, False])
@pytest.mark.parametrize("probe", ["logistic", "mlp"])
def test_a_block_scores_as_its_numbers_alone_would(probe: str, everyone: bool) -> None:
    """The very figures of a representation that is nothing else, missing users told alike."""
    _, features = world()
    known = np.ones(N, bool)
    known[::7] = everyone
    features = features * known[:, None]
    cell = Wanted(probe, 1, 0, block="signal")  # type: ignore[arg-type]

    found = on_test(rows_of(Subject(features, known, None, None, BLOCKS), [cell]), cell.key)
    alone = Subject(features[:, 60:], known, None, None)
    wanted = on_test(rows_of(alone, [Wanted(probe, 1, 0)]), f"{probe}|1|0")  # type: ignore[arg-type]

    assert found.probe == f"{probe}:signal"
    assert found.value == wanted.value > 0.6


def test_what_the_view_publishes_stands_beside_every_block() -> None:
    """A block is probed with it, and it alone like a block; a shuffle of labels moves it along."""
    _, features = world()
    known = np.ones(N, bool)
    told, rest = features[:, 60:], features[:, :60]
    blocks = {PUBLISHED: (0, 0), "noise": (0, 60)}
    whole = Subject(rest, known, None, None, blocks, told)

    def scored(subject: Subject, cell: Wanted) -> float:
        return on_test(rows_of(subject, [cell]), cell.key).value

    alone = scored(whole, Wanted("logistic", 1, 0, block=PUBLISHED))
    assert alone == scored(Subject(told, known, None, None), Wanted("logistic", 1, 0)) > 0.8
    beside = scored(whole, Wanted("logistic", 1, 0, block="noise"))
    both = np.concatenate((rest, told), axis=1)
    assert beside == scored(Subject(both, known, None, None), Wanted("logistic", 1, 0))
    assert abs(scored(whole, Wanted("logistic", 1, 0, control=True)) - 0.5) < 0.2


def test_the_leaderboard_takes_the_block_that_is_best_on_valid() -> None:
    """Few labels and many numbers that tell nothing: the part beats the whole."""
    split, features = world()
    subject = Subject(features, np.ones(N, bool), None, None, BLOCKS)
    cells = rows_of(subject, wanted_cells(CONFIG, split, blocks=tuple(BLOCKS)))
    rows = [row for found in cells.rows.values() for row in found]

    (entry,) = leaderboard(rows, {("rep", "run", "one"): cells})

    assert entry["probe"] == "logistic:signal"
    assert entry["mean"] == on_test(cells, "logistic:signal|1|0").value
    assert entry["mean"] > on_test(cells, "logistic|1|0").value
