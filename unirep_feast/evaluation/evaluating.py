"""`unirep evaluate`: tasks and specs in, a leaderboard and its rows out; resumable at any cell."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from unirep_feast import __version__
from unirep_feast.errors import EvaluationError, UnirepError
from unirep_feast.evaluation.boosting import load_lightgbm
from unirep_feast.evaluation.candidates import (
    Candidate,
    Trained,
    check_candidates,
    refuse_leaks,
    trained,
)
from unirep_feast.evaluation.cells import missing_cells, wanted_cells
from unirep_feast.evaluation.computing import About, compute
from unirep_feast.evaluation.config import EvaluationConfig
from unirep_feast.evaluation.describing import about_run, about_task
from unirep_feast.evaluation.examples import (
    SplitExamples,
    load_tasks,
    make_examples,
    read_task_log,
)
from unirep_feast.evaluation.intrinsic import Measured, measure_all
from unirep_feast.evaluation.leaderboard import leaderboard, pairs
from unirep_feast.evaluation.lock import alone
from unirep_feast.evaluation.results import Cells, ResultFolder, Row, document, to_csv
from unirep_feast.evaluation.subject import (
    PUBLISHED,
    Subject,
    item_blocks,
    item_space,
    takes_published,
)
from unirep_feast.evaluation.telling import Telling
from unirep_feast.evaluation.tunable import can_fine_tune, fine_tuner
from unirep_feast.feature_store.private_repo import PrivateRepo
from unirep_feast.task import TaskLog


@dataclass(frozen=True)
class Options:
    """What a call of `unirep evaluate` asks for beside tasks and specs.

    Attributes:
        work: folder of results, runs and snapshots.
        only: names of tasks; empty: all.
        control: also train probes on shuffled labels.
        allow_leakage: accept models that have seen the labels; recorded in every row.
        intrinsic: also measure what needs no label.
        command: told in the document.
    """

    work: Path
    only: tuple[str, ...] = ()
    control: bool = False
    allow_leakage: bool = False
    intrinsic: bool = True
    command: str = ""


def evaluate(
    config: EvaluationConfig,
    candidates: Sequence[Candidate],
    options: Options,
    telling: Telling,
) -> dict[str, Any]:
    """Evaluate representations on tasks.

    Whatever is done is kept: a killed evaluation, or one with more specs, tasks or seeds, goes on
    where it stopped. A representation that fails does not stop the others.

    Args:
        config: the task file.
        candidates: what is evaluated.
        options: what is asked for.
        telling: progress, and how events are read.

    Returns:
        The document of :func:`~unirep_feast.evaluation.results.document`, with ``failures``: lines
        by representation. It is written to ``<work>/leaderboard.json``, rows to ``results.csv``.

    Raises:
        LeakageError: a model would have seen the labels.
        UnirepError: the tasks or all representations cannot be evaluated.
    """
    started = time.time()
    check_candidates(candidates)
    tasks = load_tasks(config, options.only)
    refuse_leaks(candidates, tasks, options.allow_leakage)
    if "boosting" in {probe for task in tasks for probe in task.config.probes or config.probes}:
        load_lightgbm()  # now, not after an hour
    with alone(options.work):
        log = read_task_log(config, telling.reader_of(config.source()))
        made = [make_examples(config, task, log) for task in tasks]
        job = _Evaluation(config, options, telling, log, made, _total(config, made, candidates))
        for seed in range(config.training_seeds):
            for candidate in candidates:
                job.candidate(candidate, seed)
        if not job.rows and job.failures:
            raise EvaluationError("; ".join(job.failures.values()))
        return job.finish(started)


@dataclass
class _Evaluation:
    config: EvaluationConfig
    options: Options
    telling: Telling
    log: TaskLog
    made: list[SplitExamples]
    total: int
    done: int = 0
    rows: list[Row] = field(default_factory=list)
    cells: dict[tuple[str, str, str], Cells] = field(default_factory=dict)
    runs: dict[tuple[str, str], Trained] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder = ResultFolder(self.options.work)
        self.log_hash = _hash(self.log)

    def candidate(self, candidate: Candidate, seed: int) -> None:
        """Train, encode and probe one representation; note why where it cannot be."""
        name = candidate.spec.name
        if name in self.failures:
            return
        groups: dict[int, list[SplitExamples]] = {}
        for made in self.made:
            groups.setdefault(candidate.until(made.loaded), []).append(made)
        try:
            for until, tasks in groups.items():
                self._run(candidate, until, seed, tasks)
        except UnirepError as error:
            self.failures[name] = f"{name}: {error}"
            self.telling.notify(f"{name} failed: {error}")

    def _run(self, candidate: Candidate, until: int, seed: int, tasks: list[SplitExamples]) -> None:
        name, telling = candidate.spec.name, self.telling
        self._advance(f"{name}: training")
        read = telling.reader_of(candidate.spec)

        def quiet(line: str) -> None:
            telling.notify(f"{name}: {line}")

        run = trained(candidate, until, seed, self.options.work, telling.on_record, quiet, read)
        self.runs[name, run.run.id] = run
        times = sorted({when for made in tasks for when in made.loaded.times})
        self._advance(f"{name}: encoding")
        run.encode(times, self.options.allow_leakage, None, quiet, read)
        repo = PrivateRepo(run.spec, self.options.work / "feast" / run.spec.name)
        for made in tasks:
            self._task(run, repo, made)

    def _task(self, run: Trained, repo: PrivateRepo, made: SplitExamples) -> None:
        task = made.loaded.config
        key = self._key(made)
        cells = self.folder.cells(run.name, run.run.id, task.name, key)
        space = item_space(run, made, self.log)
        tunable = can_fine_tune(run, made)
        blocks, beside = run.manifest.blocks, takes_published(self.config, made)
        if beside:
            blocks = {PUBLISHED: (0, 0), **blocks}
        whole = (self.config, made, space is not None, tunable, self.options.control)
        wanted = wanted_cells(*whole, tuple(blocks), item_blocks(space, blocks))
        self.total += len(wanted) - len(wanted_cells(*whole))  # not foreseen: blocks are the run's
        missing = missing_cells(cells, wanted)
        self.done += len(wanted) - len(missing)
        self._advance(f"{run.name}: {task.name}")
        if missing:
            users = self.log.users.take(pa.array(made.examples.users))
            features, known = repo.fetch(users, made.examples.as_of)
            published = repo.fetch_published(users, made.examples.as_of) if beside else None
            tune = fine_tuner(self.config, run, made, self.log, self.telling.reader_of)
            subject = Subject(features, known, space, tune, blocks, published)
            leaks = run.leaks(min(made.loaded.times))
            about = About(self.config.name, run.name, run.run.id, run.run_seed, leaks)
            found = compute(self.config, made, subject, self.log.users, missing, cells, about)
            for cell in found:
                self.folder.save(run.name, run.run.id, task.name, cells)
                self.done += 1
                self._advance(f"{run.name}: {task.name}, {cell.probe}")
        for cell in wanted:
            self.rows += cells.rows[cell.key]
        self.cells[run.name, run.run.id, task.name] = cells

    def finish(self, started: float) -> dict[str, Any]:
        """Measure what needs no label, rank, and write it all down."""
        intrinsic: list[dict[str, Any]] = []
        if self.options.intrinsic:
            self._advance("intrinsic measures")
            intrinsic = measure_all(
                [Measured(run, min(run.encoded)) for run in self.runs.values()],
                self.folder,
                self.log,
                self.options.allow_leakage,
                self.telling.notify,
                self.telling.reader_of,
            )
        entries = leaderboard(self.rows, self.cells)
        whole = document(
            self.config.name,
            [about_task(made) for made in self.made],
            [about_run(run) for run in self.runs.values()],
            self.rows,
            entries,
            intrinsic,
            {
                "created": datetime.now(UTC).isoformat(timespec="seconds"),
                "seconds": round(time.time() - started, 1),
                "command": self.options.command,
                "version": __version__,
                "control": self.options.control,
                "published": self.config.published,
                "failures": self.failures,
                "pairs": pairs(self.rows, self.cells, entries),
            },
        )
        self.folder.write_text("results.csv", to_csv(self.rows))
        self.folder.write_json("leaderboard.json", whole)
        return whole

    def _key(self, made: SplitExamples) -> str:
        """Hash of all that decides a task's figures, but for the run."""
        parts = [self.config.task_key(made.loaded.config), made.loaded.identity, self.log_hash]
        return hashlib.sha256("|".join(parts).encode()).hexdigest()[:16]

    def _advance(self, text: str) -> None:
        self.telling.advance(self.done, self.total, text)


def _total(
    config: EvaluationConfig, made: list[SplitExamples], candidates: Sequence[Candidate]
) -> int:
    """Cells there will be at most, for the progress bar."""
    cells = sum(len(wanted_cells(config, each, tunable=True)) for each in made)
    return cells * len(candidates) * config.training_seeds


def _hash(log: TaskLog) -> str:
    """Of every event that tasks see."""
    digest = hashlib.sha256()
    events = log.events
    for column in (events.users, events.items, events.times, events.values, events.types):
        if column is not None:
            digest.update(np.ascontiguousarray(column).data)
    for ids in (log.users, log.items):
        digest.update("\n".join(map(str, ids.to_pylist())).encode())
    return digest.hexdigest()[:16]
