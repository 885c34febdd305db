"""`unirep tune`: a spec and its search space in, trials in the catalog and the best of them out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from unirep_feast.config import RepresentationSpec
from unirep_feast.errors import EvaluationError, UnirepError
from unirep_feast.evaluation.candidates import Candidate, as_trained, ensure_run
from unirep_feast.evaluation.judging import Judging, judging_of
from unirep_feast.evaluation.lock import alone
from unirep_feast.evaluation.study import load_optuna, open_study, requeue, suggest
from unirep_feast.evaluation.telling import Telling
from unirep_feast.evaluation.trials import Trial, TuneOptions, trial_spec
from unirep_feast.pipeline.loading import read_spec

#: Attribute of a trial that names its run.
RUN = "run"


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
    _check_space(spec)
    judging = judging_of(spec, options, telling)
    with alone(options.work):
        study = open_study(optuna, spec, options, judging)
        search = _Search(optuna, options, judging, telling)
        requeue(optuna, study)

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
        return _summary(optuna, study, search)


class _Search:
    """Runs trials."""

    def __init__(
        self, optuna: Any, options: TuneOptions, judging: Judging, telling: Telling
    ) -> None:
        self.optuna, self.options = optuna, options
        self.judging, self.telling = judging, telling
        self.space = read_spec(options.path, options.overrides).search
        self.until = None if judging.task is None else judging.task.until
        self.error = ""

    def trial(self, trial: Any) -> float:
        """Train and judge one point of the space."""
        try:
            settings = {key: suggest(trial, key, what) for key, what in self.space.items()}
            spec = trial_spec(self.options, settings, self.until)
            read = self.telling.reader_of(spec)
            run, seconds = ensure_run(spec, self._watch(trial), lambda line: None, read)
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


def _check_space(spec: RepresentationSpec) -> None:
    if not spec.search:
        raise EvaluationError(
            f"spec {spec.name} names nothing to search; add a section such as search: "
            "{training.learning_rate: {low: 1.0e-4, high: 1.0e-2, log: true}}"
        )


def _told(study: Any, finished: int) -> str:
    return f"best {study.best_value:.4f}" if finished else "trials"


def _summary(optuna: Any, study: Any, search: _Search) -> Tuned:
    states = optuna.trial.TrialState
    done = [trial for trial in study.trials if trial.state == states.COMPLETE]
    if not done:
        raise EvaluationError(f"no trial could be trained; the last one: {search.error}")
    done.sort(key=lambda trial: -trial.value if search.judging.higher else trial.value)
    trials = tuple(
        Trial(t.number, t.user_attrs[RUN], float(t.value), t.user_attrs["settings"]) for t in done
    )

    def count(state: Any) -> int:
        return sum(trial.state == state for trial in study.trials)

    return Tuned(
        best=trials[0],
        trials=trials,
        failed=count(states.FAIL),
        pruned=count(states.PRUNED),
        metric=search.judging.metric,
        catalog=f"sqlite:///{search.options.work.resolve()}/unirep/catalog.db",
    )
