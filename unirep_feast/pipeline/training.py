"""`unirep train`: events and a spec in, a run with checkpoints and a catalog entry out."""

from __future__ import annotations

import secrets
from dataclasses import replace
from datetime import UTC, datetime

from unirep_feast.batch import FIRST_ITEM
from unirep_feast.catalog import Catalog, Run
from unirep_feast.checkpoint import Checkpoint, open_checkpoint
from unirep_feast.config import RepresentationSpec
from unirep_feast.errors import TrainingError, UnirepError, one_line
from unirep_feast.events import read_events
from unirep_feast.instants import format_instant
from unirep_feast.items import Vocabulary
from unirep_feast.packing import PackedEvents
from unirep_feast.pipeline.job import Job, OnRecord, Training
from unirep_feast.pipeline.loading import (
    Notify,
    ReadEvents,
    checkpoint_folder,
    open_catalog,
    read_log,
    refuse_other_parts,
    sequences_of,
)
from unirep_feast.pipeline.lock import hold
from unirep_feast.pipeline.run_log import load_tensorboard
from unirep_feast.pipeline.tracking import load_mlflow
from unirep_feast.plugins import load_plugins
from unirep_feast.ranks import Ranks, pick_device
from unirep_feast.registry import ROLES
from unirep_feast.sequences import fit_vocabulary
from unirep_feast.trio import Choice, choose

__all__ = ["Training", "train"]


def train(
    spec: RepresentationSpec,
    resume: bool = False,
    on_record: OnRecord = lambda record: None,
    notify: Notify = lambda line: None,
    read: ReadEvents = read_events,
) -> Training:
    """Train a representation.

    Under torchrun every process calls this; the first one writes, records and reports.

    Args:
        spec: what to train on what.
        resume: continue the latest unfinished run of this representation.
        on_record: called for every record of the fit loop.
        notify: called with lines for people.
        read: reads the events; the default knows parquet only.

    Raises:
        UnirepError: any expected failure, in one line; the run is marked as failed.
    """
    choice = choose(spec, load_plugins())
    if spec.training.tensorboard:
        load_tensorboard()
    if spec.training.mlflow:
        load_mlflow()
    with Ranks.joined(pick_device(spec.training.device)) as ranks:
        if not ranks.first:
            return _train(spec, choice, ranks, resume, lambda record: None, lambda line: None, read)
        with hold(spec):
            return _train(spec, choice, ranks, resume, on_record, notify, read)


def _train(
    spec: RepresentationSpec,
    choice: Choice,
    ranks: Ranks,
    resume: bool,
    on_record: OnRecord,
    notify: Notify,
    read: ReadEvents,
) -> Training:
    if not ranks.first:
        ranks.wait()  # the first makes the catalog
    catalog = open_catalog(spec)
    if ranks.first:
        ranks.wait()
    unfinished = _resumable(catalog, spec, notify) if resume else None
    checkpoint = _latest(catalog, spec, unfinished, notify)
    if checkpoint is not None:
        refuse_other_parts(checkpoint, choice.identity(), ROLES)
    run_id = ranks.share(unfinished.id if unfinished is not None else _new_id())
    until = unfinished.trained_until if unfinished is not None else spec.training.until
    packed = read_log(spec, until, notify, read)
    if until is None:
        until = int(packed.times.max()) + 1
    vocabulary = checkpoint.vocabulary() if checkpoint else _vocabulary(spec, packed, until)
    # The cut-off is the spec's, not the last event's: as-of times do not move with the log's end.
    sequences = replace(sequences_of(spec, packed, vocabulary).before(until), until=until)
    del packed
    ranks.wait()  # every rank has seen the catalog before the run is entered
    job = Job(spec, choice, catalog, run_id, vocabulary, sequences, until, ranks.first, notify)
    try:
        job.begin(unfinished)
        return job.run(checkpoint, on_record)
    except KeyboardInterrupt:
        job.stopped("interrupted", "stopped by the user or the system")
        raise
    except OSError as error:
        where = error.filename or job.folder
        message = f"{where}: {error.strerror or one_line(error)}; free space, or mend the folder"
        job.stopped("failed", message)
        raise TrainingError(message) from error
    except UnirepError as error:
        job.stopped("failed", str(error))
        raise
    except Exception as error:
        job.stopped("failed", f"{type(error).__name__}: {one_line(error)}")
        raise


def _vocabulary(spec: RepresentationSpec, packed: PackedEvents, until: int) -> Vocabulary:
    wanted = spec.vocabulary
    vocabulary = fit_vocabulary(packed, until, wanted.min_count, wanted.max_items)
    if len(vocabulary) == FIRST_ITEM:
        raise TrainingError(
            f"no item has {wanted.min_count:,} events before {format_instant(until)}; lower "
            "vocabulary.min_count"
        )
    return vocabulary


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


def _latest(
    catalog: Catalog, spec: RepresentationSpec, run: Run | None, notify: Notify
) -> Checkpoint | None:
    if run is None:
        return None
    row = catalog.latest_checkpoint(run.id)
    if row is None:
        notify(f"resuming run {run.id} from its start: it has no checkpoint yet")
        return None
    notify(f"resuming run {run.id} from step {row.step}")
    return open_checkpoint(checkpoint_folder(spec, run.id, row.path), row.checksum)
