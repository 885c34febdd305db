"""The snapshots of one run as of one time: encoded once, written one kind after the other.

Every file appears whole and is recorded at once. What a killed process has not got to is made by
the next one, from the same events to the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from unirep_feast.blocks import write_blocks
from unirep_feast.catalog import Catalog, Run
from unirep_feast.checkpoint import Checkpoint
from unirep_feast.config import RepresentationSpec
from unirep_feast.errors import SnapshotError
from unirep_feast.files import locked, sha256
from unirep_feast.inference import Inference, Progress, embed_items
from unirep_feast.instants import MICROSECONDS_PER_SECOND, format_instant
from unirep_feast.pipeline.incremental import encode_changes, find_earlier
from unirep_feast.pipeline.loading import Notify, ReadEvents
from unirep_feast.pipeline.publishing import entity_of
from unirep_feast.pipeline.restoring import load_encoder
from unirep_feast.sequences import Sequences
from unirep_feast.snapshot import (
    AS_OF,
    BLOCKS,
    LEAKAGE,
    MACHINE,
    RUN,
    Kind,
    SnapshotFile,
    VectorBlock,
    snapshot_path,
    write_interests,
    write_items,
    write_plain,
    write_snapshot,
)


@dataclass(frozen=True)
class Written:
    """A snapshot on disk.

    Attributes:
        path: the parquet file.
        rows: in it.
        existed: it had been made before.
        carried: rows whose vectors were carried over from an earlier snapshot.
    """

    path: Path
    rows: int
    existed: bool = False
    carried: int = 0


@dataclass(frozen=True)
class Snapshots:
    """What is to be made.

    Attributes:
        spec: the representation.
        catalog: where snapshots are recorded.
        run: whose weights make them.
        checkpoint: its final one.
        as_of: T, microseconds.
        leaks: the model has seen events at or after T, and that was accepted.
        incremental: carry over what did not change.
        progress: called after every batch of users.
        notify: called with lines for people.
        read: reads the events.
    """

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

    def make(self, kinds: tuple[Kind, ...]) -> Mapping[Kind, Written]:
        """Make those that are not there; another process that makes them is waited for.

        Raises:
            UnirepError: in one line; no half-written file is left.
        """
        there = self._existing(kinds)
        if len(there) == len(kinds):
            return there
        with _alone(self._path("user")):
            there = self._existing(kinds)
            return {kind: there.get(kind) or self._makers[kind]() for kind in kinds}

    def write_plain(self, out: Path) -> Written:
        """Write users and vectors to a file of the caller's, and record nothing."""
        vectors = self._vectors()
        footer = {**self._footer, AS_OF: str(self.as_of).encode()}
        written = write_plain(out, vectors.blocks, self.spec.view.join_key, footer)
        self._tell(written.rows)
        return Written(out, written.rows, carried=vectors.carried)

    def _existing(self, kinds: tuple[Kind, ...]) -> dict[Kind, Written]:
        """The snapshots that were made before and are as they were then."""
        found: dict[Kind, Written] = {}
        for kind in kinds:
            path = self._path(kind)
            known = self.catalog.snapshot(self.run.id, self.as_of, entity_of(self.spec, kind))
            if known is None or not path.exists():
                continue
            if sha256(path) != known.checksum:
                raise SnapshotError(
                    f"{path} was changed since it was written (its checksum differs); remove it, "
                    "and encode again"
                )
            found[kind] = Written(path, known.rows, existed=True)
        return found

    @property
    def _makers(self) -> Mapping[Kind, Callable[[], Written]]:
        return {"user": self._users, "item": self._items, "interest": self._interests}

    def _users(self) -> Written:
        manifest = self.checkpoint.manifest
        vectors = self._vectors()
        written = write_snapshot(
            self._path("user"),
            vectors.blocks,
            self.spec.view.join_key,
            self.as_of,
            created=self._created,
            num_vectors=manifest.num_vectors,
            dim=manifest.dim,
            metadata=self._footer,
            expected=self._expected("user"),
        )
        self._record("user", written, manifest.num_vectors)
        self._tell(written.rows)
        return Written(written.path, written.rows, carried=vectors.carried)

    def _items(self) -> Written:
        inference, sequences = self._loaded
        written = write_items(
            self._path("item"),
            embed_items(inference, sequences, self.as_of),
            self.spec.view.item_key,
            self.as_of,
            created=self._created,
            dim=self.checkpoint.manifest.dim,
            metadata=self._footer,
            expected=self._expected("item"),
        )
        self._record("item", written, 1)
        return Written(written.path, written.rows)

    def _interests(self) -> Written:
        manifest = self.checkpoint.manifest
        written = write_interests(
            self._path("interest"),
            self._path("user"),
            self.spec.view.join_key,
            self.spec.view.interest_key,
            num_vectors=manifest.num_vectors,
            dim=manifest.dim,
            expected=self._expected("interest"),
        )
        self._record("interest", written, 1)
        return Written(written.path, written.rows)

    @cached_property
    def _loaded(self) -> tuple[Inference, Sequences]:
        return load_encoder(self.spec, self.checkpoint, self.as_of, self.notify, self.read)

    def _vectors(self) -> _Vectors:
        inference, sequences = self._loaded
        inference.check(sequences, self.as_of)
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
                return _Vectors(carrying.blocks, carrying.carried)
        return _Vectors(inference.encode(sequences, self.as_of, self.progress), 0)

    def _tell(self, rows: int) -> None:
        missing = len(self._loaded[1]) - rows
        if missing > 0:
            self.notify(f"{missing:,} users without an event in the encoder's window are left out")

    @property
    def _footer(self) -> dict[bytes, bytes]:
        footer = {
            RUN: self.run.id.encode(),
            LEAKAGE: b"1" if self.leaks else b"0",
            MACHINE: self._loaded[0].machine.encode(),
        }
        blocks = self.checkpoint.manifest.blocks
        return {**footer, BLOCKS: write_blocks(blocks).encode()} if blocks else footer

    @property
    def _created(self) -> int:
        return int(self.run.created_at.timestamp() * MICROSECONDS_PER_SECOND)

    def _path(self, kind: Kind) -> Path:
        return snapshot_path(self.spec.home, self.run.id, self.as_of, kind)

    def _expected(self, kind: Kind) -> str | None:
        """Checksum of a snapshot that was recorded and is lost."""
        known = self.catalog.snapshot(self.run.id, self.as_of, entity_of(self.spec, kind))
        return None if known is None else known.checksum

    def _record(self, kind: Kind, written: SnapshotFile, num_vectors: int) -> None:
        self.catalog.add_snapshot(
            self.run.id,
            as_of=self.as_of,
            path=str(written.path.resolve()),
            checksum=written.checksum,
            rows=written.rows,
            num_vectors=num_vectors,
            dim=self.checkpoint.manifest.dim,
            entity=entity_of(self.spec, kind),
            allow_model_leakage=self.leaks,
        )


@dataclass(frozen=True)
class _Vectors:
    """Blocks of users in order, drawn once, and how many of the vectors are carried over."""

    blocks: Iterator[VectorBlock]
    carried: int


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Let one process at a time make the snapshots; the others find them made."""
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(path))
        except OSError as error:
            raise SnapshotError(
                f"{path.parent} cannot be written: {error.strerror or error}; mend the folder, or "
                "name another `storage` in the spec"
            ) from None
        yield
