"""`unirep tune`: a spec and its search space in, trials in the catalog and the best of them out."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import yaml

from unirep_feast.config import RepresentationSpec, SearchConfig
from unirep_feast.errors import EvaluationError, UnirepError
from unirep_feast.evaluation.candidates import (
    Candidate,
    Trained,
    as_trained,
    ensure_run,
    refuse_leaks,
)
from unirep_feast.evaluation.cells import wanted_cells
from unirep_feast.evaluation.computing import About, compute
from unirep_feast.evaluation.config import EvaluationConfig
from unirep_feast.evaluation.examples import (
    SplitExamples,
    load_tasks,
    make_examples,
    read_task_log,
)
from unirep_feast.evaluation.lock import alone
from unirep_feast.evaluation.metrics import higher_is_better
from unirep_feast.evaluation.results import Cells
from unirep_feast.evaluation.subject import Subject, item_space
from unirep_feast.evaluation.telling import Telling
from unirep_feast.feature_store.private_repo import PrivateRepo
from unirep_feast.pipeline.loading import read_spec
from unirep_feast.task import TaskLog

#: Attribute of a trial that names its run.
RUN = "run"

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


@dataclass(frozen=True)
class Tuned:
    """What a study has come to.

    Attributes:
        best: the best trial.
        trials: all finished ones, best first.
        failed: how many could not be trained.
        pruned: how many were stopped early.
        metric: what was judged by.
        catalog: where all trials are.
    """

    best: Trial
    trials: tuple[Trial, ...]
    failed: int
    pruned: int
    metric: str
    catalog: str


def load_optuna() -> Any:
    """Import Optuna.

    Raises:
        EvaluationError: it is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise EvaluationError(
            f"tuning needs Optuna ({error}); pip install 'unirep-feast[tune]'"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def tune(spec: RepresentationSpec, options: TuneOptions, telling: Telling) -> Tuned:
    """Search the space that a spec names, by Optuna's TPE.

    Every trial is a run of the representation ``<name>_tune`` in the catalog of ``work``. A killed
    search goes on: what was finished is known, and the trial that was cut short is resumed from its
    last checkpoint. The test split of a task is never looked at.

    Args:
        spec: the spec, for its ``search`` section.
        options: what is asked for.
        telling: progress, and how events are read.

    Raises:
        EvaluationError: there is nothing to search or to judge by, or no trial could be trained.
        LeakageError: trials would have seen the labels of the task.
    """
    optuna = load_optuna()
    judging = _judging(spec, options, telling)
    with alone(options.work):
        study = _study(optuna, spec, options, judging)
        search = _Search(optuna, options, judging, telling)
        search.requeue(study)

        def finished() -> int:
            return sum(trial.state == optuna.trial.TrialState.COMPLETE for trial in study.trials)

        tries = 0
        while finished() < options.trials and tries < 2 * options.trials:
            telling.advance(finished(), options.trials, _told(study, finished()))
            study.optimize(search.trial, n_trials=1, catch=(UnirepError,))
            tries += 1
            state = study.trials[-1]
            if state.state == optuna.trial.TrialState.FAIL:
                telling.notify(f"trial {state.number} failed: {search.error}")
        return _summary(optuna, study, search, judging)


@dataclass(frozen=True)
class _Judging:
    """How a trial gets its value.

    Attributes:
        metric: its name.
        higher: whether more is better.
        made: examples of the task, test rows left out; None judges by the validation loss.
        log: the task's.
        config: the task file.
    """

    metric: str
    higher: bool
    made: SplitExamples | None = None
    log: TaskLog | None = None
    config: EvaluationConfig | None = None

    def value(self, run: Trained, work: Path, telling: Telling) -> float:
        """Judge a run."""
        if self.made is None or self.log is None or self.config is None:
            loss = (run.run.metrics or {}).get("best_loss")
            if loss is None:
                raise EvaluationError(
                    f"run {run.run.id} has no validation loss; set training.validation above 0"
                )
            return float(loss)
        made, config = self.made, self.config
        read = telling.reader_of(run.spec)
        run.encode(made.loaded.times, True, None, telling.notify, read)
        users = self.log.users.take(pa.array(made.examples.users))
        features, known = PrivateRepo(run.spec, work / "feast").fetch(users, made.examples.as_of)
        space = item_space(run, made, self.log)
        subject = Subject(features, known, space, None)
        cells = Cells("")
        about = About(config.name, run.name, run.run.id, run.run_seed, False)
        wanted = [cell for cell in wanted_cells(config, made, space is not None)
                  if cell.fraction == 1 and cell.probe != "index"]  # fmt: skip
        if not wanted:
            raise EvaluationError(
                f"task {made.loaded.config.name!r}: none of its probes suits {run.name!r}"
            )
        for _ in compute(config, made, subject, self.log.users, wanted, cells, about):
            pass
        by_probe: dict[str, list[float]] = {}
        for rows in cells.rows.values():
            for row in rows:
                if row.primary and row.split == "valid":
                    by_probe.setdefault(row.probe, []).append(row.value)
        means = [float(np.mean(values)) for values in by_probe.values()]
        return max(means) if self.higher else min(means)


class _Search:
    """Runs trials."""

    def __init__(
        self, optuna: Any, options: TuneOptions, judging: _Judging, telling: Telling
    ) -> None:
        self.optuna, self.options = optuna, options
        self.judging, self.telling = judging, telling
        self.space = read_spec(options.path, options.overrides).search
        self.error = ""
        self.catalog = ""

    def requeue(self, study: Any) -> None:
        """Let trials that a killed process left behind be tried again; their runs resume."""
        running = self.optuna.trial.TrialState.RUNNING
        for trial in study.get_trials(states=(running,)):
            study.tell(trial.number, state=self.optuna.trial.TrialState.FAIL)
            study.enqueue_trial(trial.params)

    def trial(self, trial: Any) -> float:
        """Train and judge one point of the space."""
        try:
            settings = {key: _suggest(trial, key, what) for key, what in self.space.items()}
            spec = trial_spec(self.options, settings, self.judging.made)
            self.catalog = str(spec.catalog)
            on_record = self._watch(trial)
            read = self.telling.reader_of(spec)
            run, seconds = ensure_run(spec, on_record, lambda line: None, read)
            trial.set_user_attr(RUN, run.id)
            trial.set_user_attr("settings", settings)
            made = as_trained(Candidate(self.options.path, spec), spec, run, seconds)
            return self.judging.value(made, self.options.work, self.telling)
        except UnirepError as error:
            self.error = str(error)
            raise

    def _watch(self, trial: Any) -> Callable[[Any], None]:
        """Tell progress, and stop what will not become the best."""

        def watch(record: Any) -> None:
            self.telling.on_record(record)
            if self.options.prune and record.kind == "validation":
                trial.report(record.values["loss"], record.step)
                if trial.should_prune():
                    raise self.optuna.TrialPruned

        return watch


def as_override(key: str, value: Any) -> str:
    """A setting as ``--set`` takes it: ``key=value``, the value in YAML."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6)
    return f"{key}={text.removesuffix('...' + chr(10)).strip()}"


def trial_spec(
    options: TuneOptions, settings: dict[str, Any], made: SplitExamples | None = None
) -> RepresentationSpec:
    """The spec of one trial, in the storage and catalog of the search.

    Raises:
        SpecError: the settings do not go together.
    """
    texts = [as_override(key, value) for key, value in settings.items()]
    spec = read_spec(options.path, [*options.overrides, *texts])
    storage = options.work.resolve() / "unirep"
    training = spec.training
    if training.until is None and made is not None:
        training = training.model_copy(update={"until": min(made.loaded.times)})
    return spec.model_copy(
        update={
            "name": f"{spec.name[:_LONGEST_NAME]}_tune",
            "training": training,
            "storage": str(storage),
            "catalog": f"sqlite:///{storage}/catalog.db",
            "folder": str(Path(spec.folder).resolve()),
        }
    )


def _judging(spec: RepresentationSpec, options: TuneOptions, telling: Telling) -> _Judging:
    if not spec.search:
        raise EvaluationError(
            f"spec {spec.name} names nothing to search; add a section such as search: "
            "{training.learning_rate: {low: 1.0e-4, high: 1.0e-2, log: true}}"
        )
    judge = options.judge
    if judge is None:
        if not spec.training.validation:
            raise EvaluationError(
                "trials are judged by the validation loss, but training.validation is 0; raise it, "
                "or judge by a task with --tasks FILE --task NAME"
            )
        return _Judging("validation loss", higher=False)
    if options.prune:
        raise EvaluationError("--prune looks at validation losses; leave it out with --task")
    (loaded,) = load_tasks(judge.config, (judge.task,))
    refuse_leaks([Candidate(options.path, spec)], [loaded], False)
    log = read_task_log(judge.config, telling.reader_of(judge.config.source()))
    made = make_examples(judge.config, loaded, log)
    made = replace(made, test=made.valid)  # what is tuned never sees the test split
    metric = loaded.task.metrics[0]
    named = f"{judge.task}, {metric} on the validation split"
    return _Judging(named, higher_is_better(metric), made, log, judge.config)


def _study(optuna: Any, spec: RepresentationSpec, options: TuneOptions, judging: _Judging) -> Any:
    """Open the study of this search, or begin it; another search in the same folder is refused."""
    storage = f"sqlite:///{options.work.resolve()}/study.db"
    study = optuna.create_study(
        study_name=spec.name,
        storage=storage,
        direction="maximize" if judging.higher else "minimize",
        load_if_exists=True,
        pruner=optuna.pruners.MedianPruner() if options.prune else optuna.pruners.NopPruner(),
    )
    # A sampler that starts over with one seed would draw what it drew before.
    study.sampler = optuna.samplers.TPESampler(seed=options.seed + len(study.trials))
    decisive = json.dumps(
        {
            "spec": read_spec(options.path, options.overrides).fingerprint(),
            "search": spec.model_dump(mode="json")["search"],
            "metric": judging.metric,
            "task": None
            if judging.config is None or judging.made is None
            else judging.config.task_key(judging.made.loaded.config),
        },
        sort_keys=True,
    )
    known = study.user_attrs.get("decisive")
    if known is None:
        study.set_user_attr("decisive", decisive)
    elif known != decisive:
        raise EvaluationError(
            f"{options.work} holds a search of another spec, space or task; name another folder "
            "with --work, or restore what it was"
        )
    return study


def _suggest(trial: Any, key: str, what: SearchConfig) -> Any:
    if what.choices is not None:
        # As text: Optuna takes no lists among its choices.
        texts = [json.dumps(choice, sort_keys=True) for choice in what.choices]
        return json.loads(trial.suggest_categorical(key, texts))
    if what.whole:
        return trial.suggest_int(key, int(what.low or 0), int(what.high or 0), log=what.log)
    return trial.suggest_float(key, what.low, what.high, log=what.log)


def _told(study: Any, finished: int) -> str:
    return f"best {study.best_value:.4f}" if finished else "trials"


def _summary(optuna: Any, study: Any, search: _Search, judging: _Judging) -> Tuned:
    states = optuna.trial.TrialState
    done = [trial for trial in study.trials if trial.state == states.COMPLETE]
    if not done:
        raise EvaluationError(f"no trial could be trained; the last one: {search.error}")
    done.sort(key=lambda trial: -trial.value if judging.higher else trial.value)
    trials = tuple(
        Trial(t.number, t.user_attrs[RUN], float(t.value), t.user_attrs["settings"]) for t in done
    )
    catalog = f"sqlite:///{search.options.work.resolve()}/unirep/catalog.db"

    def count(states_wanted: Sequence[Any]) -> int:
        return sum(trial.state in states_wanted for trial in study.trials)

    return Tuned(
        trials[0],
        trials,
        count([states.FAIL]),
        count([states.PRUNED]),
        judging.metric,
        catalog,
    )
