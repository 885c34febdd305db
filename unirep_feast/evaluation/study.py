"""The Optuna study behind a search: opened, or gone on with, and asked for points of the space."""

from __future__ import annotations

import json
from typing import Any

from unirep_feast.config import RepresentationSpec, SearchConfig
from unirep_feast.errors import EvaluationError
from unirep_feast.evaluation.judging import Judging
from unirep_feast.evaluation.trials import TuneOptions
from unirep_feast.pipeline.loading import read_spec


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


def open_study(
    optuna: Any, spec: RepresentationSpec, options: TuneOptions, judging: Judging
) -> Any:
    """Open the study of this search, or begin it.

    Raises:
        EvaluationError: the folder holds another search.
    """
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
    decisive = _decisive(spec, options, judging)
    known = study.user_attrs.get("decisive")
    if known is None:
        study.set_user_attr("decisive", decisive)
    elif known != decisive:
        raise EvaluationError(
            f"{options.work} holds a search of another spec, space or task; name another folder "
            "with --work, or restore what it was"
        )
    return study


def requeue(optuna: Any, study: Any) -> None:
    """Let trials that a killed process left behind be tried again; their runs resume."""
    running = optuna.trial.TrialState.RUNNING
    for trial in study.get_trials(states=(running,)):
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
        study.enqueue_trial(trial.params)


def suggest(trial: Any, key: str, what: SearchConfig) -> Any:
    """Ask the study for one setting of a trial.

    Args:
        trial: Optuna's.
        key: of the spec.
        what: where to look.
    """
    if what.choices is not None:
        # As text: Optuna takes no lists among its choices.
        texts = [json.dumps(choice, sort_keys=True) for choice in what.choices]
        return json.loads(trial.suggest_categorical(key, texts))
    if what.whole:
        return trial.suggest_int(key, int(what.low or 0), int(what.high or 0), log=what.log)
    return trial.suggest_float(key, what.low, what.high, log=what.log)


def _decisive(spec: RepresentationSpec, options: TuneOptions, judging: Judging) -> str:
    """What two searches must share to go on in one study."""
    return json.dumps(
        {
            "spec": read_spec(options.path, options.overrides).fingerprint(),
            "search": spec.model_dump(mode="json")["search"],
            "metric": judging.metric,
            "task": None if judging.task is None else judging.task.key,
        },
        sort_keys=True,
    )
