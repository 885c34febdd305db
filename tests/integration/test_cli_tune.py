"""`unirep tune`: trials in the catalog, judged by validation loss or a task, resumable."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import Result

from unirep_feast.catalog import Catalog
from unirep_feast.config import RepresentationSpec
from unirep_feast.errors import EvaluationError
from unirep_feast.evaluation.study import load_optuna
from unirep_feast.evaluation.trials import as_override
from unirep_feast.testing.world import make_world

pytest.importorskip("optuna")

Cli = Callable[..., Result]
Refusal = Callable[[Any], str]

SEARCH = {
    "encoder.settings.dim": {"choices": [4, 8]},
    "training.learning_rate": {"low": 1e-5, "high": 1e-2, "log": True},
    "sampler.settings.min_events": {"low": 2, "high": 4, "whole": True},
}


@pytest.fixture
def market(shop: Any) -> Any:
    """A shop of 120 users whose spec names a space."""
    shop.log(make_world(users=120, items=30, seed=3).events)
    shop.write(search=SEARCH, training__max_steps=4)
    return shop


def tune(cli: Cli, shop: Any, *more: Any) -> dict[str, Any]:
    result = cli("tune", shop.path, "--json", *more)
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)  # type: ignore[no-any-return]


def runs(found: dict[str, Any]) -> dict[str, Any]:
    return {run.id: run for run in Catalog(found["catalog"], create=False).list_runs()}


def test_every_trial_is_a_run_in_the_catalog(market: Any, cli: Cli) -> None:
    """Settings are of the space and are what the run was trained with; the lowest loss is best."""
    found = tune(cli, market, "--trials", 3)

    assert found["metric"] == "validation loss"
    known = runs(found)
    assert len(found["trials"]) == len(known) == 3
    for trial in found["trials"]:
        run = known[trial["run"]]
        spec = RepresentationSpec.model_validate_json(run.spec)
        settings = trial["settings"]
        assert set(settings) == set(SEARCH)
        assert spec.encoder.settings["dim"] == settings["encoder.settings.dim"] in (4, 8)
        assert spec.training.learning_rate == settings["training.learning_rate"]
        assert 1e-5 <= spec.training.learning_rate <= 1e-2
        assert run.metrics["best_loss"] == pytest.approx(trial["value"])
    values = [trial["value"] for trial in found["trials"]]
    assert values == sorted(values)
    assert found["best"] == found["trials"][0]
    assert not market.home.exists()


def test_a_search_goes_on(market: Any, cli: Cli) -> None:
    """More trials are added to those that are there; as many as there are already cost nothing."""
    first = tune(cli, market, "--trials", 2)

    more = tune(cli, market, "--trials", 3)
    same = tune(cli, market, "--trials", 3)

    assert {trial["run"] for trial in first["trials"]} < {trial["run"] for trial in more["trials"]}
    assert same == more


def test_trials_are_judged_by_a_task(market: Any, cli: Cli) -> None:
    """On the validation split, trained before the task's cut-off."""
    tasks = market.folder / "tasks.yaml"
    one = {"name": "churn", "kind": "churn", "settings": {"days": 20}}
    raw = {
        "name": "tasks",
        "events": {"path": "events.parquet"},
        "cut_off": "2020-03-01",
        "probes": ["logistic"],
        "splits": {"valid": 0.3, "test": 0.3},
        "tasks": [one],
    }
    tasks.write_text(yaml.safe_dump(raw))
    market.write(training__until=None)

    found = tune(cli, market, "--trials", 2, "--tasks", tasks, "--task", "churn")

    assert found["metric"] == "churn, auc on the validation split"
    assert found["best"]["value"] == max(trial["value"] for trial in found["trials"])
    assert {run.trained_until for run in runs(found).values()} == {1_583_020_800_000_000}


def test_a_trial_that_cannot_be_trained_does_not_end_the_search(market: Any, cli: Cli) -> None:
    """It is told and counted; the others go on."""
    market.write(search={"encoder.settings.dim": {"choices": ["wide", 4]}})

    result = cli("tune", market.path, "--trials", 2, "--json")

    found = json.loads(result.stdout)
    assert len(found["trials"]) == 2
    assert found["failed"] == result.stderr.count("failed: ")


def test_a_killed_search_resumes_its_trial(market: Any, cli: Cli) -> None:
    """The trial that was cut short is resumed: its run finishes, and no run is left behind."""
    market.write(
        training__max_steps=30, training__checkpoint_every=2, sampler={"settings": {"seconds": 0.1}}
    )
    market.write(search={"training.learning_rate": {"low": 1e-4, "high": 1e-2}})
    command = [Path(sys.executable).parent / "unirep", "tune", market.path, "--trials", 1]
    process = subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    work = market.folder / "data/tune/shop"
    market.wait_for(lambda: any(work.rglob("checkpoints/step-*/checkpoint.json")), process)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()

    found = tune(cli, market, "--trials", 1)

    known = runs(found)
    assert len(known) == 1
    (run,) = known.values()
    assert run.status == "finished"
    assert found["best"]["run"] == run.id


def test_the_table_ends_with_a_command(market: Any, cli: Cli) -> None:
    """For people: the trials, best first, and what to type to train the best."""
    result = cli("tune", market.path, "--trials", 2, "--prune")

    lines = result.stdout.splitlines()
    assert "trial" in lines[0] and "training.learning_rate=" in lines[0]
    assert lines[-1].startswith("the best: unirep train SPEC --set ")
    assert "trials by validation loss" in lines[-2]


@pytest.mark.parametrize(
    ("changes", "arguments", "message"),
    [
        ({"search": {}}, [], "names nothing to search; add a section such as search: "),
        ({"search": {"a": {"low": 2, "high": 1}}}, [], "wanted `choices`, or `low` below `high`"),
        ({"search": {"a": {"low": 0, "high": 1, "log": True}}}, [], "`log` needs `low` above 0"),
        ({"search": {"nonsense": {"choices": [1]}}}, ["--trials", 1], "no trial could be trained"),
        ({"training__validation": 0}, [], "judged by the validation loss, but training.validation"),
        ({}, ["--task", "churn"], "--tasks FILE and --task NAME go together"),
    ],
)
def test_bad_input_is_one_line(
    market: Any,
    cli: Cli,
    refusal: Refusal,
    changes: dict[str, Any],
    arguments: list[Any],
    message: str,
) -> None:
    """Exit code 1 and one line."""
    market.write(**changes)

    assert message in refusal(cli("tune", market.path, *arguments))


def test_another_search_in_the_folder_is_refused(market: Any, cli: Cli, refusal: Refusal) -> None:
    """Losses of other data or spaces do not compare."""
    tune(cli, market, "--trials", 1)
    market.write(search={"encoder.settings.dim": {"choices": [4]}})

    line = refusal(cli("tune", market.path, "--trials", 2))

    assert "holds a search of another spec, space or task; name another folder" in line


def test_settings_are_written_as_the_command_line_takes_them() -> None:
    """YAML of one line, also for small numbers, lists and words."""
    for value in (1e-05, 3, "text", [1, "a"], True, None):
        assert yaml.safe_load(as_override("key", value).removeprefix("key=")) == value


def test_without_optuna_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing extra is one line, not a traceback."""
    monkeypatch.setitem(sys.modules, "optuna", None)

    with pytest.raises(EvaluationError, match=r"pip install 'unirep-feast\[tune\]'"):
        load_optuna()
