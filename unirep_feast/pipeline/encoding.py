"""`unirep encode`: a run and a time in, a snapshot of user vectors out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from unirep_feast.catalog import Catalog, Run
from unirep_feast.checkpoint import Checkpoint, open_checkpoint
from unirep_feast.config import (
    MICROSECONDS_PER_SECOND,
    RepresentationSpec,
    format_instant,
    parse_spec,
)
from unirep_feast.errors import CatalogError, LeakageError, SnapshotError
from unirep_feast.events import read_events
from unirep_feast.files import sha256
from unirep_feast.inference import Inference, Progress
from unirep_feast.pipeline.loading import (
    Notify,
    ReadEvents,
    checkpoint_folder,
    open_catalog,
    read_log,
    refuse_other_parts,
    sequences_of,
    serving_run,
)
from unirep_feast.plugins import load_plugins
from unirep_feast.sequences import Sequences
from unirep_feast.snapshot import (
    AS_OF,
    LEAKAGE,
    RUN,
    snapshot_path,
    write_plain,
    write_snapshot,
)
from unirep_feast.trio import build_encoder, choose


@dataclass(frozen=True)
class Encoding:
    """A snapshot that is there now.

    Attributes:
        path: the parquet file.
        run: whose weights made it.
        as_of: T, microseconds.
        users: rows in it.
        num_vectors: K.
        dim: D.
        existed: it had been made before; nothing was encoded.
    """

    path: Path
    run: str
    as_of: int
    users: int
    num_vectors: int
    dim: int
    existed: bool


def encode(
    spec: RepresentationSpec,
    as_of: int,
    out: Path | None = None,
    run: str | None = None,
    allow_model_leakage: bool = False,
    progress: Progress | None = None,
    notify: Notify = lambda line: None,
    read: ReadEvents = read_events,
) -> Encoding:
    """Encode all users as of a time.

    Args:
        spec: the representation.
        as_of: T, microseconds; only events strictly before it are read at all.
        out: write one plain parquet (user id, vector) here and record nothing; None writes the
            snapshot that the feature view reads.
        run: id or unique prefix; None takes the promoted run.
        allow_model_leakage: encode although the model has seen events at or after T; recorded.
        progress: called after every batch.
        notify: called with lines for people.
        read: reads the events; the default knows parquet only.

    Raises:
        LeakageError: T is earlier than what the run was trained on.
        UnirepError: any other expected failure, in one line; no half-written file is left.
    """
    catalog = open_catalog(spec, create=False)
    row = serving_run(catalog, spec, run)
    checkpoint = final_checkpoint(catalog, spec, row)
    manifest = checkpoint.manifest
    if out is not None and out.is_dir():
        raise SnapshotError(f"--out {out} is a folder; give the name of a file")
    leaks = as_of < manifest.trained_until
    if leaks and not allow_model_leakage:
        raise LeakageError(
            f"run {row.id} was trained on events up to {format_instant(manifest.trained_until)}, "
            f"vectors as of {format_instant(as_of)} would carry that future; train with "
            f"training.until: {format_instant(as_of)} or earlier, or accept it with "
            "--allow-model-leakage (it is recorded)"
        )
    known = catalog.snapshot(row.id, as_of, spec.view.entity)
    path = snapshot_path(spec.home, row.id, as_of)
    if out is None and known is not None and path.exists():
        if sha256(path) != known.checksum:
            raise SnapshotError(
                f"{path} was changed since it was written (its checksum differs); remove it, and "
                "encode again"
            )
        return Encoding(path, row.id, as_of, known.rows, known.num_vectors, known.dim, True)
    inference, sequences = load_encoder(spec, checkpoint, as_of, notify, read)
    if not inference.probe(sequences, as_of):
        notify(
            "warning: vectors differ in their last bits with other batch mates; subsets and "
            "incremental encodes will not be bit-equal on this machine"
        )
    blocks = inference.encode(sequences, as_of, progress)
    footer = {RUN: row.id.encode(), LEAKAGE: b"1" if leaks else b"0"}
    if out is not None:
        footer[AS_OF] = str(as_of).encode()
        written = write_plain(out, blocks, spec.view.join_key, footer)
    else:
        written = write_snapshot(
            path,
            blocks,
            spec.view.join_key,
            as_of,
            created=int(row.created_at.timestamp() * MICROSECONDS_PER_SECOND),
            num_vectors=manifest.num_vectors,
            dim=manifest.dim,
            metadata=footer,
            expected=None if known is None else known.checksum,
        )
        catalog.add_snapshot(
            row.id,
            as_of=as_of,
            path=str(path.resolve()),
            checksum=written.checksum,
            rows=written.rows,
            num_vectors=manifest.num_vectors,
            dim=manifest.dim,
            entity=spec.view.entity,
            allow_model_leakage=leaks,
        )
    if written.rows < len(sequences):
        missing = len(sequences) - written.rows
        notify(f"{missing:,} users without an event in the encoder's window are left out")
    return Encoding(
        written.path, row.id, as_of, written.rows, manifest.num_vectors, manifest.dim, False
    )


def final_checkpoint(catalog: Catalog, spec: RepresentationSpec, run: Run) -> Checkpoint:
    """Open the best checkpoint of a finished run.

    Raises:
        CatalogError: the run has not finished.
    """
    best = catalog.best_checkpoint(run.id)
    if best is None:
        raise CatalogError(
            f"run {run.id} is {run.status} and has no final checkpoint; finish it with "
            "`unirep train SPEC --resume`"
        )
    return open_checkpoint(checkpoint_folder(spec, run.id, best.path), best.checksum)


def load_encoder(
    spec: RepresentationSpec,
    checkpoint: Checkpoint,
    as_of: int,
    notify: Notify,
    read: ReadEvents = read_events,
) -> tuple[Inference, Sequences]:
    """Rebuild a run's encoder and read the events before a time with its vocabulary.

    Raises:
        CheckpointError: the checkpoint was made by another plugin than the spec names, or by
            another version of it.
    """
    choice = choose(spec, load_plugins())
    refuse_other_parts(checkpoint, choice.identity(), ["encoder"])
    # The settings the weights were trained with decide, whatever the spec says by now.
    trained = parse_spec(checkpoint.manifest.spec, f"checkpoint {checkpoint.folder}")
    if trained.part("encoder") != spec.part("encoder"):
        notify(f"encoder settings of run {checkpoint.manifest.run} are used, not the spec's")
    choice = choose(trained, load_plugins())
    vocabulary = checkpoint.vocabulary()
    sequences = sequences_of(spec, read_log(spec, as_of, notify, read), vocabulary)
    encoder = build_encoder(choice, vocabulary, sequences.items, checkpoint.tensors("prepared"))
    assert isinstance(encoder, nn.Module)  # noqa: S101
    checkpoint.load_into(encoder, "encoder")
    return Inference(encoder, spec.encode, choice.parts["encoder"].name), sequences
