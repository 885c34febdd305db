"""The task file: YAML in, one frozen object out, every problem reported at once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import Field, ValidationError, model_validator

from unirep_feast.config import EventsConfig, Frozen, ItemsConfig, RepresentationSpec
from unirep_feast.errors import SpecError
from unirep_feast.instants import Instant
from unirep_feast.spec_file import problems, read_yaml

#: What learns targets from vectors; ``neighbors`` ranks what the nearest training users turned to,
#: ``direct`` and ``index`` learn nothing and compare a user's
#: vectors with those of items, ``fine_tune`` goes on training the encoder itself, ``blend`` weighs
#: what the others say.
Probe = Literal["logistic", "mlp", "boosting", "neighbors", "direct", "index", "fine_tune", "blend"]
PROBES: tuple[Probe, ...] = get_args(Probe)


class Splits(Frozen):
    """Shares of the users, by hash of the id: the same for every representation."""

    valid: float = Field(0.2, gt=0, lt=1, description="share that probes are chosen and stopped by")
    test: float = Field(0.2, gt=0, lt=1, description="share that is scored, for nothing else")
    # Not 0, which training splits by: else its validation users would all be test users here.
    seed: int = Field(2025, ge=0, description="another seed gives another split")

    @model_validator(mode="after")
    def _some_left(self) -> Splits:
        if self.valid + self.test >= 1:
            raise ValueError("`valid` + `test` must leave users to train on")
        return self


class MlpConfig(Frozen):
    """The papers' probe: a hidden layer of 128, Adam at 1e-3, batches of 256 (ICL, section 4.2)."""

    hidden: tuple[int, ...] = Field((128,), description="widths of the hidden layers")
    learning_rate: float = Field(1e-3, gt=0)
    batch_size: int = Field(256, ge=2)
    epochs: int = Field(50, ge=1, description="at most")
    patience: int = Field(5, ge=1, description="epochs without a better validation loss")
    dropout: float = Field(0.2, ge=0, lt=1)
    weight_decay: float = Field(1e-4, ge=0)


class LogisticConfig(Frozen):
    """A linear probe; its regularisation is chosen on the validation split."""

    penalties: tuple[float, ...] = Field(
        (1e-4, 1e-3, 1e-2, 1e-1, 1.0),
        min_length=1,
        description="of the mean squared weights, tried",
    )
    iterations: int = Field(100, ge=1, description="of L-BFGS, at most")


class BoostingConfig(Frozen):
    """Gradient boosting by LightGBM, stopped on the validation split."""

    rounds: int = Field(300, ge=1, description="trees per output, at most")
    patience: int = Field(20, ge=1, description="rounds without a better validation loss")
    learning_rate: float = Field(0.05, gt=0)
    leaves: int = Field(15, ge=2)
    min_rows: int = Field(20, ge=1, description="rows in a leaf")
    columns: float = Field(0.5, gt=0, le=1, description="share of the columns each tree looks at")
    rows: float = Field(0.8, gt=0, le=1, description="share of the rows each tree looks at")


class FineTuneConfig(Frozen):
    """The whole encoder with a linear head, by the host's own fit loop."""

    max_steps: int = Field(300, ge=1)
    batch_size: int = Field(64, ge=2)
    learning_rate: float = Field(1e-3, gt=0)
    validate_every: int = Field(25, ge=1)
    patience: int = Field(5, ge=1)


class TaskConfig(Frozen):
    """One task: a kind, a cut-off, and the kind's settings."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=64)
    kind: str = Field(description="a kind of ours, or one that a plugin registered")
    cut_off: Instant | None = Field(None, description="T; default: the file's")
    settings: dict[str, Any] = Field(default_factory=dict, description="of the kind")
    probes: tuple[Probe, ...] | None = Field(None, description="default: the file's that apply")
    label_fractions: tuple[float, ...] | None = Field(None, description="default: the file's")
    max_history: int | None = Field(
        None, ge=1, description="score only test users with at most so many events before T"
    )
    min_history: int = Field(1, ge=1, description="events before T that an example's user needs")
    max_users: int | None = Field(None, ge=10, description="a fixed sample of so many users")
    description: str = ""


class EvaluationConfig(Frozen):
    """A task file."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_-]*$", max_length=64)
    events: EventsConfig
    items: ItemsConfig | None = None
    cut_off: Instant | None = Field(None, description="T of every task that names none")
    splits: Splits = Splits()
    probes: tuple[Probe, ...] = Field(("logistic", "mlp", "boosting"), min_length=1)
    label_fractions: tuple[float, ...] = Field((1.0,), min_length=1)
    seeds: int = Field(3, ge=1, description="of probes and label subsets")
    training_seeds: int = Field(1, ge=1, description="runs per representation")
    blocks: bool = Field(
        True, description="where a vector has named blocks, probe each of them alone, too"
    )
    published: bool = Field(
        True,
        description="give probes what the view publishes beside the vectors, too: the number of "
        "events and the time since the last; not where things are ranked",
    )
    mlp: MlpConfig = MlpConfig()
    logistic: LogisticConfig = LogisticConfig()
    boosting: BoostingConfig = BoostingConfig()
    fine_tune: FineTuneConfig = FineTuneConfig()
    tasks: tuple[TaskConfig, ...] = Field(min_length=1)
    folder: str = Field(".", description="what relative paths are relative to; set by the loader")

    @model_validator(mode="after")
    def _tasks_are_whole(self) -> EvaluationConfig:
        names = [task.name for task in self.tasks]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"tasks: {', '.join(twice)} stands more than once; name each its own")
        late = [task.name for task in self.tasks if self.cut_off is None and task.cut_off is None]
        if late:
            raise ValueError(
                f"tasks: {', '.join(late)} without a cut-off; set `cut_off` there or for the file"
            )
        fractions = [self.label_fractions, *(t.label_fractions or (1.0,) for t in self.tasks)]
        wrong = [f for found in fractions for f in found if not 0 < f <= 1]
        if wrong:
            raise ValueError(f"label_fractions: wanted shares in (0, 1], found {wrong[0]}")
        return self

    def time_of(self, task: TaskConfig) -> int:
        """T of a task, microseconds."""
        found = task.cut_off if task.cut_off is not None else self.cut_off
        assert found is not None  # noqa: S101  # the validator has seen to it
        return found

    def source(self) -> RepresentationSpec:
        """What the package's readers of events and items take: a spec that trains nothing."""
        return RepresentationSpec.model_validate(
            {
                "name": "evaluation",
                "plugin": "none",
                "events": self.events,
                "items": self.items,
                "folder": self.folder,
            }
        )

    def task_key(self, task: TaskConfig) -> str:
        """Hash of what decides a task's examples, splits and probes' settings."""
        decisive = {
            "events": self.events.model_dump(mode="json"),
            "items": None if self.items is None else self.items.model_dump(mode="json"),
            "splits": self.splits.model_dump(mode="json"),
            "published": self.published,
            "cut_off": self.time_of(task),
            "task": task.model_dump(
                mode="json", exclude={"probes", "label_fractions", "description", "cut_off", "name"}
            ),
            "probes": [
                getattr(self, name).model_dump(mode="json")
                for name in ("mlp", "logistic", "boosting", "fine_tune")
            ],
        }
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:16]


def load_evaluation(path: str | Path, overrides: Sequence[str] = ()) -> EvaluationConfig:
    """Read a task file.

    Args:
        path: the YAML file; relative paths in it are relative to its folder.
        overrides: ``key.sub=value`` texts, the value in YAML, applied over the file.

    Raises:
        SpecError: the file is missing, is no YAML, or has problems (all of them are listed).
    """
    raw = read_yaml(path, overrides)
    try:
        return EvaluationConfig.model_validate(raw)
    except ValidationError as error:
        raise SpecError(f"tasks {path}", problems(error)) from None
