"""From a spec to Feast objects: entities, sources, feature views and services, all stock."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import click
from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.data_format import ParquetFormat
from feast.types import Array, Float32, Int64, String, UnixTimestamp

from unirep_feast.config import RepresentationSpec
from unirep_feast.errors import StoreError, UnirepError
from unirep_feast.feature_store.promoted import (
    KeyType,
    Promoted,
    item_key_type,
    read_promoted,
    snapshot_folder,
    snapshot_glob,
    user_key_type,
)
from unirep_feast.feature_store.tags import (
    BLOCKS_TAG,
    DIM_TAG,
    HASH_TAG,
    KIND_TAG,
    NAME_TAG,
    RUN_TAG,
    SPEC_TAG,
    VECTORS_TAG,
    kind_of,
    make_tags,
    spec_of,
)
from unirep_feast.snapshot import Kind
from unirep_feast.spec_file import load_spec

__all__ = [
    "BLOCKS_TAG",
    "DIM_TAG",
    "HASH_TAG",
    "KIND_TAG",
    "NAME_TAG",
    "RUN_TAG",
    "SPEC_TAG",
    "VECTORS_TAG",
    "KindObjects",
    "Promoted",
    "Representation",
    "RepresentationError",
    "kind_of",
    "read_promoted",
    "representation",
    "snapshot_folder",
    "snapshot_glob",
    "spec_of",
]

#: Names of the views: the representation's own, and with these endings.
_ENDINGS: dict[Kind, str] = {"user": "", "item": "_items", "interest": "_interests"}

#: Spelt as both PostgreSQL and Milvus read them; for the inner product no spelling suits both, and
#: this one is of Milvus.
_METRICS = {"cosine": "cosine", "l2": "L2", "inner_product": "IP"}

#: Paths of sources made here; Feast's check of a source does not know globs.
_GLOBS: set[str] = set()


class RepresentationError(StoreError, click.ClickException):
    """A representation cannot be declared; `feast apply`, a click command, shows it as one line."""


@dataclass(frozen=True)
class KindObjects:
    """The Feast objects of one kind of rows; iterates over them in the order below.

    Attributes:
        entity: of the rows; for interests the second one, beside the user.
        source: the snapshots.
        view: over them.
        service: of that view alone. Feast asks whoever fetches a service for the keys of all its
            views, so one service for users and items would serve neither alone.
    """

    entity: Entity
    source: FileSource
    view: FeatureView
    service: FeatureService

    def __iter__(self) -> Iterator[Entity | FileSource | FeatureView | FeatureService]:
        yield from (self.entity, self.source, self.view, self.service)


@dataclass(frozen=True)
class Representation:
    """The Feast objects of one representation; iterates over all of them, users first.

    Attributes:
        users: entity, source, view and service of user vectors.
        items: those of item vectors, if the spec says ``view.items: true``.
        interests: those of single vectors keyed by user and interest, if ``view.per_interest``.
    """

    users: KindObjects
    items: KindObjects | None = None
    interests: KindObjects | None = None

    @property
    def entity(self) -> Entity:
        """The entity of users."""
        return self.users.entity

    @property
    def source(self) -> FileSource:
        """The snapshots of users."""
        return self.users.source

    @property
    def view(self) -> FeatureView:
        """The view of user vectors."""
        return self.users.view

    @property
    def service(self) -> FeatureService:
        """The service of user vectors."""
        return self.users.service

    def __iter__(self) -> Iterator[Entity | FileSource | FeatureView | FeatureService]:
        for one in (self.users, self.items, self.interests):
            if one is not None:
                yield from one


def representation(spec_path: str | Path, overrides: Sequence[str] = ()) -> Representation:
    """Declare a representation in a feature repo.

    ``feast apply`` collects Feast objects that are names of a module, so unpack what comes back::

        user, source, view, service = representation(Path(__file__).with_name("purchases.yaml"))

    With items (``view.items: true``) or interests (``view.per_interest: true``), by kind::

        made = representation(Path(__file__).with_name("purchases.yaml"))
        user, source, view, service = made.users
        item, item_source, item_view, item_service = made.items
        interest, interest_source, interest_view, interest_service = made.interests

    Works before anything was trained, and needs no second ``feast apply`` after training or
    promoting: the source is a folder of snapshots that the promoted run fills. Applying again
    refreshes what only a run tells: the tags that name it, the width that stores which search
    vectors index (or set ``view.dim``), and the feature ``slots`` of encoders that choose
    interests.

    Args:
        spec_path: the YAML file; a relative path is relative to the working directory, which during
            ``feast apply`` is the repo's folder.
        overrides: ``key.sub=value`` texts, applied over the file.

    Raises:
        RepresentationError: the spec has problems, the promoted run makes vectors of another D than
            ``view.dim``, or the type of ids is neither given nor to be read from snapshots or
            events.
    """
    try:
        spec = load_spec(Path(spec_path).absolute(), overrides)
        # The spec travels in the registry, where "." would mean some other folder.
        spec = spec.model_copy(update={"folder": str(Path(spec.folder).absolute())})
        return _Declaration(spec, read_promoted(spec)).make()
    except UnirepError as error:
        raise RepresentationError(str(error)) from None


@dataclass(frozen=True)
class _Declaration:
    """What is declared, and what the promoted run says to it."""

    spec: RepresentationSpec
    promoted: Promoted | None

    def make(self) -> Representation:
        spec, view = self.spec, self.spec.view
        self._check_dim()
        keys = user_key_type(spec, self.promoted)
        user, user_key = _entity(view.entity, view.join_key, keys)
        one_vector = self.promoted is not None and self.promoted.vectors == 1
        fields = [
            user_key,
            self._vector("K x D numbers, flat", searchable=one_vector),
            Field(name="history_length", dtype=Int64, description="events before the as-of time"),
            Field(name="last_event", dtype=UnixTimestamp, description="time of the latest of them"),
        ]
        if self.promoted is not None and self.promoted.slots:
            fields.append(
                Field(name="slots", dtype=Array(Int64), description="interest of each vector")
            )
        users = self._objects("user", [user], fields, "User vectors of")
        items = interests = None
        if view.items is True:
            item, item_key = _entity(view.item_entity, view.item_key, item_key_type(spec))
            fields = [item_key, self._vector("D numbers", searchable=True)]
            items = self._objects("item", [item], fields, "Item vectors of")
        if view.per_interest:
            interest, interest_key = _entity(view.interest_key, view.interest_key, "int64")
            fields = [user_key, interest_key, self._vector("D numbers", searchable=True)]
            interests = self._objects("interest", [user, interest], fields, "Single vectors of")
        return Representation(users, items, interests)

    @property
    def _dim(self) -> int | None:
        return self.spec.view.dim if self.promoted is None else self.promoted.dim

    def _check_dim(self) -> None:
        wanted, found = self.spec.view.dim, self._dim
        if wanted is not None and found is not None and found != wanted:
            run = "?" if self.promoted is None else self.promoted.run
            raise StoreError(
                f"representation {self.spec.name!r}: view.dim says that readers count on vectors "
                f"of D={wanted}, the promoted run {run} makes D={found}; promote a run that fits, "
                "or change view.dim once its readers expect that"
            )

    def _vector(self, description: str, searchable: bool) -> Field:
        """The vector, marked for stores that search where its width is known."""
        marks = {}
        if searchable and self._dim is not None:
            marks = {
                "vector_index": True,
                "vector_length": self._dim,
                "vector_search_metric": _METRICS[self.spec.view.metric],
            }
        return Field(name="vector", dtype=Array(Float32), description=description, **marks)

    def _objects(
        self, kind: Kind, entities: list[Entity], fields: list[Field], described: str
    ) -> KindObjects:
        spec, promoted = self.spec, self.promoted
        name = spec.name + _ENDINGS[kind]
        described = f"{described} representation {spec.name}"
        if kind == "user":
            described = spec.view.description or described
        told: tuple[str | None, int | None, int | None] = (None, None, None)
        if promoted is not None:
            told = (promoted.run, promoted.vectors if kind == "user" else 1, promoted.dim)
        blocks = promoted.blocks if promoted is not None and kind == "user" else None
        path = snapshot_glob(spec, kind)
        _GLOBS.add(path)
        source = FileSource(
            name=f"{spec.name}{_ENDINGS[kind].removesuffix('s')}_snapshots",
            # Absolute, because the offline stores disagree on what a relative path is relative to:
            # duckdb takes the working directory, dask the repo. A glob with an explicit format,
            # because duckdb reads several files no other way. Through the link `promoted`, so that
            # promoting a run needs no `feast apply`; a run's folder never holds vectors of another.
            path=path,
            file_format=ParquetFormat(),
            timestamp_field="event_timestamp",
            created_timestamp_column="created",
            description=f"Snapshots of the promoted run of {spec.name}",
            owner=spec.view.owner,
        )
        view = FeatureView(
            name=name,
            entities=entities,
            ttl=timedelta(days=spec.view.ttl_days or 0),  # 0 is for ever
            # Explicit, so that nothing is inferred from files that do not exist before training.
            schema=fields,
            source=source,
            online=spec.view.online,
            description=described,
            owner=spec.view.owner,
            tags=make_tags(spec, kind, *told, blocks=blocks),
        )
        service = FeatureService(
            name=name,
            features=[view],
            description=described,
            owner=spec.view.owner,
            tags={NAME_TAG: spec.name},
        )
        return KindObjects(entities[-1], source, view, service)


def _entity(name: str, key: str, kind: KeyType) -> tuple[Entity, Field]:
    """An entity, and the column of its ids."""
    value_type = ValueType.INT64 if kind == "int64" else ValueType.STRING
    entity = Entity(name=name, join_keys=[key], value_type=value_type)
    return entity, Field(name=key, dtype=Int64 if kind == "int64" else String)


def _no_false_alarm(record: logging.LogRecord) -> bool:
    """Keep `feast apply` from warning that no file is called ``*.parquet``."""
    message = record.getMessage()
    return not any(path in message for path in _GLOBS)


logging.getLogger("feast.infra.offline_stores.file_source").addFilter(_no_false_alarm)
