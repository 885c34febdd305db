"""`unirep encode`: a run and a time in, snapshots of vectors out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from unirep_feast.config import RepresentationSpec
from unirep_feast.errors import LeakageError, PluginError, SnapshotError
from unirep_feast.events import read_events
from unirep_feast.inference import Progress
from unirep_feast.instants import format_instant
from unirep_feast.pipeline.loading import Notify, ReadEvents, open_catalog, serving_run
from unirep_feast.pipeline.publishing import published_kinds
from unirep_feast.pipeline.restoring import final_checkpoint
from unirep_feast.pipeline.snapshots import Snapshots, Written
from unirep_feast.snapshot import Kind


@dataclass(frozen=True)
class Encoding:
    """Snapshots that are there now.

    Attributes:
        path: the parquet file of users.
        run: whose weights made it.
        as_of: T, microseconds.
        users: rows in it.
        num_vectors: K.
        dim: D.
        existed: all had been made before; nothing was encoded.
        carried: users whose vectors were carried over from an earlier snapshot.
        items: the snapshot of item vectors, where the spec asks for one.
        interests: the snapshot with a row per user and interest, where the spec asks for one.
    """

    path: Path
    run: str
    as_of: int
    users: int
    num_vectors: int
    dim: int
    existed: bool
    carried: int = 0
    items: Written | None = None
    interests: Written | None = None


def encode(
    spec: RepresentationSpec,
    as_of: int,
    out: Path | None = None,
    run: str | None = None,
    allow_model_leakage: bool = False,
    progress: Progress | None = None,
    notify: Notify = lambda line: None,
    read: ReadEvents = read_events,
    incremental: bool = False,
) -> Encoding:
    """Encode all users as of a time, and the items and interests that the spec publishes.

    Args:
        spec: the representation.
        as_of: T, microseconds; only events strictly before it are read at all.
        out: write one plain parquet (user id, vector) here and record nothing; None writes the
            snapshots that the feature views read.
        run: id or unique prefix; None takes the promoted run.
        allow_model_leakage: encode although the model has seen events at or after T; recorded.
        progress: called after every batch.
        notify: called with lines for people.
        read: reads the events; the default knows parquet only.
        incremental: encode only users whose history changed since the latest earlier snapshot of
            the run, and carry the others over; bit-equal to encoding all. Where there is no such
            snapshot, or it was made on another machine, all are encoded and ``notify`` says so.

    Raises:
        PluginError: ``incremental``, with an encoder whose vectors depend on T itself; the spec
            asks for items that the encoder does not provide.
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
        until = format_instant(manifest.trained_until)
        raise LeakageError(
            f"run {row.id} was trained on events up to {until}, "
            f"vectors as of {format_instant(as_of)} would carry that future; train with "
            f"training.until: {format_instant(as_of)} or earlier, or accept it with "
            "--allow-model-leakage (it is recorded)"
        )
    if incremental and manifest.depends_on_as_of:
        name = manifest.identity["encoder"]["name"]
        raise PluginError(
            f"incremental encoding: vectors of encoder {name!r} change with the as-of time alone, "
            "so none can be carried over; encode without it"
        )
    snapshots = Snapshots(
        spec, catalog, row, checkpoint, as_of, leaks, incremental, progress, notify, read
    )
    written: Mapping[Kind, Written]
    if out is not None:
        written = {"user": snapshots.write_plain(out)}
    else:
        written = snapshots.make(published_kinds(spec, manifest))
    users = written["user"]
    return Encoding(
        users.path,
        row.id,
        as_of,
        users.rows,
        manifest.num_vectors,
        manifest.dim,
        all(one.existed for one in written.values()),
        users.carried,
        written.get("item"),
        written.get("interest"),
    )
