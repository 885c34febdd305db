"""From a task of the file to checked examples in three splits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from pydantic import BaseModel, ValidationError

from unirep_feast.catalogue import read_items
from unirep_feast.errors import EvaluationError, PluginError, SpecError, UnirepError, one_line
from unirep_feast.evaluation.config import EvaluationConfig, TaskConfig
from unirep_feast.evaluation.kinds import BUILT_IN
from unirep_feast.evaluation.metrics import check_metric
from unirep_feast.events import read_events
from unirep_feast.instants import MICROSECONDS_PER_DAY, format_instant
from unirep_feast.packing import pack
from unirep_feast.plugins import load_plugins
from unirep_feast.spec_file import problems
from unirep_feast.splits import hash_ids, shares
from unirep_feast.task import PROBLEMS, Examples, Problem, Task, TaskLog

#: Of the hash that draws ``max_users``; another than that of the splits.
_SAMPLE_SEED = 7_919


@dataclass(frozen=True)
class LoadedTask:
    """A task of the file, built.

    Attributes:
        config: what the file says.
        task: makes the examples.
        cut_off: T, microseconds.
        times: as-of times of features.
        identity: kind, and for a plugin's the distribution and version.
    """

    config: TaskConfig
    task: Task
    cut_off: int
    times: tuple[int, ...]
    identity: str


@dataclass(frozen=True)
class SplitExamples:
    """Examples and which of them are for what.

    Attributes:
        loaded: the task.
        examples: as the task made them, sorted as it left them.
        train, valid, test: int64 rows of the examples; no user is in two of them.
    """

    loaded: LoadedTask
    examples: Examples
    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray


def read_task_log(config: EvaluationConfig, read: Any = read_events) -> TaskLog:
    """Read events and items of a task file.

    Raises:
        EventsError: they cannot be read.
    """
    source = config.source()
    packed = pack(read(source, None), config.events.duplicates)
    return TaskLog.build(packed, read_items(source), config.folder)


def load_tasks(config: EvaluationConfig, only: tuple[str, ...] = ()) -> list[LoadedTask]:
    """Build the tasks of a file; all problems of all of them are told at once.

    Args:
        config: the file.
        only: names; the others are left out. Empty: all.

    Raises:
        SpecError: a kind is unknown, or settings are wrong.
        EvaluationError: ``only`` names a task that is not there.
    """
    unknown = sorted(set(only) - {task.name for task in config.tasks})
    if unknown:
        known = ", ".join(task.name for task in config.tasks)
        raise EvaluationError(f"no task {', '.join(unknown)} in {config.name}; found {known}")
    wrong: list[str] = []
    loaded: list[LoadedTask] = []
    for task in config.tasks:
        if only and task.name not in only:
            continue
        try:
            loaded.append(_load(task, config.time_of(task)))
        except SpecError as error:
            wrong += [f"task {task.name!r}: {problem}" for problem in error.problems]
        except UnirepError as error:
            wrong.append(f"task {task.name!r}: {error}")
    if wrong:
        raise SpecError(f"tasks {config.name}", wrong)
    return loaded


def make_examples(config: EvaluationConfig, loaded: LoadedTask, log: TaskLog) -> SplitExamples:
    """Make the examples of a task and split them by user.

    Raises:
        EvaluationError: the log does not reach far enough, the task broke its contract, or a split
            is empty or of one class.
    """
    name, task = loaded.config.name, loaded.task
    horizon = task.horizon(loaded.cut_off)
    # The last event need not fall on the last day; a log that ends days before is cut short.
    if horizon > log.until + MICROSECONDS_PER_DAY:
        raise EvaluationError(
            f"task {name!r}: labels come from events until {format_instant(horizon)}, but the log "
            f"ends at {format_instant(log.until)}; choose an earlier cut_off or fewer days"
        )
    try:
        examples = task.examples(log, loaded.cut_off)
    except UnirepError as error:
        raise EvaluationError(f"task {name!r}: {error}") from None
    except Exception as error:
        raise PluginError(
            f"task {name!r} of {loaded.identity} failed: {type(error).__name__}: {one_line(error)}"
        ) from error
    _check(loaded, examples, log)
    examples = _chosen(loaded.config, loaded.cut_off, examples, log)
    splits = config.splits
    of_user = shares(log.users, splits.valid, splits.test, splits.seed)
    share = of_user[examples.users]
    scored = np.ones(len(examples), bool) if examples.scored is None else examples.scored
    train, valid = np.flatnonzero(share == 0), np.flatnonzero(share == 1)
    test = np.flatnonzero((share == 2) & scored)
    made = SplitExamples(loaded, examples, train, valid, test)
    _check_splits(made)
    return made


def take(examples: Examples, rows: np.ndarray) -> Examples:
    """Keep some rows, in rising order."""
    changes: dict[str, Any] = {"users": examples.users[rows], "as_of": examples.as_of[rows]}
    for name in ("items", "groups", "context", "scored"):
        column = getattr(examples, name)
        changes[name] = None if column is None else column[rows]
    if len(examples.targets):
        changes["targets"] = examples.targets[rows]
    if examples.offsets is not None and examples.positives is not None:
        sizes = np.diff(examples.offsets)
        kept = np.zeros(len(examples), bool)
        kept[rows] = True
        changes["positives"] = examples.positives[np.repeat(kept, sizes)]
        changes["offsets"] = np.concatenate(([0], np.cumsum(sizes[rows])))
    return replace(examples, **changes)


def _load(task: TaskConfig, cut_off: int) -> LoadedTask:
    build: Callable[[Any], Task]
    settings: type[BaseModel]
    if task.kind in BUILT_IN:
        settings, build = BUILT_IN[task.kind]
        identity = task.kind
    else:
        registry = load_plugins()
        try:
            registered = registry.get("task", task.kind)
        except PluginError as error:
            if "no plugin offers" not in str(error):
                raise
            known = ", ".join([*BUILT_IN, *registry.names("task")])
            raise EvaluationError(f"unknown kind {task.kind!r}; found {known}") from None
        settings, build = registered.settings, registered.build
        plugin = registered.plugin
        identity = f"{task.kind} from {plugin.distribution} {plugin.version}"
    try:
        parsed = settings.model_validate(task.settings)
    except ValidationError as error:
        wrong = problems(error)
        known = ", ".join(settings.model_fields)
        wrong[-1] += f" (the settings of {task.kind!r} are {known})"
        raise SpecError(f"kind {task.kind!r}", wrong) from None
    try:
        built = build(parsed)
        times = tuple(int(when) for when in built.times(cut_off))
    except UnirepError:
        raise
    except Exception as error:
        raise PluginError(
            f"{identity} could not be built: {type(error).__name__}: {one_line(error)}"
        ) from error
    if built.problem not in PROBLEMS:
        raise EvaluationError(
            f"{identity} has problem {built.problem!r}; wanted {', '.join(PROBLEMS)}"
        )
    if not built.metrics:
        raise EvaluationError(f"{identity} names no metric")
    for metric in built.metrics:
        check_metric(built.problem, metric)
    early = [when for when in times if when < cut_off]
    if early or not times:
        found = format_instant(early[0]) if early else "none"
        raise EvaluationError(
            f"{identity}: as-of times must not be before the cut-off "
            f"{format_instant(cut_off)}, found {found}"
        )
    return LoadedTask(task, built, cut_off, times, identity)


def _check(loaded: LoadedTask, examples: Examples, log: TaskLog) -> None:
    """Refuse examples that are not what the contract says."""
    name, n, problem = loaded.config.name, len(examples), loaded.task.problem
    shapes: dict[Problem, int] = {"multilabel": 2, "ranking": 0}
    wrong = ""
    if len(examples.as_of) != n or (n and not np.isin(examples.as_of, loaded.times).all()):
        wrong = "as_of must hold one of the task's times for every example"
    elif n and not 0 <= examples.users.min() <= examples.users.max() < len(log.users):
        wrong = "users must be rows of the log's users"
    elif shapes.get(problem, 1) == 0:
        parts = (examples.candidates, examples.offsets, examples.positives, examples.popularity)
        if any(part is None for part in parts):
            wrong = "a ranking needs candidates, offsets, positives and popularity"
    elif examples.targets.ndim != shapes.get(problem, 1) or len(examples.targets) != n:
        wrong = f"targets are {examples.targets.shape}; wanted {n} rows of a {problem} task"
    elif not np.isfinite(examples.targets).all():
        wrong = "targets are not all finite"
    elif problem == "impressions" and (examples.items is None or examples.groups is None):
        wrong = "impressions need items and groups"
    if wrong:
        raise PluginError(f"task {name!r} of {loaded.identity}: {wrong}")


def _chosen(config: TaskConfig, cut_off: int, examples: Examples, log: TaskLog) -> Examples:
    """Apply what the file says of whose examples are used, and whose are scored."""
    history = np.bincount(log.before(cut_off).users, minlength=len(log.users))
    keep = history[examples.users] >= config.min_history
    if config.max_users is not None:
        users = np.unique(examples.users[keep])
        order = np.argsort(hash_ids(log.users, _SAMPLE_SEED)[users], kind="stable")
        keep &= np.isin(examples.users, users[order[: config.max_users]])
    if not keep.all():
        examples = take(examples, np.flatnonzero(keep))
    if config.max_history is not None:
        few = history[examples.users] <= config.max_history
        few = few if examples.scored is None else few & examples.scored
        examples = replace(examples, scored=few)
    return examples


def _check_splits(made: SplitExamples) -> None:
    name, problem = made.loaded.config.name, made.loaded.task.problem
    counts = f"{len(made.train):,} train, {len(made.valid):,} valid, {len(made.test):,} test"
    if min(len(made.train), len(made.valid), len(made.test)) < 2:
        raise EvaluationError(
            f"task {name!r}: {counts} examples; wanted at least 2 of each: more users, or another "
            "cut_off"
        )
    if problem in ("binary", "impressions", "multiclass"):
        for split in ("train", "valid", "test"):
            found = made.examples.targets[getattr(made, split)]
            if found.min() == found.max():
                raise EvaluationError(
                    f"task {name!r}: all {len(found):,} {split} examples have the same label; "
                    "choose another cut_off or window"
                )
