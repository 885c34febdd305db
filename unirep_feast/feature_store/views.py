"""From a spec to Feast objects: entity, source, feature view and feature service, all stock."""

from __future__ import annotations

import glob
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import click
import pyarrow as pa
import pyarrow.parquet as pq
from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.data_format import ParquetFormat
from feast.types import Array, Float32, Int64, String, UnixTimestamp

from unirep_feast.config import RepresentationSpec, load_spec, parse_spec
from unirep_feast.errors import EventsError, StoreError, UnirepError, one_line
from unirep_feast.events import open_dataset
from unirep_feast.snapshot import DIM, PROMOTED, RUN, VECTORS

#: Tags of a feature view of ours.
NAME_TAG = "unirep.representation"
SPEC_TAG = "unirep.spec"
HASH_TAG = "unirep.spec_hash"
RUN_TAG = "unirep.run"
VECTORS_TAG = "unirep.vectors"
DIM_TAG = "unirep.dim"

#: Paths of sources made here; Feast's check of a source does not know globs.
_GLOBS: set[str] = set()

KeyType = Literal["int64", "string"]


class RepresentationError(StoreError, click.ClickException):
    """A representation cannot be declared; `feast apply`, a click command, shows it as one line."""


@dataclass(frozen=True)
class Representation:
    """The Feast objects of one representation; iterates over them in the order below."""

    entity: Entity
    source: FileSource
    view: FeatureView
    service: FeatureService

    def __iter__(self) -> Iterator[Entity | FileSource | FeatureView | FeatureService]:
        yield from (self.entity, self.source, self.view, self.service)


@dataclass(frozen=True)
class Promoted:
    """What the newest snapshot of the promoted run tells; None where its footer does not say.

    Attributes:
        run: id of the run that made it.
        vectors: K, vectors per user.
        dim: D, numbers per vector.
        key_type: type of the user ids.
    """

    run: str | None
    vectors: int | None
    dim: int | None
    key_type: KeyType | None


def representation(spec_path: str | Path, overrides: Sequence[str] = ()) -> Representation:
    """Declare a representation in a feature repo.

    ``feast apply`` collects Feast objects that are names of a module, so unpack what comes back::

        user, source, view, service = representation(Path(__file__).with_name("purchases.yaml"))

    Works before anything was trained, and needs no second ``feast apply`` after training or
    promoting: the source is a folder of snapshots that the promoted run fills. Applying again only
    refreshes the tags that say which run that is.

    Args:
        spec_path: the YAML file; a relative path is relative to the working directory, which during
            ``feast apply`` is the repo's folder.
        overrides: ``key.sub=value`` texts, applied over the file.

    Raises:
        RepresentationError: the spec has problems, or the type of user ids is neither given nor to
            be read from snapshots or events.
    """
    try:
        spec = load_spec(Path(spec_path).absolute(), overrides)
        # The spec travels in the registry, where "." would mean some other folder.
        spec = spec.model_copy(update={"folder": str(Path(spec.folder).absolute())})
        promoted = read_promoted(spec)
        key_type = _key_type(spec, promoted)
    except UnirepError as error:
        raise RepresentationError(str(error)) from None
    path = snapshot_glob(spec)
    _GLOBS.add(path)
    described = spec.view.description or f"User vectors of representation {spec.name}"
    tags = _tags(spec, promoted)
    entity = Entity(
        name=spec.view.entity,
        join_keys=[spec.view.join_key],
        value_type=ValueType.INT64 if key_type == "int64" else ValueType.STRING,
    )
    source = FileSource(
        name=f"{spec.name}_snapshots",
        # Absolute, because the offline stores disagree on what a relative path is relative to:
        # duckdb takes the working directory, dask the repo. A glob with an explicit format, because
        # duckdb reads several files no other way. Through the link `promoted`, so that promoting
        # a run needs no `feast apply`; a run's folder never holds vectors of another run.
        path=path,
        file_format=ParquetFormat(),
        timestamp_field="event_timestamp",
        created_timestamp_column="created",
        description=f"Snapshots of the promoted run of {spec.name}",
        owner=spec.view.owner,
    )
    view = FeatureView(
        name=spec.name,
        entities=[entity],
        ttl=timedelta(days=spec.view.ttl_days or 0),  # 0 is for ever
        # Explicit, so that nothing is inferred from files that do not exist before training.
        schema=[
            Field(name=spec.view.join_key, dtype=Int64 if key_type == "int64" else String),
            Field(name="vector", dtype=Array(Float32), description="K x D numbers, flat"),
            Field(name="history_length", dtype=Int64, description="events before the as-of time"),
            Field(name="last_event", dtype=UnixTimestamp, description="time of the latest of them"),
        ],
        source=source,
        online=spec.view.online,
        description=described,
        owner=spec.view.owner,
        tags=tags,
    )
    service = FeatureService(
        name=spec.name,
        features=[view],
        description=described,
        owner=spec.view.owner,
        tags={NAME_TAG: spec.name},
    )
    return Representation(entity, source, view, service)


def spec_of(view: FeatureView) -> RepresentationSpec:
    """Read the spec that a feature view of ours carries.

    Raises:
        StoreError: the view carries none.
        SpecError: it was written by another version and does not parse.
    """
    text = view.tags.get(SPEC_TAG)
    if text is None:
        raise StoreError(
            f"feature view {view.name!r} has no tag {SPEC_TAG!r}; it was not made by "
            "representation(...); name one that was"
        )
    return _parsed(text, view.name)


@lru_cache(maxsize=64)
def _parsed(text: str, view: str) -> RepresentationSpec:
    return parse_spec(json.loads(text), f"in the tags of feature view {view!r}")


def snapshot_folder(spec: RepresentationSpec) -> Path:
    """Folder with the snapshots of the promoted run; a link, and absent before the first one."""
    return spec.home / "snapshots" / PROMOTED


def snapshot_glob(spec: RepresentationSpec) -> str:
    """Path of the source of a view made here: all snapshots of the promoted run."""
    return str(Path(glob.escape(str(snapshot_folder(spec)))) / "*.parquet")


def read_promoted(spec: RepresentationSpec) -> Promoted | None:
    """Tell what the promoted run makes, from the footer of its newest snapshot.

    Returns:
        None if there is no snapshot yet.

    Raises:
        StoreError: the snapshot cannot be read.
    """
    newest = max(snapshot_folder(spec).glob("*.parquet"), default=None)
    if newest is None:
        return None
    try:
        schema = pq.read_schema(newest)
    except (pa.ArrowException, OSError) as error:
        raise StoreError(
            f"snapshot {newest} cannot be read: {one_line(error)}; remove it and encode again"
        ) from None
    footer = schema.metadata or {}
    if spec.view.join_key not in schema.names:
        raise StoreError(
            f"snapshot {newest} has no column {spec.view.join_key!r}; found "
            f"{', '.join(schema.names)}; view.join_key was changed: encode again under another name"
        )
    return Promoted(
        run=footer[RUN].decode() if RUN in footer else None,
        vectors=int(footer[VECTORS]) if VECTORS in footer else None,
        dim=int(footer[DIM]) if DIM in footer else None,
        key_type=_as_key_type(schema.field(spec.view.join_key).type),
    )


def _key_type(spec: RepresentationSpec, promoted: Promoted | None) -> KeyType:
    if spec.view.key_type != "auto":
        return spec.view.key_type
    if promoted is not None and promoted.key_type is not None:
        return promoted.key_type
    advice = "set view.key_type: int64 or string"
    if spec.events.path is None:
        raise StoreError(
            f"representation {spec.name!r}: events come from a Feast source, which may not be "
            f"applied yet, so the type of user ids is unknown; {advice}"
        )
    column = spec.events.columns.user
    try:
        schema = open_dataset(spec.resolve(spec.events.path), "events").schema
    except EventsError as error:
        raise StoreError(
            f"representation {spec.name!r}: the type of user ids is unknown: {error}; "
            f"put the log there, or {advice}"
        ) from None
    kind = _as_key_type(schema.field(column).type) if column in schema.names else None
    if kind is None:
        found = str(schema.field(column).type) if column in schema.names else "no such column"
        raise StoreError(
            f"representation {spec.name!r}: column {column!r} of {spec.events.path} should hold "
            f"user ids, integers or strings; found {found}; name the right one as "
            "events.columns.user"
        )
    return kind


def _no_false_alarm(record: logging.LogRecord) -> bool:
    """Keep `feast apply` from warning that no file is called ``*.parquet``."""
    message = record.getMessage()
    return not any(path in message for path in _GLOBS)


logging.getLogger("feast.infra.offline_stores.file_source").addFilter(_no_false_alarm)


def _as_key_type(kind: pa.DataType) -> KeyType | None:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_integer(kind):
        return "int64"
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return "string"
    return None


def _tags(spec: RepresentationSpec, promoted: Promoted | None) -> dict[str, str]:
    tags = {
        **spec.view.tags,
        NAME_TAG: spec.name,
        SPEC_TAG: json.dumps(_public(spec).model_dump(mode="json"), sort_keys=True),
        HASH_TAG: spec.fingerprint(),
    }
    if promoted is not None:
        known = {RUN_TAG: promoted.run, VECTORS_TAG: promoted.vectors, DIM_TAG: promoted.dim}
        tags.update({key: str(value) for key, value in known.items() if value is not None})
    return tags


def _public(spec: RepresentationSpec) -> RepresentationSpec:
    """Leave the catalog's URL out where it holds a password: a registry is read by many."""
    if spec.catalog is None or urlsplit(spec.catalog).password is None:
        return spec
    return spec.model_copy(update={"catalog": None})
