"""Representations under test: trained before each cut-off and encoded as of it, once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from unirep_feast.catalog import Catalog, Run
from unirep_feast.checkpoint import Manifest
from unirep_feast.config import RepresentationSpec
from unirep_feast.errors import EvaluationError, LeakageError
from unirep_feast.evaluation.examples import LoadedTask
from unirep_feast.instants import format_instant
from unirep_feast.pipeline import encode, train
from unirep_feast.pipeline.job import OnRecord
from unirep_feast.pipeline.loading import Notify, ReadEvents, open_catalog, serving_run
from unirep_feast.pipeline.restoring import final_checkpoint
from unirep_feast.plugins import load_plugins
from unirep_feast.snapshot import point_promoted, snapshot_path
from unirep_feast.trio import choose

_LONGEST_NAME = 40

#: Gives what reads the events of a spec.
ReaderOf = Callable[[RepresentationSpec], ReadEvents]


@dataclass(frozen=True)
class Candidate:
    """A spec that is evaluated.

    Attributes:
        path: of the spec.
        spec: as it was read.
        serving: evaluate the run that serves, instead of training one before each cut-off.
    """

    path: str
    spec: RepresentationSpec
    serving: bool = False

    def until(self, task: LoadedTask) -> int:
        """Before when its model must be, or was, trained to answer a task, microseconds."""
        if self.serving:
            run = serving_run(open_catalog(self.spec, create=False), self.spec, None)
            assert run.trained_until is not None  # noqa: S101
            return int(run.trained_until)
        given = self.spec.training.until
        return min(task.times) if given is None else given


@dataclass(frozen=True)
class Trained:
    """A finished run of a candidate that can be encoded as of any time.

    Attributes:
        name: of the candidate.
        spec: the spec that was trained; its promoted run is this one.
        path: of the candidate's spec.
        run: its row.
        manifest: of the final checkpoint.
        run_seed: that it was trained with.
        seconds: that training took; 0 if it was there.
        encoded: seconds by as-of time.
    """

    name: str
    spec: RepresentationSpec
    path: str
    run: Run
    manifest: Manifest
    run_seed: int
    seconds: float
    encoded: dict[int, float] = field(default_factory=dict)

    def snapshot(self, as_of: int) -> Path:
        """The snapshot of users as of a time."""
        return snapshot_path(self.spec.home, self.run.id, as_of)

    def item_snapshot(self, as_of: int) -> Path | None:
        """The snapshot of items as of a time, where the encoder has item vectors."""
        path = snapshot_path(self.spec.home, self.run.id, as_of, "item")
        return path if path.exists() else None

    def leaks(self, as_of: int) -> bool:
        """Whether the model has seen events at or after a time."""
        return self.run.trained_until is not None and as_of < self.run.trained_until

    def encode(
        self,
        times: Iterable[int],
        allow_leakage: bool,
        progress: Callable[[int, int], None] | None,
        notify: Notify,
        read: ReadEvents,
    ) -> None:
        """Make the snapshots as of some times that are not there."""
        for when in sorted(set(times) - set(self.encoded)):
            started = time.perf_counter()
            made = encode(
                self.spec,
                when,
                run=self.run.id,
                allow_model_leakage=allow_leakage,
                progress=progress,
                notify=notify,
                read=read,
            )
            self.encoded[when] = 0.0 if made.existed else time.perf_counter() - started


def refuse_leaks(
    candidates: Sequence[Candidate], tasks: Sequence[LoadedTask], allowed: bool
) -> None:
    """Refuse tasks whose labels a model has been, or would be, trained on.

    Raises:
        LeakageError: names the first, before anything is trained.
    """
    if allowed:
        return
    for candidate in candidates:
        for task in tasks:
            until, first = candidate.until(task), min(task.times)
            if until > first:
                how = "the serving run of" if candidate.serving else "training.until of"
                raise LeakageError(
                    f"task {task.config.name!r} asks as of {format_instant(first)}, but {how} "
                    f"{candidate.spec.name!r} is {format_instant(until)}: the model would have "
                    "seen the labels; "
                    + (
                        "leave --serving out"
                        if candidate.serving
                        else f"set it to {format_instant(first)} or earlier, or leave it out"
                    )
                    + ", or accept it with --allow-model-leakage (it is recorded)"
                )


def check_candidates(candidates: Sequence[Candidate]) -> None:
    """Refuse two specs of one name, and look every part up before anything is trained."""
    names = [candidate.spec.name for candidate in candidates]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise EvaluationError(
            f"several specs are called {', '.join(twice)}; give each representation its own name"
        )
    for candidate in candidates:
        choose(candidate.spec, load_plugins())


def trained(
    candidate: Candidate,
    until: int,
    seed: int,
    work: Path,
    on_record: OnRecord,
    notify: Notify,
    read: ReadEvents,
) -> Trained:
    """Find the run of a candidate that was trained before a time, or train it.

    Runs of an evaluation lie in its own folder and catalog, under a name that tells time and seed,
    so that none of them ever serves what it is a test of.

    Args:
        candidate: what is evaluated.
        until: microseconds; the model sees no event from then on.
        seed: 0, 1, … added to the spec's own.
        work: folder of the evaluation.
        on_record: called for every record of the fit loop.
        notify: called with lines for people.
        read: reads the spec's events.
    """
    if candidate.serving:
        return _serving(candidate, seed)
    spec = evaluated_spec(candidate.spec, until, seed, work)
    run, seconds = ensure_run(spec, on_record, notify, read)
    return as_trained(candidate, spec, run, seconds)


def ensure_run(
    spec: RepresentationSpec, on_record: OnRecord, notify: Notify, read: ReadEvents
) -> tuple[Run, float]:
    """Find the finished run of this very spec, or train (or resume) it, and let it serve.

    Returns:
        The run, and the seconds that training took, now or then.
    """
    catalog = open_catalog(spec)
    started = time.perf_counter()
    run = _finished(catalog, spec)
    seconds = 0.0 if run is None else _took(run)
    if run is None:
        unfinished = [one for one in catalog.list_runs(spec.name) if one.status != "finished"]
        resume = any(one.spec_hash == spec.fingerprint() for one in unfinished)
        run = catalog.get_run(train(spec, resume, on_record, notify, read).run)
        seconds = time.perf_counter() - started
    found = run
    if not found.promoted:
        catalog.promote(found.id, lambda: point_promoted(spec.home, found.id))
    return run, seconds


def as_trained(candidate: Candidate, spec: RepresentationSpec, run: Run, seconds: float) -> Trained:
    """Put a run that serves its spec together with what is known of it."""
    manifest = final_checkpoint(open_catalog(spec, create=False), spec, run).manifest
    seed = int(manifest.spec["training"]["seed"])
    return Trained(candidate.spec.name, spec, candidate.path, run, manifest, seed, seconds)


def evaluated_spec(
    spec: RepresentationSpec, until: int, seed: int, work: Path
) -> RepresentationSpec:
    """The spec of one run of an evaluation: its own storage, catalog, name, cut-off and seed."""
    stamp = format_instant(until).replace("-", "").replace(":", "").lower().replace(".", "_")
    stamp = stamp.removesuffix("t000000z")
    seed = spec.training.seed + seed
    storage = work.resolve() / "unirep"
    return spec.model_copy(
        update={
            "name": f"{spec.name[:_LONGEST_NAME]}_{stamp}_s{seed}",
            "training": spec.training.model_copy(update={"until": until, "seed": seed}),
            "storage": str(storage),
            "catalog": f"sqlite:///{storage}/catalog.db",
            "folder": str(Path(spec.folder).resolve()),
        }
    )


def _finished(catalog: Catalog, spec: RepresentationSpec) -> Run | None:
    """The latest finished run of this very spec, made by these very plugins."""
    identity = choose(spec, load_plugins()).identity()
    for run in catalog.list_runs(spec.name):
        same = run.spec_hash == spec.fingerprint() and run.plugins == identity
        if run.status == "finished" and same:
            return run
    return None


def _serving(candidate: Candidate, seed: int) -> Trained:
    if seed:
        raise EvaluationError("--serving evaluates the one run that serves; set training_seeds: 1")
    spec = candidate.spec.model_copy(
        update={
            "folder": str(Path(candidate.spec.folder).resolve()),
            "storage": str(Path(candidate.spec.resolve(candidate.spec.storage)).resolve()),
        }
    )
    run = serving_run(open_catalog(spec, create=False), spec, None)
    return as_trained(candidate, spec, run, _took(run))


def _took(run: Run) -> float:
    """Seconds from the run's start to its end, as the catalog has it."""
    if run.finished_at is None:
        return 0.0
    return (run.finished_at - run.created_at).total_seconds()
