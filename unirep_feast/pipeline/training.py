"""`unirep train`: events and a spec in, a run with checkpoints and a catalog entry out."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from unirep_feast.catalog import Catalog, Run
from unirep_feast.checkpoint import (
    Checkpoint,
    Manifest,
    open_checkpoint,
    save_checkpoint,
)
from unirep_feast.config import RepresentationSpec
from unirep_feast.errors import TrainingError, UnirepError
from unirep_feast.files import sha256
from unirep_feast.items import Vocabulary
from unirep_feast.pipeline.loading import Notify, open_catalog, read_log, sequences_of
from unirep_feast.plugins import load_plugins
from unirep_feast.sequences import Sequences, fit_vocabulary
from unirep_feast.snapshot import point_promoted
from unirep_feast.trainer import Record, Trainer
from unirep_feast.trio import Choice, Trio, build_trio, choose, prepare_encoder

OnRecord = Callable[[Record], None]


@dataclass(frozen=True)
class Training:
    """What a training came to.

    Attributes:
        run: its id.
        folder: where its checkpoints are.
        trained_until: microseconds; the weights have seen no event from then on.
        steps: optimizer steps taken.
        metrics: best and test losses and metrics.
        promoted: whether it now serves the representation (the first finished run does).
    """

    run: str
    folder: Path
    trained_until: int
    steps: int
    metrics: dict[str, float]
    promoted: bool


def train(
    spec: RepresentationSpec,
    resume: bool = False,
    on_record: OnRecord = lambda record: None,
    notify: Notify = lambda line: None,
) -> Training:
    """Train a representation.

    Args:
        spec: what to train on what.
        resume: continue the latest unfinished run of this representation.
        on_record: called for every record of the fit loop.
        notify: called with lines for people.

    Raises:
        UnirepError: any expected failure, in one line; the run is marked as failed.
    """
    choice = choose(spec, load_plugins())
    first = int(os.environ.get("RANK", "0")) == 0
    with _lock(spec) if first else _nothing():
        catalog = open_catalog(spec)
        unfinished = _resumable(catalog, spec, notify) if resume else None
        until = spec.training.until
        if unfinished is not None:
            until = unfinished.trained_until
        packed = read_log(spec, until, notify)
        until = until if until is not None else int(packed.times.max()) + 1
        checkpoint = _latest(catalog, unfinished, notify)
        vocabulary = (
            checkpoint.vocabulary()
            if checkpoint is not None
            else fit_vocabulary(packed, until, spec.vocabulary.min_count, spec.vocabulary.max_items)
        )
        sequences = sequences_of(spec, packed, vocabulary).before(until)
        run_id = unfinished.id if unfinished is not None else _new_id()
        job = _Job(spec, choice, catalog, run_id, vocabulary, sequences, until, first, notify)
        job.begin(unfinished)
        try:
            return job.run(checkpoint, on_record)
        except KeyboardInterrupt:
            job.stopped("interrupted", "stopped by the user or the system")
            raise
        except UnirepError as error:
            job.stopped("failed", str(error))
            raise


class _Job:
    """One training, from prepared state to the catalog row that finishes it."""

    def __init__(
        self,
        spec: RepresentationSpec,
        choice: Choice,
        catalog: Catalog,
        run_id: str,
        vocabulary: Vocabulary,
        sequences: Sequences,
        until: int,
        first: bool,
        notify: Notify,
    ) -> None:
        self.spec, self.choice, self.catalog, self.run_id = spec, choice, catalog, run_id
        self.vocabulary, self.sequences, self.until = vocabulary, sequences, until
        self.first, self.notify = first, notify
        self.folder = spec.home / "runs" / run_id
        self.prepared: Mapping[str, Tensor] = {}
        self.trio: Trio | None = None
        self.step = 0

    def begin(self, unfinished: Run | None) -> None:
        """Enter the run into the catalog, or note that it goes on."""
        if not self.first:
            return
        if unfinished is not None:
            self.folder = Path(unfinished.folder)
            self.catalog.resume_run(self.run_id)
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        self.catalog.start_run(
            self.run_id,
            representation=self.spec.name,
            spec=self.spec.model_dump_json(),
            spec_hash=self.spec.fingerprint(),
            plugins=self.choice.identity(),
            folder=str(self.folder),
            trained_until=self.until,
            events=int(self.sequences.lengths.sum()),
            users=len(self.sequences),
        )

    def run(self, checkpoint: Checkpoint | None, on_record: OnRecord) -> Training:
        self.prepared = (
            checkpoint.tensors("prepared")
            if checkpoint is not None
            else prepare_encoder(self.choice, self.vocabulary, self.sequences, self._fit)
        )
        seed_everything(self.spec.training.seed)
        self.trio = build_trio(self.choice, self.vocabulary, self.sequences.items, self.prepared)
        if not self.choice.trains:
            return self._finish(0, {}, self._save(0, {}, self._encoder_alone(), True))
        self._init_from()
        trainer = Trainer(self.trio, self.sequences, self.spec.training, self._save)
        with _RunLog(self.folder, self.spec.training.tensorboard, self.first) as log:
            for record in trainer.run(checkpoint):
                self.step = record.step
                log.write(record)
                on_record(record)
                if record.kind == "checkpoint" and record.path is not None:
                    self._record_checkpoint(record)
        assert record.kind == "end"  # noqa: S101
        return self._finish(record.step, record.values, record.path)

    def stopped(self, status: Any, error: str) -> None:
        if self.first:
            self.catalog.fail_run(self.run_id, error, steps=self.step, status=status)
            self.notify(f"run {self.run_id} stopped at step {self.step}; --resume continues it")

    def _save(
        self,
        step: int,
        state: dict[str, Any],
        groups: Mapping[str, Mapping[str, Tensor]],
        final: bool,
    ) -> Path:
        assert self.trio is not None  # noqa: S101
        encoder = self.trio.encoder
        manifest = Manifest(
            run=self.run_id,
            step=step,
            trained_until=self.until,
            spec=self.spec.model_dump(mode="json"),
            identity=self.trio.identity,
            vocabulary_hash=self.vocabulary.hash,
            num_vectors=encoder.num_vectors,
            dim=encoder.dim,
            depends_on_as_of=encoder.depends_on_as_of,
            trainer=state,
        )
        folder = self.folder / "checkpoints" / ("final" if final else f"step-{step:08d}")
        if folder.exists():  # left by a session that died before it was recorded
            shutil.rmtree(folder)
        groups = {**groups, "prepared": self.prepared} if self.prepared else groups
        return save_checkpoint(folder, manifest, self.vocabulary, groups).folder

    def _record_checkpoint(self, record: Record) -> None:
        assert record.path is not None  # noqa: S101
        self.catalog.add_checkpoint(
            self.run_id,
            step=record.step,
            path=str(record.path),
            checksum=sha256(record.path / "checkpoint.json"),
        )
        kept = self.catalog.checkpoints(self.run_id)
        for old in sorted(kept, key=lambda c: c.step)[: -self.spec.training.keep_checkpoints]:
            self.catalog.remove_checkpoint(self.run_id, old.step)
            shutil.rmtree(old.path, ignore_errors=True)

    def _finish(self, steps: int, values: dict[str, float], path: Path | None) -> Training:
        run = self.run_id
        promoted = False
        if self.first:
            assert path is not None  # noqa: S101
            for old in self.catalog.checkpoints(run):
                self.catalog.remove_checkpoint(run, old.step)
                shutil.rmtree(old.path, ignore_errors=True)
            self.catalog.add_checkpoint(
                run,
                step=steps,
                path=str(path),
                checksum=sha256(path / "checkpoint.json"),
                validation_loss=values.get("best_loss"),
                best=True,
            )
            self.catalog.finish_run(run, steps=steps, metrics=values)
            if self.catalog.promoted(self.spec.name) is None:
                self.catalog.promote(run, lambda: point_promoted(self.spec.home, run))
                promoted = True
        return Training(run, self.folder, self.until, steps, values, promoted)

    def _encoder_alone(self) -> dict[str, dict[str, Tensor]]:
        assert self.trio is not None and isinstance(self.trio.encoder, nn.Module)  # noqa: S101
        return {"encoder": self.trio.encoder.state_dict()}

    def _init_from(self) -> None:
        """Start from another run's encoder weights (fine-tuning)."""
        wanted = self.spec.training.init_from
        if wanted is None:
            return
        other = self.catalog.find_run(wanted)
        best = self.catalog.best_checkpoint(other.id)
        if best is None:
            raise TrainingError(
                f"training.init_from: run {other.id} is {other.status} and has no final "
                "checkpoint; name a finished run"
            )
        checkpoint = open_checkpoint(Path(best.path))
        if checkpoint.manifest.vocabulary_hash != self.vocabulary.hash:
            raise TrainingError(
                f"training.init_from: run {other.id} has another vocabulary; train both on the "
                "same events with the same training.until and vocabulary settings"
            )
        if checkpoint.manifest.trained_until > self.until:
            raise TrainingError(
                f"training.init_from: run {other.id} has seen events up to a later time than "
                "training.until; use the same training.until"
            )
        assert self.trio is not None and isinstance(self.trio.encoder, nn.Module)  # noqa: S101
        checkpoint.load_into(self.trio.encoder, "encoder")
        self.notify(f"encoder weights from run {other.id}")

    def _fit(
        self, encoder: Any, objective: Any, sampler: Any, sequences: Sequences, **training: Any
    ) -> Any:
        """The host's loop lent to ``prepare``: trains in memory, with the spec's own settings."""
        settings = self.spec.training.model_dump()
        config = type(self.spec.training)(**{**settings, **training})
        for _ in Trainer(Trio(encoder, objective, sampler), sequences, config).run():
            pass
        return encoder


class _RunLog:
    """Writes records to ``log.jsonl`` and, where asked for, to TensorBoard event files."""

    def __init__(self, folder: Path, tensorboard: bool, first: bool) -> None:
        self.first = first
        self.writer: Any = None
        if not first:
            return
        folder.mkdir(parents=True, exist_ok=True)
        self.file = (folder / "log.jsonl").open("a", encoding="utf-8")
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                raise TrainingError(
                    "training.tensorboard needs tensorboard; "
                    "pip install 'unirep-feast[tensorboard]'"
                ) from None
            self.writer = SummaryWriter(str(folder / "tensorboard"))

    def __enter__(self) -> _RunLog:
        return self

    def __exit__(self, *_: object) -> None:
        if self.first:
            self.file.close()
        if self.writer is not None:
            self.writer.close()

    def write(self, record: Record) -> None:
        if not self.first:
            return
        line = {
            "kind": record.kind,
            "step": record.step,
            "epoch": round(record.epoch, 4),
            "seconds": round(record.seconds, 3),
            **record.values,
        }
        self.file.write(json.dumps(line) + "\n")
        self.file.flush()
        if self.writer is not None:
            for name, value in record.values.items():
                self.writer.add_scalar(f"{record.kind}/{name}", value, record.step)


def seed_everything(seed: int) -> None:
    """Seed torch before the parts are built, so that initial weights repeat."""
    import torch

    torch.manual_seed(seed)


def _new_id() -> str:
    return f"{datetime.now(UTC).strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"


def _resumable(catalog: Catalog, spec: RepresentationSpec, notify: Notify) -> Run | None:
    """The latest unfinished run of this spec; another spec's is refused."""
    runs = [run for run in catalog.list_runs(spec.name) if run.status != "finished"]
    if not runs:
        notify("nothing to resume; starting a new run")
        return None
    same = [run for run in runs if run.spec_hash == spec.fingerprint()]
    if not same:
        raise TrainingError(
            f"cannot resume run {runs[0].id}: its spec was another ({runs[0].spec_hash}, this one "
            f"is {spec.fingerprint()}); restore the spec, or train anew without --resume"
        )
    return same[0]


def _latest(catalog: Catalog, run: Run | None, notify: Notify) -> Checkpoint | None:
    if run is None:
        return None
    row = catalog.latest_checkpoint(run.id)
    if row is None:
        notify(f"resuming run {run.id} from its start: it has no checkpoint yet")
        return None
    notify(f"resuming run {run.id} from step {row.step}")
    return open_checkpoint(Path(row.path))


@contextmanager
def _lock(spec: RepresentationSpec) -> Iterator[None]:
    """Hold the representation for one training; the system lets go if the process dies."""
    path = spec.home / "train.lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = path.open("a+", encoding="utf-8")
    except OSError as error:
        raise TrainingError(
            f"{path.parent} cannot be written: {error.strerror}; name another `storage` in the spec"
        ) from None
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.seek(0)
            raise TrainingError(
                f"another training of {spec.name!r} is running (process {handle.read() or '?'}); "
                "wait for it, or give the spec another name"
            ) from None
        handle.truncate(0)
        handle.write(str(os.getpid()))
        handle.flush()
        yield


@contextmanager
def _nothing() -> Iterator[None]:
    yield
