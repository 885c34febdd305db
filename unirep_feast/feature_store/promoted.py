"""What the promoted run of a representation makes, and where: read without a catalog."""

from __future__ import annotations

import glob
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from unirep_feast import snapshot
from unirep_feast.blocks import Blocks, read_blocks
from unirep_feast.config import RepresentationSpec
from unirep_feast.errors import CheckpointError, EventsError, StoreError, one_line
from unirep_feast.snapshot import BLOCKS, DIM, PROMOTED, RUN, VECTORS, Kind
from unirep_feast.tables import open_dataset

KeyType = Literal["int64", "string"]


@dataclass(frozen=True)
class Promoted:
    """What the promoted run tells; None where nothing says.

    Attributes:
        run: its id.
        vectors: K, vectors per user.
        dim: D, numbers per vector.
        key_type: type of the user ids; None before the first snapshot.
        slots: whether it tells the interest of every vector.
        blocks: by name, where a block of a user's numbers begins and ends.
    """

    run: str | None
    vectors: int | None
    dim: int | None
    key_type: KeyType | None
    slots: bool = False
    blocks: Blocks = field(default_factory=dict)


def snapshot_folder(spec: RepresentationSpec, kind: Kind = "user") -> Path:
    """Folder of the promoted run's snapshots; behind a link, and absent before the first one."""
    return snapshot.snapshot_folder(spec.home, PROMOTED, kind)


def snapshot_glob(spec: RepresentationSpec, kind: Kind = "user") -> str:
    """Path of the source of a view made here: all snapshots of the promoted run."""
    return str(Path(glob.escape(str(snapshot_folder(spec, kind)))) / "*.parquet")


def read_promoted(spec: RepresentationSpec) -> Promoted | None:
    """Tell what the promoted run makes, from its newest snapshot, else from its checkpoint.

    Returns:
        None if no run is promoted.

    Raises:
        StoreError: the snapshot cannot be read.
    """
    schema = _newest(spec, "user", spec.view.join_key, "view.join_key")
    if schema is None:
        return _of_checkpoint(spec)
    footer = schema.metadata or {}
    return Promoted(
        run=footer[RUN].decode() if RUN in footer else None,
        vectors=int(footer[VECTORS]) if VECTORS in footer else None,
        dim=int(footer[DIM]) if DIM in footer else None,
        key_type=_as_key_type(schema.field(spec.view.join_key).type),
        slots="slots" in schema.names,
        blocks=read_blocks(footer.get(BLOCKS)),
    )


def user_key_type(spec: RepresentationSpec, promoted: Promoted | None) -> KeyType:
    """Type of the user ids: as the spec says, else as in the snapshots, else as in the log.

    Raises:
        StoreError: none of them tells.
    """
    if spec.view.key_type != "auto":
        return spec.view.key_type
    if promoted is not None and promoted.key_type is not None:
        return promoted.key_type
    return _in_log(spec, "user", spec.events.columns.user, "view.key_type")


def item_key_type(spec: RepresentationSpec) -> KeyType:
    """Type of the item ids; as :func:`user_key_type`."""
    if spec.view.item_key_type != "auto":
        return spec.view.item_key_type
    schema = _newest(spec, "item", spec.view.item_key, "view.item_key")
    found = None if schema is None else _as_key_type(schema.field(spec.view.item_key).type)
    return found or _in_log(spec, "item", spec.events.columns.item, "view.item_key_type")


def _newest(spec: RepresentationSpec, kind: Kind, key: str, setting: str) -> pa.Schema | None:
    newest = max(snapshot_folder(spec, kind).glob("*.parquet"), default=None)
    if newest is None:
        return None
    try:
        schema = pq.read_schema(newest)
    except (pa.ArrowException, OSError) as error:
        raise StoreError(
            f"snapshot {newest} cannot be read: {one_line(error)}; remove it and encode again"
        ) from None
    if key not in schema.names:
        raise StoreError(
            f"snapshot {newest} has no column {key!r}; found {', '.join(schema.names)}; {setting} "
            "was changed: encode again under another name"
        )
    return schema


def _of_checkpoint(spec: RepresentationSpec) -> Promoted | None:
    """Between training and the first snapshot the checkpoint knows."""
    run = snapshot_folder(spec).resolve().name
    folder = spec.home / "runs" / run / "checkpoints" / "final"
    if not folder.is_dir():
        return None
    # Not at the top: it loads torch, which most of what reads views does without.
    from unirep_feast.checkpoint import open_checkpoint

    try:
        manifest = open_checkpoint(folder).manifest
    except CheckpointError:
        return None  # whoever encodes with it says what is wrong
    vectors, slots = manifest.num_vectors, manifest.provides_slots
    return Promoted(run, vectors, manifest.dim, None, slots, manifest.blocks)


def _in_log(spec: RepresentationSpec, what: str, column: str, setting: str) -> KeyType:
    advice = f"set {setting}: int64 or string"
    if spec.events.path is None:
        raise StoreError(
            f"representation {spec.name!r}: events come from a Feast source, which may not be "
            f"applied yet, so the type of {what} ids is unknown; {advice}"
        )
    try:
        schema = open_dataset(spec.resolve(spec.events.path), "events").schema
    except EventsError as error:
        raise StoreError(
            f"representation {spec.name!r}: the type of {what} ids is unknown: {error}; "
            f"put the log there, or {advice}"
        ) from None
    kind = _as_key_type(schema.field(column).type) if column in schema.names else None
    if kind is None:
        found = str(schema.field(column).type) if column in schema.names else "no such column"
        raise StoreError(
            f"representation {spec.name!r}: column {column!r} of {spec.events.path} should hold "
            f"{what} ids, integers or strings; found {found}; name the right one as "
            f"events.columns.{what}"
        )
    return kind


def _as_key_type(kind: pa.DataType) -> KeyType | None:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_integer(kind):
        return "int64"
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return "string"
    return None
