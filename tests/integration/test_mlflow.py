"""`training.mlflow`: the records of a run in MLflow, beside its log."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from unirep_feast.pipeline import train
from unirep_feast.pipeline.tracking import RUN_TAG, MlflowRun

Cli = Callable[..., Result]
Refusal = Callable[[Any], str]


@pytest.fixture
def uri(tmp_path: Path) -> str:
    """An MLflow that needs no server."""
    pytest.importorskip("mlflow")
    return f"sqlite:///{tmp_path}/mlflow.db"


def _tracked(uri: str, name: str) -> list[Any]:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name(name)
    return list(client.search_runs([experiment.experiment_id])) if experiment else []


def _steps(uri: str, run: Any, metric: str) -> list[tuple[int, float]]:
    from mlflow import MlflowClient

    history = MlflowClient(tracking_uri=uri).get_metric_history(run.info.run_id, metric)
    return [(entry.step, entry.value) for entry in history]


def test_a_run_is_in_mlflow_with_its_records_and_settings(shop: Any, cli: Cli, uri: str) -> None:
    """The losses of log.jsonl, the spec as parameters, the catalog's run as a tag."""
    done = cli("train", shop.path, "--set", f"training.mlflow={uri}", "--json")
    assert done.exit_code == 0, done.stderr
    run = json.loads(done.stdout)["run"]

    (tracked,) = _tracked(uri, "shop")
    assert tracked.info.status == "FINISHED"
    assert tracked.data.tags[RUN_TAG] == run
    assert tracked.data.params["training.batch_size"] == "16"
    assert tracked.data.params["encoder.settings.dropout"] == "0.1"
    assert not {"catalog", "training.mlflow"} & set(tracked.data.params)  # may hold passwords
    lines = (shop.home / "runs" / run / "log.jsonl").read_text().splitlines()
    logged = [line for line in map(json.loads, lines) if line["kind"] == "step"]
    expected = [(line["step"], line["loss"]) for line in logged]
    assert len(expected) == 6 and _steps(uri, tracked, "step/loss") == expected
    assert [step for step, _ in _steps(uri, tracked, "validation/loss")] == [2, 4, 6]


def test_a_resumed_run_goes_on_in_the_same_run_of_mlflow(shop: Any, uri: str) -> None:
    """Broken off it is marked as failed there, resumed and finished as finished."""
    shop.spec["training"]["mlflow"] = uri
    shop.write()

    def stop(record: Any) -> None:
        if record.kind == "step" and record.step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(shop.parsed(), on_record=stop)
    (broken,) = _tracked(uri, "shop")
    assert broken.info.status == "FAILED"
    train(shop.parsed(), resume=True)

    (whole,) = _tracked(uri, "shop")
    assert (whole.info.run_id, whole.info.status) == (broken.info.run_id, "FINISHED")
    assert {step for step, _ in _steps(uri, whole, "step/loss")} == {1, 2, 3, 4, 5, 6}


def test_where_records_go_does_not_decide_the_weights(shop: Any, uri: str) -> None:
    """So a run may be resumed with MLflow that was begun without."""
    plain = shop.parsed()
    shop.spec["training"]["mlflow"] = uri
    shop.write()

    assert shop.parsed().fingerprint() == plain.fingerprint()


def test_mlflow_that_does_not_answer_is_one_line(shop: Any, cli: Cli, refusal: Refusal) -> None:
    """Told before the first step; the run is recorded as failed."""
    pytest.importorskip("mlflow")

    line = refusal(cli("train", shop.path, "--set", "training.mlflow=http://me:secret@127.0.0.1:9"))

    assert "training.mlflow: found no MLflow at http://me:***@127.0.0.1:9" in line
    assert "secret" not in line
    assert [row.status for row in shop.runs()] == ["failed"]


def test_a_training_outlives_the_mlflow_it_reports_to(
    shop: Any, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is lost there is told once, and stands in the run's own log."""
    shop.spec["training"]["mlflow"] = uri
    shop.write()
    begin = MlflowRun._begin

    def begin_and_break(self: Any, spec: Any, run: str) -> str:
        found = begin(self, spec, run)

        def broken(*_: Any, **__: Any) -> None:
            raise ConnectionError("gone")

        monkeypatch.setattr(self._client, "log_batch", broken)
        return found

    monkeypatch.setattr(MlflowRun, "_begin", begin_and_break)
    told: list[str] = []
    done = train(shop.parsed(), notify=told.append)

    assert done.steps == 6
    assert len([line for line in told if "stopped answering (gone)" in line]) == 1
    assert len((done.folder / "log.jsonl").read_text().splitlines()) > 6
