"""`unirep encode`: a run and a time in, a snapshot of user vectors out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from unirep_feast.catalog import Catalog, Run
from unirep_feast.checkpoint import Checkpoint
from unirep_feast.config import MICROSECONDS_PER_SECOND, RepresentationSpec, format_instant
from unirep_feast.errors import LeakageError, PluginError, SnapshotError
from unirep_feast.events import read_events
from unirep_feast.files import locked, sha256
from unirep_feast.inference import Progress
from unirep_feast.pipeline.incremental import encode_changes, find_earlier
from unirep_feast.pipeline.loading import Notify, ReadEvents, open_catalog, serving_run
from unirep_feast.pipeline.restoring import final_checkpoint, load_encoder
from unirep_feast.snapshot import (
    AS_OF,
    LEAKAGE,
    MACHINE,
    RUN,
    VectorBlock,
    snapshot_path,
    write_plain,
    write_snapshot,
)


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
        carried: users whose vectors were carried over from an earlier snapshot.
    """

    path: Path
    run: str
    as_of: int
    users: int
    num_vectors: int
    dim: int
    existed: bool
    carried: int = 0


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
        incremental: encode only users whose history changed since the latest earlier snapshot of
            the run, and carry the others over; bit-equal to encoding all. Where there is no such
            snapshot, or it was made on another machine, all are encoded and ``notify`` says so.

    Raises:
        PluginError: ``incremental``, with an encoder whose vectors depend on T itself.
        LeakageError: T is earlier than what the run was trained on.
        UnirepError: any other expected failure, in one line; no half-written file is left.
    """
    catalog = open_catalog(spec, create=False)
    row = serving_run(catalog, spec, run)
    checkpoint = final_checkpoint(catalog, spec, row)
    if out is not None and out.is_dir():
        raise SnapshotError(f"--out {out} is a folder; give the name of a file")
    leaks = as_of < checkpoint.manifest.trained_until
    if leaks and not allow_model_leakage:
        until = format_instant(checkpoint.manifest.trained_until)
        raise LeakageError(
            f"run {row.id} was trained on events up to {until}, "
            f"vectors as of {format_instant(as_of)} would carry that future; train with "
            f"training.until: {format_instant(as_of)} or earlier, or accept it with "
            "--allow-model-leakage (it is recorded)"
        )
    if incremental and checkpoint.manifest.depends_on_as_of:
        name = checkpoint.manifest.identity["encoder"]["name"]
        raise PluginError(
            f"incremental encoding: vectors of encoder {name!r} change with the as-of time alone, "
            "so none can be carried over; encode without it"
        )
    job = _Job(spec, catalog, row, checkpoint, as_of, leaks, incremental, progress, notify, read)
    if out is not None:
        return job.write_plain(out)
    done = job.existing()
    if done is not None:
        return done
    with _alone(job.path):
        return job.existing() or job.write_snapshot()


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Let one process at a time make a snapshot; the others find it made."""
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(path))
        except OSError as error:
            raise SnapshotError(
                f"{path.parent} cannot be written: {error.strerror or error}; mend the folder, or "
                "name another `storage` in the spec"
            ) from None
        yield


@dataclass(frozen=True)
class _Job:
    """One snapshot to be: what it is made of, and for whom."""

    spec: RepresentationSpec
    catalog: Catalog
    run: Run
    checkpoint: Checkpoint
    as_of: int
    leaks: bool
    incremental: bool
    progress: Progress | None
    notify: Notify
    read: ReadEvents

    @property
    def path(self) -> Path:
        return snapshot_path(self.spec.home, self.run.id, self.as_of)

    def existing(self) -> Encoding | None:
        """Return the snapshot if it was made before and is as it was then."""
        known = self.catalog.snapshot(self.run.id, self.as_of, self.spec.view.entity)
        if known is None or not self.path.exists():
            return None
        if sha256(self.path) != known.checksum:
            raise SnapshotError(
                f"{self.path} was changed since it was written (its checksum differs); remove it, "
                "and encode again"
            )
        return self._encoding(self.path, known.rows, 0, True)

    def write_plain(self, out: Path) -> Encoding:
        vectors = self._vectors()
        footer = {**vectors.footer, AS_OF: str(self.as_of).encode()}
        written = write_plain(out, vectors.blocks, self.spec.view.join_key, footer)
        self._tell(vectors, written.rows)
        return self._encoding(out, written.rows, vectors.carried, False)

    def write_snapshot(self) -> Encoding:
        known = self.catalog.snapshot(self.run.id, self.as_of, self.spec.view.entity)
        manifest = self.checkpoint.manifest
        vectors = self._vectors()
        written = write_snapshot(
            self.path,
            vectors.blocks,
            self.spec.view.join_key,
            self.as_of,
            created=int(self.run.created_at.timestamp() * MICROSECONDS_PER_SECOND),
            num_vectors=manifest.num_vectors,
            dim=manifest.dim,
            metadata=vectors.footer,
            expected=None if known is None else known.checksum,
        )
        self.catalog.add_snapshot(
            self.run.id,
            as_of=self.as_of,
            path=str(self.path.resolve()),
            checksum=written.checksum,
            rows=written.rows,
            num_vectors=manifest.num_vectors,
            dim=manifest.dim,
            entity=self.spec.view.entity,
            allow_model_leakage=self.leaks,
        )
        self._tell(vectors, written.rows)
        return self._encoding(self.path, written.rows, vectors.carried, False)

    def _vectors(self) -> _Vectors:
        inference, sequences = load_encoder(
            self.spec, self.checkpoint, self.as_of, self.notify, self.read
        )
        footer = {
            RUN: self.run.id.encode(),
            LEAKAGE: b"1" if self.leaks else b"0",
            MACHINE: inference.machine.encode(),
        }
        equal = inference.probe(sequences, self.as_of)
        if not equal:
            self.notify(
                "warning: vectors differ in their last bits with other batch mates; subsets and "
                "incremental encodes will not be bit-equal on this machine"
                + ("; all users are encoded" if self.incremental else "")
            )
        if self.incremental and equal:
            earlier = find_earlier(
                self.catalog,
                self.spec,
                self.run.id,
                self.as_of,
                inference,
                sequences.users,
                self.notify,
            )
            if earlier is not None:
                eligible = inference.eligible(sequences, self.as_of)
                carrying = encode_changes(inference, eligible, earlier, self.progress)
                self.notify(
                    f"{len(eligible) - carrying.carried:,} users changed since "
                    f"{format_instant(earlier.as_of)}, {carrying.carried:,} are carried over"
                )
                return _Vectors(carrying.blocks, footer, len(sequences), carrying.carried)
        blocks = inference.encode(sequences, self.as_of, self.progress)
        return _Vectors(blocks, footer, len(sequences), 0)

    def _tell(self, vectors: _Vectors, rows: int) -> None:
        if rows < vectors.users:
            missing = vectors.users - rows
            self.notify(f"{missing:,} users without an event in the encoder's window are left out")

    def _encoding(self, path: Path, rows: int, carried: int, existed: bool) -> Encoding:
        manifest = self.checkpoint.manifest
        return Encoding(
            path,
            self.run.id,
            self.as_of,
            rows,
            manifest.num_vectors,
            manifest.dim,
            existed,
            carried,
        )


@dataclass(frozen=True)
class _Vectors:
    """Blocks of vectors to be written, and what is said about them.

    Attributes:
        blocks: in user order; drawn once.
        footer: of the file.
        users: in the log, with and without a vector.
        carried: users whose vectors are carried over.
    """

    blocks: Iterator[VectorBlock]
    footer: dict[bytes, bytes]
    users: int
    carried: int
