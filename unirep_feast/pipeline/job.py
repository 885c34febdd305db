"""One training as the catalog sees it: from the row that begins it to the one that finishes it."""

from __future__ import annotations

import contextlib
import random
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from unirep_feast.blocks import declared_blocks
from unirep_feast.catalog import Catalog, Run
from unirep_feast.checkpoint import Checkpoint, Manifest, open_checkpoint, save_checkpoint
from unirep_feast.config import RepresentationSpec
from unirep_feast.errors import CatalogError, TrainingError
from unirep_feast.files import sha256
from unirep_feast.instants import format_instant
from unirep_feast.items import Vocabulary
from unirep_feast.pipeline.loading import Notify, checkpoint_folder
from unirep_feast.pipeline.publishing import check_publishable
from unirep_feast.pipeline.run_log import RunLog
from unirep_feast.pipeline.tracking import MlflowRun
from unirep_feast.probing import probe_encoder
from unirep_feast.sequences import Sequences
from unirep_feast.snapshot import point_promoted
from unirep_feast.trainer import Record, Trainer
from unirep_feast.trio import Choice, Trio, build_trio, prepare_encoder

OnRecord = Callable[[Record], None]

_FINAL = "final"


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


@dataclass
class Job:
    """Trains one run; files first, then their rows, so that a row is always complete.

    Attributes:
        spec: what to train.
        choice: the parts.
        catalog: where the run is recorded.
        run_id: of the run.
        vocabulary: fitted before ``until``, or the resumed checkpoint's.
        sequences: events before ``until``.
        until: microseconds.
        first: whether this process writes; under torchrun one of several does.
        notify: takes lines for people.
    """

    spec: RepresentationSpec
    choice: Choice
    catalog: Catalog
    run_id: str
    vocabulary: Vocabulary
    sequences: Sequences
    until: int
    first: bool
    notify: Notify
    prepared: Mapping[str, Tensor] = field(default_factory=dict)
    trio: Trio | None = None
    on_record: OnRecord = lambda record: None
    step: int = 0
    saved: bool = False

    @property
    def folder(self) -> Path:
        """Where the run's files are; absolute, since commands are called from anywhere."""
        return (self.spec.home / "runs" / self.run_id).resolve()

    def begin(self, unfinished: Run | None) -> None:
        """Enter the run into the catalog, or note that it goes on."""
        if not self.first:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        if unfinished is not None:
            for torn in (self.folder / "checkpoints").glob(".*.tmp"):
                shutil.rmtree(torn, ignore_errors=True)  # of a session that was killed
            self.catalog.resume_run(self.run_id)
            return
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
        """Train, from a checkpoint where one is given, and record what comes of it."""
        self.on_record = on_record
        if checkpoint is not None:
            self.step, self.saved = checkpoint.manifest.step, True
            if "values" in checkpoint.manifest.trainer:  # it was killed between saving and this
                values = checkpoint.manifest.trainer["values"]
                return self._finish(self.step, values, checkpoint.folder)
            self.prepared = checkpoint.tensors("prepared")
        else:
            # Preparing draws random numbers too; a run that starts anew must come out the same.
            seed_everything(self.spec.training.seed)
            self.prepared = prepare_encoder(self.choice, self.vocabulary, self.sequences, self._fit)
        seed_everything(self.spec.training.seed)
        self.trio = build_trio(self.choice, self.vocabulary, self.sequences.items, self.prepared)
        check_publishable(self.spec, self.trio.encoder, self.trio.name("encoder"))
        if not self.choice.trains:
            encoder = self.trio.encoder
            assert isinstance(encoder, nn.Module)  # noqa: S101
            probe_encoder(encoder, self.trio.part("encoder"), self.sequences, self.until)
            groups = {"encoder": encoder.state_dict()}
            path = self._save(0, {"values": {}}, groups, True) if self.first else None
            return self._finish(0, {}, path)
        if checkpoint is None:
            self._init_from()
        trainer = Trainer(self.trio, self.sequences, self.spec.training, self._save)
        trainer.probe()
        with self._log() as log:
            for record in trainer.run(checkpoint):
                self.step = record.step
                if log is not None:
                    log.write(record)
                on_record(record)
                if record.kind == "checkpoint" and record.path is not None:
                    self._record_checkpoint(record.step, record.path)
        return self._finish(record.step, record.values, record.path)

    def stopped(self, status: Literal["failed", "interrupted"], error: str) -> None:
        """Note why a training stopped early; what stopped it is told even if this fails too."""
        if not self.first:
            return
        with contextlib.suppress(CatalogError):
            self.catalog.fail_run(self.run_id, error, steps=self.step, status=status)
        if self.saved or status == "interrupted":
            self.notify(f"run {self.run_id} stopped at step {self.step}; --resume continues it")

    # -- files and their rows ------------------------------------------------------------------

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
            provides_items="items" in encoder.provides,
            provides_slots="slots" in encoder.provides,
            blocks=declared_blocks(
                encoder, encoder.num_vectors * encoder.dim, self.trio.name("encoder")
            ),
            trainer=state,
        )
        folder = self.folder / "checkpoints" / (_FINAL if final else f"step-{step:08d}")
        if folder.exists():  # left by a session that died before it was recorded
            shutil.rmtree(folder)
        groups = {**groups, "prepared": self.prepared} if self.prepared else groups
        return save_checkpoint(folder, manifest, self.vocabulary, groups).folder

    def _record_checkpoint(self, step: int, path: Path) -> None:
        self.catalog.add_checkpoint(
            self.run_id, step=step, path=str(path), checksum=sha256(path / "checkpoint.json")
        )
        self.saved = True
        kept = self.catalog.checkpoints(self.run_id)
        for old in kept[: -self.spec.training.keep_checkpoints]:
            self.catalog.remove_checkpoint(self.run_id, old.step)
            shutil.rmtree(checkpoint_folder(self.spec, self.run_id, old.path), ignore_errors=True)

    def _finish(self, steps: int, values: dict[str, float], path: Path | None) -> Training:
        promoted = False
        if self.first:
            assert path is not None  # noqa: S101
            promoted = self._record_end(steps, values, path)
        return Training(self.run_id, self.folder, self.until, steps, values, promoted)

    def _record_end(self, steps: int, values: dict[str, float], path: Path) -> bool:
        run = self.run_id
        self.catalog.add_checkpoint(
            run,
            step=steps,
            path=str(path),
            checksum=sha256(path / "checkpoint.json"),
            validation_loss=values.get("best_loss"),
            best=True,
        )
        self.catalog.finish_run(run, steps=steps, metrics=values)
        promoted = self.catalog.promoted(self.spec.name) is None
        if promoted:
            self.catalog.promote(run, lambda: point_promoted(self.spec.home, run))
        # Only now: until the run has finished, these are what it can be resumed from.
        for old in self.catalog.checkpoints(run):
            if not old.best:
                self.catalog.remove_checkpoint(run, old.step)
        for old_folder in path.parent.iterdir():
            if old_folder.name != path.name:
                shutil.rmtree(old_folder, ignore_errors=True)
        return promoted

    def _log(self) -> contextlib.AbstractContextManager[RunLog | None]:
        if not self.first:
            return contextlib.nullcontext()
        wanted = self.spec.training
        tracker = MlflowRun(self.spec, self.run_id, self.notify) if wanted.mlflow else None
        return RunLog(self.folder, wanted.tensorboard, tracker)

    # -- where weights come from ---------------------------------------------------------------

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
        folder = checkpoint_folder(self.spec, other.id, best.path)
        checkpoint = open_checkpoint(folder, best.checksum)
        if checkpoint.manifest.vocabulary_hash != self.vocabulary.hash:
            raise TrainingError(
                f"training.init_from: run {other.id} has another vocabulary; train both on the "
                "same events with the same training.until and vocabulary settings"
            )
        if checkpoint.manifest.trained_until > self.until:
            raise TrainingError(
                f"training.init_from: run {other.id} has seen events up to "
                f"{format_instant(checkpoint.manifest.trained_until)}, this training ends at "
                f"{format_instant(self.until)}; use the same training.until"
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
        for record in Trainer(Trio(encoder, objective, sampler), sequences, config).run():
            if record.kind == "step":
                self.on_record(replace(record, kind="prepare"))
        return encoder


def seed_everything(seed: int) -> None:
    """Seed every global generator, so that what is prepared and built repeats."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)  # for plugins that use it
    random.seed(seed)
