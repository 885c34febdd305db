"""The batch engine that encodes: `feast materialize START T` makes, stores and serves vectors.

In ``feature_store.yaml``::

    batch_engine:
      type: unirep_feast.feature_store.engine.UnirepComputeEngine
      inner: {type: local}          # the engine of all other views, with its own keys
      incremental: false            # encode only users whose history changed since a snapshot
      allow_model_leakage: false    # accept a model that has seen events at or after T
      catalog: null                 # its URL, where it holds a password and so is in no tag

Without these lines the same repo still works: stock Feast materializes whatever snapshots there are
(`unirep encode` makes them) to the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import click
from feast import Entity, FeatureView, RepoConfig
from feast.importer import import_class
from feast.infra.common.materialization_job import (
    MaterializationJob,
    MaterializationJobStatus,
    MaterializationTask,
)
from feast.infra.common.retrieval_task import HistoricalRetrievalTask
from feast.infra.compute_engines.base import ComputeEngine
from feast.infra.registry.base_registry import BaseRegistry
from feast.repo_config import BATCH_ENGINE_CLASS_FOR_TYPE
from pydantic import Field, StrictBool, ValidationError, field_validator

from unirep_feast.config import Frozen
from unirep_feast.errors import StoreError, UnirepError, one_line
from unirep_feast.feature_store.views import SPEC_TAG
from unirep_feast.spec_file import problems

ENGINE = f"{__name__}.UnirepComputeEngine"


class EngineError(StoreError, click.ClickException):
    """A view cannot be materialized; Feast's commands, which are click's, show it as one line."""


class UnirepComputeEngineConfig(Frozen):
    """The keys of ``batch_engine:``; Feast hands over what stands in the YAML."""

    type: str = ENGINE
    inner: dict[str, Any] = Field(
        default_factory=lambda: {"type": "local"},
        description="engine of the views that are not ours, as `batch_engine` would name it",
    )
    incremental: StrictBool = Field(
        False, description="encode only users whose history changed since the last snapshot"
    )
    allow_model_leakage: StrictBool = Field(
        False, description="accept a model that has seen events at or after T; recorded"
    )
    catalog: str | None = Field(None, description="URL of the catalog; default: the spec's")

    @field_validator("inner", mode="before")
    @classmethod
    def _with_type(cls, inner: object) -> object:
        if isinstance(inner, str):
            inner = {"type": inner}
        if isinstance(inner, dict) and not isinstance(inner.get("type"), str):
            raise ValueError(f"wanted keys with a type, such as {{type: local}}, found {inner!r}")
        if isinstance(inner, dict) and inner["type"] == ENGINE:
            raise ValueError("wanted another engine to wrap, found this one itself")
        return inner


@dataclass
class _Job(MaterializationJob):  # type: ignore[misc]  # feast has no types
    """A materialization that is over."""

    task: MaterializationTask
    failure: BaseException | None = None

    def status(self) -> MaterializationJobStatus:
        if self.failure is None:
            return MaterializationJobStatus.SUCCEEDED
        return MaterializationJobStatus.ERROR

    def error(self) -> BaseException | None:
        return self.failure

    def should_be_retried(self) -> bool:
        return False

    def job_id(self) -> str:
        return f"{self.task.feature_view.name}-{self.task.start_time}-{self.task.end_time}"

    def url(self) -> str | None:
        return None


class UnirepComputeEngine(ComputeEngine):  # type: ignore[misc]  # feast has no types
    """Materializes views made by ``representation(...)``, and hands all others to another engine.

    A view of ours is encoded as of the end of the interval, unless that snapshot is there, and
    written to its stores; see :mod:`unirep_feast.feature_store.materializing`. Feast records the
    interval once that has succeeded, as ever.

    Args:
        repo_config: of the repo.
        offline_store: its offline store.
        online_store: its online store.
        **keys: see :class:`UnirepComputeEngineConfig`.

    Raises:
        EngineError: keys are unknown or wrong (all are named), or there is no such engine to wrap.
    """

    def __init__(
        self, *, repo_config: RepoConfig, offline_store: Any, online_store: Any, **keys: Any
    ) -> None:
        super().__init__(
            repo_config=repo_config, offline_store=offline_store, online_store=online_store
        )
        try:
            self.options = UnirepComputeEngineConfig.model_validate(keys)
        except ValidationError as error:
            found = "; ".join(problems(error))
            known = ", ".join(UnirepComputeEngineConfig.model_fields)
            raise EngineError(
                f"batch_engine in feature_store.yaml: {found}; its keys are {known}"
            ) from None
        self.inner = _inner(self.options.inner, repo_config, offline_store, online_store)

    def update(
        self,
        project: str,
        views_to_delete: Sequence[Any],
        views_to_keep: Sequence[Any],
        entities_to_delete: Sequence[Entity],
        entities_to_keep: Sequence[Entity],
    ) -> None:
        """Check our views against their promoted runs, then let the wrapped engine prepare.

        Raises:
            EngineError: a view declares another shape than its run makes; nothing is applied.
        """
        from unirep_feast.feature_store.materializing import check_declared

        for view in filter(is_ours, views_to_keep):
            try:
                check_declared(view, self.options.catalog)
            except UnirepError as error:
                raise EngineError(str(error)) from error
        self.inner.update(
            project, views_to_delete, views_to_keep, entities_to_delete, entities_to_keep
        )

    def teardown_infra(self, project: str, fvs: Sequence[Any], entities: Sequence[Entity]) -> None:
        """Let the wrapped engine clean up; snapshots and runs stay."""
        self.inner.teardown_infra(project, fvs, entities)

    def get_historical_features(self, registry: BaseRegistry, task: HistoricalRetrievalTask) -> Any:
        """Ask the wrapped engine."""
        return self.inner.get_historical_features(registry, task)

    def materialize(
        self,
        registry: BaseRegistry,
        tasks: MaterializationTask | list[MaterializationTask],
        **kwargs: Any,
    ) -> list[MaterializationJob]:
        """Materialize views in the order given; one job per task."""
        jobs: list[MaterializationJob] = []
        for task in [tasks] if isinstance(tasks, MaterializationTask) else tasks:
            if is_ours(task.feature_view):
                jobs.append(self._materialize_one(registry, task))
            else:
                jobs += self.inner.materialize(registry, task, **kwargs)
        return jobs

    def _materialize_one(
        self, registry: BaseRegistry, task: MaterializationTask, **kwargs: Any
    ) -> MaterializationJob:
        from unirep_feast.feature_store.materializing import Materializer

        materializer = Materializer(
            self.repo_config, self.offline_store, self.online_store, self.options
        )
        try:
            materializer.run(task)
        except UnirepError as error:
            failure = EngineError(" ".join(str(error).split()))
            failure.__cause__ = error
            return _Job(task, failure)
        except Exception as error:  # as Feast's own engines: the provider raises it
            return _Job(task, error)
        return _Job(task)


def is_ours(view: Any) -> bool:
    """Whether a feature view was made by ``representation(...)``, or carries its tags."""
    return isinstance(view, FeatureView) and SPEC_TAG in view.tags


def _inner(keys: dict[str, Any], config: RepoConfig, offline: Any, online: Any) -> ComputeEngine:
    """Make the wrapped engine as Feast would, from a config in which it is the only one."""
    name = BATCH_ENGINE_CLASS_FOR_TYPE.get(keys["type"], keys["type"])
    module, _, kind = name.rpartition(".")
    alone = config.model_copy()
    alone.batch_engine_config = keys
    alone._batch_engine = None
    try:
        engine = import_class(module, kind)
        made: ComputeEngine = engine(
            repo_config=alone, offline_store=offline, online_store=online, **keys
        )
    except Exception as error:  # an extra that is missing, a key that is wrong, a cluster gone
        known = ", ".join(BATCH_ENGINE_CLASS_FOR_TYPE)
        raise EngineError(
            f"batch_engine.inner: engine {keys['type']!r} cannot be made: {one_line(error)}; "
            f"wanted {known} or a dotted path, with its own keys beside `type`"
        ) from error
    return made
