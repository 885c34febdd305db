"""A run's records sent to MLflow, for houses that keep their experiments there."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from unirep_feast import __version__
from unirep_feast.config import RepresentationSpec
from unirep_feast.errors import TrainingError, one_line
from unirep_feast.trainer import Record

#: MLflow takes no more parameters in one call, nor longer values.
_PARAMETERS, _LONGEST = 100, 500

#: The tag that names a run of the catalog.
RUN_TAG = "unirep.run"


class Mlflow(NamedTuple):
    """What is used of MLflow."""

    client: Any
    metric: Any
    parameter: Any


def load_mlflow() -> Mlflow:
    """Import MLflow.

    Raises:
        TrainingError: it is not installed.
    """
    # Nothing leaves the house unasked, and a server that is away is told of within seconds.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    try:
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param
    except ImportError:
        raise TrainingError(
            "training.mlflow needs MLflow; pip install 'unirep-feast[mlflow]'"
        ) from None
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    return Mlflow(MlflowClient, Metric, Param)


class MlflowRun:
    """A run in the MLflow experiment that has the representation's name.

    Its metrics are called ``<kind>/<name>`` as in TensorBoard, its parameters are the keys of the
    spec, and the tag ``unirep.run`` is the run's id in the catalog, so that a resumed run goes on
    where it was. Where MLflow stops answering the training goes on without it, and says so.

    Args:
        spec: of the representation; ``training.mlflow`` is the tracking URI.
        run: id in the catalog.
        notify: takes lines for people.

    Raises:
        TrainingError: MLflow is not installed, or nothing answers at the URI.
    """

    def __init__(self, spec: RepresentationSpec, run: str, notify: Callable[[str], None]) -> None:
        uri = spec.training.mlflow
        assert uri is not None  # noqa: S101
        self._mlflow = load_mlflow()
        self._uri, self._shown, self._notify = uri, _without_password(uri), notify
        self._broken = False
        try:
            self._client = self._mlflow.client(tracking_uri=uri)
            self._id = self._begin(spec, run)
        except Exception as error:
            raise TrainingError(
                f"training.mlflow: found no MLflow at {self._shown} ({self._said(error)}), wanted "
                "a tracking server or sqlite:///FILE; start it with mlflow server, or leave the "
                "setting out"
            ) from None

    def write(self, record: Record) -> None:
        """Send the numbers of a record."""
        now = int(time.time() * 1000)
        metrics = [
            self._mlflow.metric(f"{record.kind}/{name}", value, now, record.step)
            for name, value in record.values.items()
        ]
        if metrics:
            self._send(lambda: self._client.log_batch(self._id, metrics=metrics))

    def close(self, failed: bool) -> None:
        """Mark the run as finished or failed."""
        status = "FAILED" if failed else "FINISHED"
        self._send(lambda: self._client.set_terminated(self._id, status))

    def _begin(self, spec: RepresentationSpec, run: str) -> str:
        found = self._client.get_experiment_by_name(spec.name)
        experiment = found.experiment_id if found else self._client.create_experiment(spec.name)
        known = self._client.search_runs([experiment], f"tags.`{RUN_TAG}` = '{run}'")
        if known:
            self._client.update_run(known[0].info.run_id, "RUNNING")
            return str(known[0].info.run_id)
        tags = {RUN_TAG: run, "unirep.spec": spec.fingerprint(), "unirep.version": __version__}
        id_ = str(self._client.create_run(experiment, run_name=run, tags=tags).info.run_id)
        # URLs of databases and servers hold passwords, and decide nothing.
        private: Any = {"folder": True, "search": True, "catalog": True, "training": {"mlflow"}}
        settings = spec.model_dump(mode="json", exclude=private)
        parameters = [self._mlflow.parameter(key, text) for key, text in flat(settings)]
        for start in range(0, len(parameters), _PARAMETERS):
            self._client.log_batch(id_, params=parameters[start : start + _PARAMETERS])
        return id_

    def _send(self, call: Callable[[], Any]) -> None:
        if self._broken:
            return
        try:
            call()
        except Exception as error:  # whatever it is, hours of training are worth more
            self._broken = True
            self._notify(
                f"MLflow at {self._shown} stopped answering ({self._said(error)}); the training "
                "goes on, and its records are in log.jsonl of the run"
            )

    def _said(self, error: Exception) -> str:
        """An error in one line; MLflow's name the whole URI."""
        return one_line(error).replace(self._uri, self._shown)


def _without_password(uri: str) -> str:
    try:
        return make_url(uri).render_as_string(hide_password=True)
    except ArgumentError:  # a folder, or a name that MLflow knows
        return uri


def flat(settings: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    """Settings as dotted keys, as ``--set`` takes them, and texts; what is null is left out."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{before}{key}.")
        elif value is not None:
            yield f"{before}{key}", str(value)[:_LONGEST]
