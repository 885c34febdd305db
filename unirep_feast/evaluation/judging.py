"""The judge of a search: a trained trial in, its value out, without a look at the test split."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from unirep_feast.config import RepresentationSpec
from unirep_feast.errors import EvaluationError
from unirep_feast.evaluation.candidates import Candidate, Trained, refuse_leaks
from unirep_feast.evaluation.cells import Wanted, wanted_cells
from unirep_feast.evaluation.computing import About, compute
from unirep_feast.evaluation.config import EvaluationConfig
from unirep_feast.evaluation.examples import (
    SplitExamples,
    load_tasks,
    make_examples,
    read_task_log,
)
from unirep_feast.evaluation.metrics import higher_is_better
from unirep_feast.evaluation.results import Cells
from unirep_feast.evaluation.subject import Subject, item_space, takes_published
from unirep_feast.evaluation.telling import Telling
from unirep_feast.evaluation.trials import Judge, TuneOptions
from unirep_feast.feature_store.private_repo import PrivateRepo
from unirep_feast.task import TaskLog


@dataclass(frozen=True)
class JudgingTask:
    """A task on which trials are compared.

    Attributes:
        config: the task file.
        made: examples of the task, test rows left out.
        log: the task's.
    """

    config: EvaluationConfig
    made: SplitExamples
    log: TaskLog

    @property
    def until(self) -> int:
        """Before when trials must be trained, microseconds."""
        return min(self.made.loaded.times)

    @property
    def key(self) -> str:
        """Hash of what decides its figures."""
        return self.config.task_key(self.made.loaded.config)

    def means(self, run: Trained, work: Path, telling: Telling) -> list[float]:
        """The metric on the validation split, of each probe the mean over its seeds."""
        subject = self._subject(run, work, telling)
        wanted = self._wanted(run, subject)
        about = About(self.config.name, run.name, run.run.id, run.run_seed, False)
        cells = Cells("")
        for _ in compute(self.config, self.made, subject, self.log.users, wanted, cells, about):
            pass
        by_probe: dict[str, list[float]] = {}
        for rows in cells.rows.values():
            for row in rows:
                if row.primary and row.split == "valid":
                    by_probe.setdefault(row.probe, []).append(row.value)
        return [float(np.mean(values)) for values in by_probe.values()]

    def _subject(self, run: Trained, work: Path, telling: Telling) -> Subject:
        made = self.made
        read = telling.reader_of(run.spec)
        run.encode(made.loaded.times, True, None, telling.notify, read)
        users = self.log.users.take(pa.array(made.examples.users))
        repo, when = PrivateRepo(run.spec, work / "feast"), made.examples.as_of
        beside = takes_published(self.config, made)
        published = repo.fetch_published(users, when) if beside else None
        features, known = repo.fetch(users, when)
        space = item_space(run, made, self.log)
        return Subject(features, known, space, None, published=published)

    def _wanted(self, run: Trained, subject: Subject) -> list[Wanted]:
        """With all labels; without the index, which only comes near what ``direct`` finds."""
        wanted = [
            cell
            for cell in wanted_cells(self.config, self.made, subject.items is not None)
            if cell.fraction == 1 and cell.probe != "index"
        ]
        if not wanted:
            raise EvaluationError(
                f"task {self.made.loaded.config.name!r}: none of its probes suits {run.name!r}"
            )
        return wanted


@dataclass(frozen=True)
class Judging:
    """How a trial gets its value.

    Attributes:
        metric: its name.
        higher: whether more is better.
        task: None judges by the validation loss.
    """

    metric: str
    higher: bool
    task: JudgingTask | None = None

    def value(self, run: Trained, work: Path, telling: Telling) -> float:
        """Judge a run; by a task, its best probe speaks for it."""
        if self.task is None:
            return _validation_loss(run)
        means = self.task.means(run, work, telling)
        return max(means) if self.higher else min(means)


def judging_of(spec: RepresentationSpec, options: TuneOptions, telling: Telling) -> Judging:
    """Make ready what trials are judged by.

    Raises:
        EvaluationError: there is no validation loss, or it is what pruning looks at while a task
            judges.
        LeakageError: trials would have seen the labels of the task.
    """
    if options.judge is not None:
        if options.prune:
            raise EvaluationError("--prune looks at validation losses; leave it out with --task")
        return _by_task(options.judge, Candidate(options.path, spec), telling)
    if not spec.training.validation:
        raise EvaluationError(
            "trials are judged by the validation loss, but training.validation is 0; raise it, "
            "or judge by a task with --tasks FILE --task NAME"
        )
    return Judging("validation loss", higher=False)


def _by_task(judge: Judge, candidate: Candidate, telling: Telling) -> Judging:
    (loaded,) = load_tasks(judge.config, (judge.task,))
    refuse_leaks([candidate], [loaded], False)
    log = read_task_log(judge.config, telling.reader_of(judge.config.source()))
    made = make_examples(judge.config, loaded, log)
    made = replace(made, test=made.valid)  # what is tuned never sees the test split
    metric = loaded.task.metrics[0]
    named = f"{judge.task}, {metric} on the validation split"
    return Judging(named, higher_is_better(metric), JudgingTask(judge.config, made, log))


def _validation_loss(run: Trained) -> float:
    loss = (run.run.metrics or {}).get("best_loss")
    if loss is None:
        raise EvaluationError(
            f"run {run.run.id} has no validation loss; set training.validation above 0"
        )
    return float(loss)
