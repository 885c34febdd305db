from __future__ import annotations

import json
import runpy
import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

import click
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from feast import Entity, FeatureService, FeatureView, FileSource, ValueType
from feast.data_format import ParquetFormat
from feast.types import Array, Float32, Int64, String, UnixTimestamp

from unirep_feast.errors import SpecError, StoreError
from unirep_feast.feature_store.views import read_promoted, representation, spec_of
from unirep_feast.spec_file import load_spec

UTC_TIME = pa.timestamp("us", tz="UTC")


def write_spec(folder: Path, **changes: Any) -> Path:
    """A spec; dotted keys are joined by two underscores."""
    spec: dict[str, Any] = {
        "name": "purchases",
        "events": {"path": "events.parquet"},
        "plugin": "clue",
    }
    for key, value in changes.items():
        *parents, last = key.split("__")
        node = spec
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    path = folder / "purchases.yaml"
    path.write_text(yaml.safe_dump(spec))
    return path


def write_events(folder: Path, users: pa.Array) -> None:
    pq.write_table(pa.table({"user_id": users}), folder / "events.parquet")


def write_footer(folder: Path, run: str, users: pa.Array, footer: dict[str, str]) -> None:
    """A snapshot of which only schema and footer matter, in the promoted run's folder."""
    snapshots = folder / "data/unirep/purchases/snapshots"
    (snapshots / run).mkdir(parents=True)
    table = pa.table({"user_id": users}).replace_schema_metadata(footer)
    pq.write_table(table, snapshots / run / "20240101T000000Z.parquet")
    (snapshots / "promoted").symlink_to(run)


def test_objects_are_stock_and_unpack_in_order(tmp_path: Path) -> None:
    """A module that unpacks them holds what Feast looks for: entity, source, view, service."""
    write_events(tmp_path, pa.array([1]))
    view_settings = {"ttl_days": 1.5, "owner": "me", "description": "d", "tags": {"team": "growth"}}

    made = representation(write_spec(tmp_path, view=view_settings))

    user, source, view, service = made
    assert [type(each) for each in made] == [Entity, FileSource, FeatureView, FeatureService]
    assert (user.name, user.join_key, user.value_type) == ("user", "user_id", ValueType.INT64)
    assert source.path == str(tmp_path / "data/unirep/purchases/snapshots/promoted/*.parquet")
    assert source.file_format == ParquetFormat()
    assert (source.timestamp_field, source.created_timestamp_column) == (
        "event_timestamp",
        "created",
    )
    assert (view.name, service.name) == ("purchases", "purchases")
    assert (view.ttl, view.online, view.owner, view.description) == (
        timedelta(days=1.5),
        True,
        "me",
        "d",
    )
    assert {field.name: field.dtype for field in view.schema} == {
        "user_id": Int64,
        "vector": Array(Float32),
        "history_length": Int64,
        "last_event": UnixTimestamp,
    }
    assert view.tags["team"] == "growth"
    assert [each.name for each in service.feature_view_projections] == ["purchases"]


def test_without_a_ttl_vectors_last_for_ever(tmp_path: Path) -> None:
    """Feast spells for ever as a ttl of zero."""
    write_events(tmp_path, pa.array([1]))

    assert representation(write_spec(tmp_path)).view.ttl == timedelta(0)


def test_the_spec_travels_in_the_tags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the view alone one gets the resolved spec back, its folder absolute."""
    write_events(tmp_path, pa.array([1]))
    write_spec(tmp_path, training__until="2024-01-02", view__owner="me")
    monkeypatch.chdir(tmp_path)

    view = representation("purchases.yaml", ["training.seed=7"]).view

    expected = load_spec(tmp_path / "purchases.yaml", ["training.seed=7"])
    assert spec_of(view) == expected
    assert view.tags["unirep.spec_hash"] == expected.fingerprint()
    assert view.tags["unirep.representation"] == "purchases"
    assert "unirep.run" not in view.tags


def test_a_password_stays_out_of_the_registry(tmp_path: Path) -> None:
    """A catalog URL with a password is left out of the tag; one without travels."""
    write_events(tmp_path, pa.array([1]))
    secret = representation(write_spec(tmp_path, catalog="postgresql://me:secret@host/db")).view
    plain = representation(write_spec(tmp_path, catalog="postgresql://me@host/db")).view

    assert "secret" not in json.dumps(secret.tags)
    assert spec_of(secret).catalog is None
    assert spec_of(plain).catalog == "postgresql://me@host/db"


@pytest.mark.parametrize(
    ("users", "kind", "dtype"),
    [
        (pa.array([1], pa.int32()), ValueType.INT64, Int64),
        (pa.array(["a"]), ValueType.STRING, String),
        (pa.array(["a"], pa.large_string()), ValueType.STRING, String),
        (pa.array(["a"]).dictionary_encode(), ValueType.STRING, String),
    ],
    ids=lambda value: str(getattr(value, "type", "")),
)
def test_the_key_type_is_that_of_the_log(
    tmp_path: Path, users: pa.Array, kind: ValueType, dtype: Any
) -> None:
    """Integers are keyed as int64, every kind of string as string."""
    write_events(tmp_path, users)

    made = representation(write_spec(tmp_path))

    assert made.entity.value_type == kind
    assert made.view.entity_columns[0].dtype == dtype


def test_the_key_type_of_snapshots_or_settings_goes_first(tmp_path: Path) -> None:
    """A setting beats the snapshots, and they beat the log, which then need not be there."""
    write_footer(tmp_path, "r1", pa.array(["a"]), {})
    write_events(tmp_path, pa.array([1]))

    assert representation(write_spec(tmp_path)).entity.value_type == ValueType.STRING
    (tmp_path / "events.parquet").unlink()
    assert representation(write_spec(tmp_path)).entity.value_type == ValueType.STRING
    given = write_spec(tmp_path, view__key_type="int64")
    assert representation(given).entity.value_type == ValueType.INT64


def test_tags_name_the_promoted_run(tmp_path: Path) -> None:
    """The newest snapshot's footer gives run, K and D; a footer without them gives no tag."""
    footer = {"unirep.run": "r1", "unirep.vectors": "4", "unirep.dim": "32"}
    write_footer(tmp_path, "r1", pa.array([1]), footer)
    path = write_spec(tmp_path)

    tags = representation(path).view.tags

    assert (tags["unirep.run"], tags["unirep.vectors"], tags["unirep.dim"]) == ("r1", "4", "32")
    promoted = read_promoted(load_spec(path))
    assert promoted is not None
    assert (promoted.run, promoted.vectors, promoted.dim) == ("r1", 4, 32)


@pytest.mark.parametrize(
    ("prepare", "changes", "message"),
    [
        (None, {}, "type of user ids is unknown: events: no such file.*view.key_type: int64"),
        (
            None,
            {"events": {"feast": {"source": "log"}}},
            "events come from a Feast source.*set view.key_type: int64 or string",
        ),
        (pa.array([1.5]), {}, "column 'user_id' of events.parquet.*found double"),
        (pa.array([1]), {"events__columns": {"user": "who"}}, "'who'.*found no such column"),
        (pa.array([1]), {"view__join_key": "vector"}, "'vector', a column of every snapshot"),
        (pa.array([1]), {"view__key_type": "int", "nome": 1}, "2 problems.*key_type.*`nome`"),
    ],
)
def test_what_cannot_be_declared_is_one_line(
    tmp_path: Path, prepare: pa.Array | None, changes: dict[str, Any], message: str
) -> None:
    """The error says what to set; as a click error, `feast apply` prints it without traceback."""
    if prepare is not None:
        write_events(tmp_path, prepare)

    with pytest.raises(StoreError, match=message) as caught:
        representation(write_spec(tmp_path, **changes))

    assert isinstance(caught.value, click.ClickException)
    assert "\n" not in str(caught.value)


def test_a_damaged_snapshot_is_named(tmp_path: Path) -> None:
    """A promoted snapshot that is no parquet stops the declaration, and the file is named."""
    write_footer(tmp_path, "r1", pa.array([1]), {})
    broken = tmp_path / "data/unirep/purchases/snapshots/r1/20250101T000000Z.parquet"
    broken.write_bytes(b"PAR1")

    with pytest.raises(StoreError, match=r"20250101T000000Z.parquet cannot be read.*encode again"):
        representation(write_spec(tmp_path))


def test_a_view_of_another_version_is_refused(tmp_path: Path) -> None:
    """A spec tag that does not parse is a spec error that names the view."""
    write_events(tmp_path, pa.array([1]))
    view = representation(write_spec(tmp_path)).view
    view.tags["unirep.spec"] = '{"name": "purchases", "novel": 1}'

    with pytest.raises(SpecError, match=r"tags of feature view 'purchases'.*`novel`"):
        spec_of(view)


def test_the_shipped_feature_repo_declares_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy of feature_repo/ with an event log is complete; what it tells of CLUE is valid."""
    repo = tmp_path / "repo"
    shipped = Path(__file__).parents[1] / "feature_repo"
    shutil.copytree(shipped, repo, ignore=shutil.ignore_patterns("data", "__pycache__"))
    (repo / "data").mkdir()
    pq.write_table(pa.table({"user_id": [1], "item_id": ["a"]}), repo / "data/events.parquet")
    monkeypatch.chdir("/")

    made = runpy.run_path(str(repo / "representations.py"))

    kinds = {FeatureView, FeatureService, FileSource, Entity}
    assert {type(each) for each in made.values()} & kinds == kinds
    assert spec_of(made["view"]).name == "purchases_clue"
    assert made["item"].value_type == ValueType.STRING
    config = pytest.importorskip("unirep_feast_clue.config")
    settings = spec_of(made["view"]).encoder.settings
    assert config.EncoderSettings.model_validate(settings).dim == 64
