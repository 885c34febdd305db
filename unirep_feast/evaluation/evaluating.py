"""`unirep evaluate`: tasks and specs in, a leaderboard and its rows out; resumable at any cell."""

from __future__ import annotations

import fcntl
import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from unirep_feast import __version__
from unirep_feast.config import RepresentationSpec, format_instant
from unirep_feast.errors import EvaluationError, UnirepError
from unirep_feast.evaluation.boosting import load_lightgbm
from unirep_feast.evaluation.candidates import (
    Candidate,
    ReaderOf,
    Trained,
    check_candidates,
    refuse_leaks,
    trained,
)
from unirep_feast.evaluation.cells import missing_cells, wanted_cells
from unirep_feast.evaluation.chance import chance
from unirep_feast.evaluation.computing import About, compute
from unirep_feast.evaluation.config import EvaluationConfig
from unirep_feast.evaluation.examples import (
    SplitExamples,
    load_tasks,
    make_examples,
    read_task_log,
)
from unirep_feast.evaluation.intrinsic import Measured, measure_all
from unirep_feast.evaluation.leaderboard import leaderboard, pairs
from unirep_feast.evaluation.metrics import higher_is_better
from unirep_feast.evaluation.ranking import ItemSpace
from unirep_feast.evaluation.results import Cells, ResultFolder, Row, document, to_csv
from unirep_feast.evaluation.subject import Subject
from unirep_feast.evaluation.tunable import can_fine_tune, fine_tuner
from unirep_feast.feature_store.private_repo import PrivateRepo
from unirep_feast.pipeline.job import OnRecord
from unirep_feast.progress import Advance
from unirep_feast.snapshot import read_vectors
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


@dataclass(frozen=True)
class Telling:
    """How an evaluation talks to people.

    Attributes:
        advance: called with cells done, cells in all, and what is being done.
        notify: called with lines.
        reader_of: gives what reads the events of a spec.
        on_record: called for every record of a training.
    """

    reader_of: ReaderOf
    advance: Advance = lambda done, total, text: None
    notify: Callable[[str], None] = lambda line: None
    on_record: OnRecord = lambda record: None


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
        wanted = wanted_cells(self.config, made, space is not None, tunable, self.options.control)
        missing = missing_cells(cells, wanted)
        self.done += len(wanted) - len(missing)
        self._advance(f"{run.name}: {task.name}")
        if missing:
            users = self.log.users.take(pa.array(made.examples.users))
            features, known = repo.fetch(users, made.examples.as_of)
            tune = fine_tuner(self.config, run, made, self.log, self.telling.reader_of)
            subject = Subject(features, known, space, tune)
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
            [self._about_task(made) for made in self.made],
            [self._about_run(run) for run in self.runs.values()],
            self.rows,
            entries,
            intrinsic,
            {
                "created": datetime.now(UTC).isoformat(timespec="seconds"),
                "seconds": round(time.time() - started, 1),
                "command": self.options.command,
                "version": __version__,
                "control": self.options.control,
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

    def _about_task(self, made: SplitExamples) -> dict[str, Any]:
        loaded = made.loaded
        metric = loaded.task.metrics[0]
        return {
            "name": loaded.config.name,
            "kind": loaded.config.kind,
            "cut_off": format_instant(loaded.cut_off),
            "as_of": [format_instant(when) for when in loaded.times],
            "metric": metric,
            "higher_is_better": higher_is_better(metric),
            "description": loaded.config.description,
            "outputs": list(made.examples.outputs),
            "rows": len(made.examples),
            "train": len(made.train),
            "valid": len(made.valid),
            "test": len(made.test),
            "users": len(np.unique(made.examples.users)),
            "chance": {name: chance(made, name) for name in loaded.task.metrics},
        }

    def _about_run(self, run: Trained) -> dict[str, Any]:
        manifest, spec = run.manifest, run.spec
        as_of = min(run.encoded)
        items = run.item_snapshot(as_of)
        return {
            "name": run.name,
            "spec": str(Path(run.path).resolve()),
            "run": run.run.id,
            "run_seed": run.run_seed,
            "encoder": manifest.identity["encoder"]["name"],
            "num_vectors": manifest.num_vectors,
            "dim": manifest.dim,
            "trained_until": format_instant(manifest.trained_until),
            "folder": str(spec.home / "runs" / run.run.id),
            "snapshot": str(run.snapshot(as_of)),
            "as_of": format_instant(as_of),
            "item_snapshot": None if items is None else str(items),
            "join_key": spec.view.join_key,
            "item_key": spec.view.item_key,
            "train_seconds": round(run.seconds, 1),
            "encode_seconds": round(sum(run.encoded.values()), 1),
            "leakage_allowed": any(run.leaks(when) for when in run.encoded),
            "events": _path(spec),
            "items": None if spec.items is None else spec.resolve(spec.items.path),
        }


def _path(spec: RepresentationSpec) -> str | None:
    return None if spec.events.path is None else spec.resolve(spec.events.path)


def _total(
    config: EvaluationConfig, made: list[SplitExamples], candidates: Sequence[Candidate]
) -> int:
    """Cells there will be at most, for the progress bar."""
    cells = sum(len(wanted_cells(config, each, tunable=True)) for each in made)
    return cells * len(candidates) * config.training_seeds


def item_space(run: Trained, made: SplitExamples, log: TaskLog) -> ItemSpace | None:
    """Item vectors of a run lined up with a task's candidates; None where it has none."""
    problem = made.loaded.task.problem
    path = run.item_snapshot(min(made.loaded.times))
    if problem not in ("ranking", "impressions") or path is None:
        return None
    ids, vectors = read_vectors(path, run.spec.view.item_key)
    if ids.type != log.items.type:
        raise EvaluationError(
            f"{run.name}: item ids of its events are {ids.type}, those of the tasks' "
            f"{log.items.type}; write both logs alike"
        )
    wanted = log.items
    if problem == "ranking":
        wanted = wanted.take(pa.array(made.examples.candidates))
    place = pc.index_in(wanted, value_set=ids)
    known = place.is_valid().to_numpy(zero_copy_only=False)
    rows = pc.fill_null(place, 0).to_numpy(zero_copy_only=False)
    lined = vectors[rows] * known[:, None]
    return ItemSpace(
        lined.astype(np.float32), known, run.spec.view.metric, run.manifest.num_vectors
    )


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


@contextmanager
def alone(work: Path) -> Iterator[None]:
    """Let one evaluation at a time write to a folder; the system lets go if the process dies."""
    path = work / "evaluate.lock"
    try:
        work.mkdir(parents=True, exist_ok=True)
        handle = path.open("a+")
    except OSError as error:
        raise EvaluationError(
            f"{work} cannot be written: {error.strerror}; name another folder with --work"
        ) from None
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise EvaluationError(
                f"another evaluation is writing to {work}; wait for it, or name another folder "
                "with --work"
            ) from None
        yield
