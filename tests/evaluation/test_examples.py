"""The task files and specs in examples/evaluation."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from unirep_feast.evaluation.config import load_evaluation
from unirep_feast.evaluation.examples import load_tasks, make_examples, read_task_log
from unirep_feast.evaluation.kinds import BUILT_IN
from unirep_feast.pipeline import read_spec

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples/evaluation"
FILES = sorted(EXAMPLES.glob("*/tasks.yaml"))
DATA = Path(os.environ.get("UNIREP_DATA", ROOT.parent / "shared/data"))


def test_three_data_sets_have_tasks_and_all_papers() -> None:
    """Each with a spec of every paper; together the tasks use nearly every kind."""
    assert [path.parent.name for path in FILES] == [
        "dunnhumby",
        "mind-small",
        "ml-1m",
        "online-retail",
    ]
    kinds = {task.config.kind for path in FILES for task in load_tasks(load_evaluation(path))}
    assert kinds == set(BUILT_IN) - {"regression"}
    for name in ("dunnhumby", "ml-1m", "online-retail"):
        specs = {path.stem for path in (EXAMPLES / name / "specs").glob("*.yaml")}
        assert {"clue", "guim", "icl", "lurm", "userbert"} <= specs


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*/specs/*.yaml")), ids=str)
def test_specs_are_sound_and_are_trained_before_any_cut_off(path: Path) -> None:
    """Every part's settings are known, and no spec fixes a time to train until."""
    spec = read_spec(path)

    assert spec.training.until is None
    assert spec.name == path.stem


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.parent.name)
def test_tasks_can_be_asked_of_the_data(path: Path) -> None:
    """On the data set itself every task has examples in every split."""
    name = path.parent.name
    if not (DATA / name).exists():
        pytest.skip(f"the data set {name} is not in {DATA}")
    raw = yaml.safe_load(path.read_text())
    events = DATA / Path(raw["events"]["path"]).relative_to("../../../../shared/data")
    config = load_evaluation(path, [f"events.path={events}"])
    log = read_task_log(config)

    for task in load_tasks(config):
        made = make_examples(config, task, log)
        assert min(len(made.train), len(made.valid), len(made.test)) >= 20
