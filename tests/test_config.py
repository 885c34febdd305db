"""The representation spec: instants, defaults, overrides, and every problem in one line."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unirep_feast.config import RepresentationSpec
from unirep_feast.errors import SpecError
from unirep_feast.instants import format_instant, parse_instant
from unirep_feast.spec_file import load_spec, parse_spec

SMALL = {"name": "shop", "events": {"path": "events.parquet"}, "plugin": "clue"}


def write(folder: Path, text: str) -> Path:
    path = folder / "spec.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def refused(text: str, folder: Path, overrides: tuple[str, ...] = ()) -> str:
    """Load a spec that must be refused; returns the error, which must be one line."""
    with pytest.raises(SpecError) as caught:
        load_spec(write(folder, text), overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@given(st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31)))
def test_instants_survive_text(moment: datetime) -> None:
    """Writing a time and reading it back gives the same microsecond."""
    microseconds = (moment - datetime(1970, 1, 1)) // timedelta(microseconds=1)

    assert parse_instant(format_instant(microseconds)) == microseconds


@given(
    st.datetimes(datetime(1971, 1, 1), datetime(2100, 1, 1)),
    st.integers(-14 * 60, 14 * 60),
)
def test_instants_honour_offsets(moment: datetime, minutes: int) -> None:
    """The same moment written in another zone is the same instant."""
    here = moment.replace(tzinfo=UTC)
    there = here.astimezone(timezone(timedelta(minutes=minutes)))

    assert parse_instant(there.isoformat()) == parse_instant(here) == parse_instant(str(moment))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("1970-01-02", 86_400_000_000),
        ("1970-01-01T00:00:01Z", 1_000_000),
        ("1970-01-01T01:00:00+01:00", 0),
        (datetime(1970, 1, 1, 0, 0, 0, 5), 5),
        (-1, -1),
    ],
)
def test_instants_are_read(value: object, expected: int) -> None:
    """Dates, date-times, objects and plain microseconds are read; no offset means UTC."""
    assert parse_instant(value) == expected


@pytest.mark.parametrize("value", [True, 1.5, None, "yesterday", "2011-13-01", []])
def test_other_things_are_no_instants(value: object) -> None:
    """Anything else is refused with what was found and what is wanted."""
    with pytest.raises(ValueError, match="wanted an ISO date or date-time") as caught:
        parse_instant(value)

    assert repr(value) in str(caught.value)


def test_instants_beyond_the_calendar_can_be_named() -> None:
    """A time after the year 9999 (milliseconds read as seconds) can still stand in an error."""
    assert format_instant(1_600_000_000_000 * 1_000_000) == "a time in the year 52671"
    assert format_instant(-1) == "1969-12-31T23:59:59.999999Z"


def test_a_small_spec_has_defaults(tmp_path: Path) -> None:
    """Name, events and a plugin are enough; the plugin fills in all three parts."""
    path = write(tmp_path, "name: shop\nevents: {path: events.parquet}\nplugin: clue\n")

    spec = load_spec(path)

    assert [spec.part(role).name for role in ("encoder", "objective", "sampler")] == ["clue"] * 3
    assert spec.training.until is None
    assert spec.resolve("events.parquet") == str(tmp_path / "events.parquet")
    assert spec.resolve("/a/b") == "/a/b"
    assert spec.resolve("s3://bucket/b") == "s3://bucket/b"
    assert spec.home == tmp_path / "data/unirep/shop"


def test_a_spec_survives_json() -> None:
    """A resolved spec travels through JSON, as it does in a feature view's tags."""
    raw = {**SMALL, "training": {"until": "2011-06-01", "max_steps": 10}}
    spec = parse_spec(raw, "tag")

    again = RepresentationSpec.model_validate_json(spec.model_dump_json())

    assert again == spec
    assert '"2011-06-01T00:00:00Z"' in spec.model_dump_json()


def test_part_settings_override_the_plugin() -> None:
    """A part may be another registered one; unnamed parts still come from the plugin."""
    spec = parse_spec(
        {**SMALL, "encoder": {"name": "clue.gru", "settings": {"dim": 8}}, "objective": {}}, "x"
    )

    assert spec.part("encoder").name == "clue.gru"
    assert spec.part("encoder").settings == {"dim": 8}
    assert spec.part("objective").name == "clue"


def test_an_encoder_alone_has_no_other_parts() -> None:
    """A baseline without plugin names an encoder only: there is nothing to train."""
    spec = parse_spec(
        {"name": "a", "events": {"path": "e"}, "encoder": {"name": "baselines.counts"}}, "x"
    )

    assert spec.part("objective") is None
    assert spec.part("sampler") is None


def test_overrides_reach_any_depth(tmp_path: Path) -> None:
    """``key.sub=value`` is read as YAML and creates keys that are absent or empty."""
    path = write(tmp_path, "name: shop\nevents: {path: e}\nplugin: clue\ntraining:\n")

    spec = load_spec(
        path, ["training.max_steps=7", "encoder.settings.dim=16", "training.until=2011-06-01"]
    )

    assert spec.training.max_steps == 7
    assert spec.encoder.settings == {"dim": 16}
    assert spec.training.until == parse_instant("2011-06-01")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("training.max_steps", "wanted key=value"),
        ("=3", "wanted key=value"),
        ("name.first=3", "'name' holds 'shop', not keys"),
        ("training.seed=[1", "'[1' is no YAML value"),
    ],
)
def test_bad_overrides_are_named(override: str, expected: str, tmp_path: Path) -> None:
    """An override that cannot be applied is refused with its own text."""
    message = refused("name: shop\nevents: {path: e}\nplugin: clue\n", tmp_path, (override,))

    assert repr(override) in message
    assert expected in message


def test_every_problem_is_reported_at_once(tmp_path: Path) -> None:
    """Unknown keys, wrong types and missing keys all stand in one line, each with its key."""
    message = refused(
        "name: Shop!\nevents: {path: e, colums: 1}\nplugin: clue\n"
        "training: {max_steps: many, learning_rate: -1, until: soon}\nencode: {cells: 1}\n",
        tmp_path,
    )

    assert "6 problems" in message
    for part in (
        "name: ",
        "found 'Shop!'",
        "unknown key `events.colums`",
        "training.max_steps: ",
        "found 'many'",
        "training.learning_rate: ",
        "found -1",
        "training.until: wanted an ISO date",
        "found 'soon'",
        "encode.cells: ",
        "found 1",
    ):
        assert part in message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name: a\nplugin: clue\n", "`events` is missing"),
        ("name: a\nevents: {path: e}\n", "give `plugin`, or `encoder.name`"),
        ("name: a\nplugin: p\nevents: {}\n", "exactly one of `path` and `feast`"),
        (
            "name: a\nplugin: p\nevents: {path: e, feast: {source: s}}\n",
            "exactly one of `path` and `feast`",
        ),
        ("name: a\nplugin: p\nevents: {path: e, types: [buy]}\n", "`types` needs `columns.type`"),
        (
            "name: a\nevents: {path: e}\nencoder: {name: x}\nsampler: {name: y}\n",
            "`objective` and `sampler` go together",
        ),
        (
            "name: a\nevents: {path: e}\nencoder: {name: x}\nsampler: {name: y}\nobjective: {}\n",
            "`objective.name` is missing",
        ),
        (
            "name: a\nplugin: p\nevents: {path: e}\ntraining: {validation: 0.6, test: 0.5}\n",
            "must leave units to train on",
        ),
        ("name: a\nplugin: p\nevents: {path: e}\ntraining:\n", "training: "),
        ("- a\n- b\n", "found list, wanted keys"),
        ("name: [a\n", "is not YAML"),
        ("", "found NoneType, wanted keys"),
    ],
)
def test_cross_field_problems_are_named(text: str, expected: str, tmp_path: Path) -> None:
    """Keys that do not go together, and files that are no spec, say what is wanted."""
    assert expected in refused(text, tmp_path)


def test_a_missing_spec_is_named(tmp_path: Path) -> None:
    """A path without a file, or with a folder, is one line with the path."""
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(SpecError, match="give the path of a spec file") as caught:
            load_spec(path)
        assert str(path) in str(caught.value)


def test_settings_models_cannot_be_changed() -> None:
    """A spec is frozen: what was fingerprinted is what runs."""
    spec = parse_spec(SMALL, "x")

    with pytest.raises(ValueError, match="frozen"):
        spec.name = "other"


@pytest.mark.parametrize(
    "change",
    [
        {"training": {"seed": 1}},
        {"events": {"path": "other.parquet"}},
        {"encoder": {"settings": {"dim": 3}}},
        {"vocabulary": {"min_count": 2}},
    ],
)
def test_the_fingerprint_changes_with_what_decides_weights(change: dict[str, object]) -> None:
    """Another seed, log, vocabulary or model is another fingerprint."""
    assert (
        parse_spec({**SMALL, **change}, "x").fingerprint() != parse_spec(SMALL, "x").fingerprint()
    )


@pytest.mark.parametrize(
    "change",
    [
        {"storage": "elsewhere"},
        {"catalog": "sqlite:///x.db"},
        {"folder": "elsewhere"},
        {"view": {"owner": "me"}},
        {"encode": {"cells": 128}},
        {"training": {"device": "cpu", "threads": 1, "log_every": 5}},
    ],
)
def test_the_fingerprint_ignores_where_and_how(change: dict[str, object]) -> None:
    """Folders, serving and logging do not make another run."""
    assert (
        parse_spec({**SMALL, **change}, "x").fingerprint() == parse_spec(SMALL, "x").fingerprint()
    )
