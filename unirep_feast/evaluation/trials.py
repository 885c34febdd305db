"""What is asked of a search, and the points of its space: each a spec, then a value."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from unirep_feast.config import RepresentationSpec
from unirep_feast.evaluation.config import EvaluationConfig
from unirep_feast.pipeline.loading import read_spec

_LONGEST_NAME = 50


@dataclass(frozen=True)
class Judge:
    """A task that trials are judged by, on its validation split.

    Attributes:
        config: the task file.
        task: name in it.
    """

    config: EvaluationConfig
    task: str


@dataclass(frozen=True)
class TuneOptions:
    """What a call of `unirep tune` asks for.

    Attributes:
        path: of the spec.
        overrides: of keys of the spec, in every trial.
        work: folder of the study, and of the trials' runs and catalog.
        trials: finished ones there should be, those of earlier calls included.
        judge: None judges by the validation loss.
        prune: stop trials whose validation loss is worse than the median's at that step.
        seed: of the search.
    """

    path: str
    overrides: tuple[str, ...]
    work: Path
    trials: int
    judge: Judge | None = None
    prune: bool = False
    seed: int = 0


@dataclass(frozen=True)
class Trial:
    """A finished trial.

    Attributes:
        number: in the study.
        run: id in the catalog.
        value: validation loss, or the task's metric on its validation split.
        settings: by key of the spec.
    """

    number: int
    run: str
    value: float
    settings: dict[str, Any]


def as_override(key: str, value: Any) -> str:
    """A setting as ``--set`` takes it: ``key=value``, the value in YAML."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6)
    return f"{key}={text.removesuffix('...' + chr(10)).strip()}"


def trial_spec(
    options: TuneOptions, settings: dict[str, Any], until: int | None = None
) -> RepresentationSpec:
    """The spec of one trial, in the storage and catalog of the search.

    Args:
        options: what is asked for.
        settings: by key of the spec.
        until: microseconds; trained before then where the spec itself says nothing.

    Raises:
        SpecError: the settings do not go together.
    """
    texts = [as_override(key, value) for key, value in settings.items()]
    spec = read_spec(options.path, [*options.overrides, *texts])
    storage = options.work.resolve() / "unirep"
    training = spec.training
    if training.until is None and until is not None:
        training = training.model_copy(update={"until": until})
    return spec.model_copy(
        update={
            "name": f"{spec.name[:_LONGEST_NAME]}_tune",
            "training": training,
            "storage": str(storage),
            "catalog": f"sqlite:///{storage}/catalog.db",
            "folder": str(Path(spec.folder).resolve()),
        }
    )
