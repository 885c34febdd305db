"""Results of probes: they are read back as they were, and make a leaderboard."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from unirep_feast.errors import EvaluationError
from unirep_feast.evaluation.cells import Wanted, missing_cells
from unirep_feast.evaluation.computing import About, compute
from unirep_feast.evaluation.config import EvaluationConfig
from unirep_feast.evaluation.leaderboard import leaderboard, pairs
from unirep_feast.evaluation.results import Cells, ResultFolder, read_csv, to_csv
from unirep_feast.evaluation.subject import Subject
from unirep_feast.task import Problem

ABOUT = About("made", "rep", "run", 0, False)


@pytest.fixture
def cells_of(CONFIG: EvaluationConfig, problem_of: Any) -> Callable[..., Cells]:
    def run(problem: Problem = "binary", noise: float = 0.0, name: str = "rep") -> Cells:
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

    return run


def test_cells_are_read_back_as_they_were(tmp_path: Path, cells_of: Any) -> None:
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


def test_rows_survive_csv(cells_of: Any) -> None:
    """Every column with its type."""
    rows = [row for found in cells_of().rows.values() for row in found]

    assert read_csv(to_csv(rows)) == rows


def test_a_leaderboard_chooses_probes_by_validation_and_says_who_is_better(cells_of: Any) -> None:
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
        assert entry["valid"] == pytest.approx(max(means.values()))
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
