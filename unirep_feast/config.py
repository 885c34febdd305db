"""The representation spec: every key there is, with its default, as one frozen object."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from unirep_feast.instants import Instant


class Frozen(BaseModel):
    """Base of every settings model: immutable, and a misspelt key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class EventColumns(Frozen):
    """Which column of the source holds what."""

    user: str = Field("user_id", description="who acted; int or string")
    item: str = Field("item_id", description="what was acted on; int or string")
    time: str = Field("event_timestamp", description="when; timestamp with a time zone")
    type: str | None = Field(None, description="kind of event; string")
    value: str | None = Field(None, description="amount, price or rating; number")


class FeastEvents(Frozen):
    """A data source that is already declared in a Feast repo."""

    repo: str = Field(".", description="folder with feature_store.yaml, relative to the spec")
    source: str = Field(description="name of the data source in the registry")


class EventsConfig(Frozen):
    """Where the event log is and how strictly it is read."""

    path: str | None = Field(None, description="parquet file, folder or glob, relative to the spec")
    feast: FeastEvents | None = Field(None, description="read from a Feast data source instead")
    columns: EventColumns = EventColumns()
    types: tuple[str, ...] | None = Field(None, description="keep only these event types")
    assume_timezone: str | None = Field(
        None, description="the zone of times that carry none, e.g. UTC; without it they are refused"
    )
    drop_invalid: bool = Field(
        False, description="drop (and count) rows with a null user/item/time"
    )
    drop_future: bool = Field(False, description="drop (and count) rows later than now")
    duplicates: Literal["drop", "keep", "error"] = Field(
        "drop", description="rows equal in user, item, time, type and value"
    )

    @model_validator(mode="after")
    def _one_source(self) -> EventsConfig:
        if (self.path is None) == (self.feast is None):
            raise ValueError("give exactly one of `path` and `feast`")
        if self.types is not None and self.columns.type is None:
            raise ValueError("`types` needs `columns.type`, the column that holds the event type")
        return self


class ItemsConfig(Frozen):
    """Where item titles and categories are."""

    path: str = Field(description="parquet file, folder or glob, relative to the spec")
    item: str = Field("item_id", description="column with the item id")
    title: str | None = Field("title", description="column with the title; null if there is none")
    category: str | None = Field("category", description="string or list column; null if none")


class VocabularyConfig(Frozen):
    """Which items get a code of their own."""

    min_count: int = Field(1, ge=1, description="events an item needs before `training.until`")
    max_items: int | None = Field(None, ge=1, description="keep the most frequent; others are UNK")


class PartConfig(Frozen):
    """One part of the trio: which registered one, with what settings."""

    name: str | None = Field(None, description="registered name; defaults to the `plugin`")
    settings: dict[str, Any] = Field(default_factory=dict)


class MemberConfig(Frozen):
    """One member: its name, its parts as in a spec, and how it is trained."""

    name: str = Field(
        pattern=r"^[a-z][a-z0-9_]*$", description="of the member, and of its block of numbers"
    )
    plugin: str | None = Field(None, description="takes encoder, objective and sampler from it")
    encoder: PartConfig = Field(PartConfig(), description="registered name and settings")
    objective: PartConfig | None = Field(None, description="registered name and settings")
    sampler: PartConfig | None = Field(None, description="registered name and settings")
    training: dict[str, Any] = Field(
        default_factory=dict, description="keys of `training` that differ from the spec's"
    )


class TrainingConfig(Frozen):
    """The fit loop."""

    until: Instant | None = Field(
        None, description="train on events strictly before this; default: just after the last one"
    )
    seed: int = Field(0, ge=0)
    batch_size: int = Field(64, ge=2, description="units per step, over all ranks")
    epochs: float | None = Field(
        None,
        gt=0,
        description="stop after so many passes over the units; 20 where no other end is given",
    )
    max_steps: int | None = Field(None, ge=1, description="stop after so many steps")
    max_minutes: float | None = Field(
        None, gt=0, description="stop after so long; a run stopped by the clock is not repeatable"
    )
    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    clip_norm: float | None = Field(5.0, gt=0, description="gradient norm; null for none")
    validation: float = Field(0.05, ge=0, lt=1, description="share of units, by hash of the user")
    test: float = Field(0.0, ge=0, lt=1, description="share of units scored once, at the end")
    validate_every: int = Field(100, ge=1, description="steps between validations")
    patience: int | None = Field(5, ge=1, description="validations without a new best; null: never")
    log_every: int = Field(20, ge=1, description="steps per record")
    checkpoint_every: int = Field(200, ge=1, description="steps between checkpoints")
    keep_checkpoints: int = Field(2, ge=1, description="how many of the latest are kept")
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N")
    bf16: bool = Field(True, description="autocast to bfloat16, on CUDA only")
    compile: bool = Field(False, description="torch.compile the encoder")
    threads: int | None = Field(None, ge=1, description="CPU threads of torch; null: its default")
    tensorboard: bool = Field(False, description="write event files beside the checkpoints")
    mlflow: str | None = Field(
        None, min_length=1, description="tracking URI of an MLflow to send records to"
    )
    init_from: str | None = Field(
        None, description="run id whose encoder weights training starts at"
    )

    @model_validator(mode="after")
    def _ends(self) -> TrainingConfig:
        if self.validation + self.test >= 1:
            raise ValueError("`validation` + `test` must leave units to train on")
        return self


class EncodeConfig(Frozen):
    """Inference: what a batch may hold, and who is encoded."""

    cells: int = Field(16_384, ge=64, description="users x steps per batch, padding included")
    block_users: int = Field(65_536, ge=1, description="users held in memory at once")
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N")
    threads: int | None = Field(None, ge=1, description="CPU threads of torch; null: its default")


#: Columns of a snapshot beside the user id.
SNAPSHOT_COLUMNS = (
    "event_timestamp",
    "created",
    "vector",
    "history_length",
    "last_event",
    "slots",
    "history_hash",
)


class ViewConfig(Frozen):
    """What is published, and what the Feast side looks like."""

    entity: str = Field("user", description="name of the Feast entity")
    join_key: str = Field("user_id", description="its join key, and the id column of snapshots")
    key_type: Literal["auto", "int64", "string"] = Field(
        "auto", description="type of user ids; auto: as in the snapshots, else as in the event log"
    )
    items: bool | Literal["auto"] = Field(
        "auto",
        description="true: snapshots of item vectors, and a view of them; auto: snapshots alone, "
        "if the encoder provides items; false: neither",
    )
    item_entity: str = Field("item", description="name of the Feast entity of items")
    item_key: str = Field("item_id", description="its join key, and the id column of snapshots")
    item_key_type: Literal["auto", "int64", "string"] = Field(
        "auto", description="type of item ids; auto: as in the snapshots, else as in the event log"
    )
    per_interest: bool = Field(
        False, description="one more view with a row per user and interest, each of one vector"
    )
    interest_key: str = Field(
        "interest", description="name of the second entity of that view, and its join key"
    )
    dim: int | None = Field(
        None,
        ge=1,
        description="D that readers count on; a run with another is refused. null: the run's",
    )
    metric: Literal["cosine", "l2", "inner_product"] = Field(
        "cosine", description="what stores that search vectors compare by"
    )
    ttl_days: float | None = Field(
        None, gt=0, description="how long a vector is valid; null: always"
    )
    online: bool = True
    owner: str = ""
    description: str = ""
    tags: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _free_keys(self) -> ViewConfig:
        keys = {name: getattr(self, name) for name in ("join_key", "item_key", "interest_key")}
        for name, key in keys.items():
            if key in SNAPSHOT_COLUMNS:
                raise ValueError(f"`{name}` is {key!r}, a column of every snapshot; name another")
        if self.items is not True:
            keys.pop("item_key")
        if not self.per_interest:
            keys.pop("interest_key")
        if len(set(keys.values())) < len(keys):
            raise ValueError(
                f"{', '.join(f'`{name}` is {key!r}' for name, key in keys.items())}; give each a "
                "name of its own"
            )
        entities = [self.entity, self.item_entity] if self.items is True else [self.entity]
        entities += [self.interest_key] if self.per_interest else []
        if len(set(entities)) < len(entities):
            raise ValueError(
                f"the entities `entity`, `item_entity` and `interest_key` are called "
                f"{', '.join(map(repr, entities))}; give each a name of its own"
            )
        return self


class SearchConfig(Frozen):
    """What `unirep tune` may try for one key of the spec: a list, or a range."""

    choices: tuple[Any, ...] | None = Field(None, description="values, tried as they are")
    low: float | None = Field(None, description="least number, included")
    high: float | None = Field(None, description="largest number, included")
    log: bool = Field(False, description="draw evenly by the logarithm")
    whole: bool = Field(False, description="whole numbers only")

    @model_validator(mode="after")
    def _one_of_both(self) -> SearchConfig:
        if self.choices is not None:
            if not self.choices or self.low is not None or self.high is not None:
                raise ValueError("give `choices` with at least one value, or `low` and `high`")
            return self
        if self.low is None or self.high is None or not self.low < self.high:
            raise ValueError(
                f"wanted `choices`, or `low` below `high`, found {self.low} and {self.high}"
            )
        if self.log and self.low <= 0:
            raise ValueError(f"`log` needs `low` above 0, found {self.low}")
        return self


class RepresentationSpec(Frozen):
    """One representation: events in, a trio of parts, training, snapshots, a feature view."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=64)
    events: EventsConfig
    items: ItemsConfig | None = None
    vocabulary: VocabularyConfig = VocabularyConfig()
    plugin: str | None = Field(None, description="takes encoder, objective and sampler from it")
    encoder: PartConfig = PartConfig()
    objective: PartConfig | None = None
    sampler: PartConfig | None = None
    training: TrainingConfig = TrainingConfig()
    encode: EncodeConfig = EncodeConfig()
    view: ViewConfig = ViewConfig()
    search: dict[str, SearchConfig] = Field(
        default_factory=dict,
        description="by key, such as training.learning_rate: what `unirep tune` may try",
    )
    storage: str = Field("data/unirep", description="runs and snapshots, relative to the spec")
    catalog: str | None = Field(
        None, description="SQLAlchemy URL; default: $UNIREP_CATALOG, else SQLite in `storage`"
    )
    folder: str = Field(".", description="what relative paths are relative to; set by the loader")

    @model_validator(mode="after")
    def _parts(self) -> RepresentationSpec:
        if self.plugin is None and self.encoder.name is None:
            raise ValueError("give `plugin`, or `encoder.name` with `objective` and `sampler`")
        if self.plugin is None and (self.objective is None) != (self.sampler is None):
            raise ValueError(
                "`objective` and `sampler` go together: both, or neither (no training)"
            )
        for role, part in (("objective", self.objective), ("sampler", self.sampler)):
            if self.plugin is None and part is not None and part.name is None:
                raise ValueError(
                    f"`{role}.name` is missing and there is no `plugin` to take it from"
                )
        return self

    def part(self, role: Literal["encoder", "objective", "sampler"]) -> PartConfig | None:
        """Return a part with its name filled in from ``plugin``, or None where there is none."""
        given: PartConfig | None = getattr(self, role)
        if given is None and self.plugin is None:
            return None
        given = given or PartConfig()
        return PartConfig(name=given.name or self.plugin, settings=given.settings)

    def resolve(self, path: str) -> str:
        """Return a path of the spec relative to the working directory."""
        return path if Path(path).is_absolute() or "://" in path else str(Path(self.folder) / path)

    @property
    def home(self) -> Path:
        """Folder of everything this representation writes."""
        return Path(self.resolve(self.storage)) / self.name

    def fingerprint(self) -> str:
        """Hash of what decides a run's weights; where things lie and how they are served do not."""
        decisive = self.model_dump(
            mode="json",
            exclude={"folder", "storage", "catalog", "view", "encode", "name", "search"},
        )
        for key in ("device", "tensorboard", "mlflow", "threads", "keep_checkpoints", "log_every"):
            decisive["training"].pop(key)
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:16]
