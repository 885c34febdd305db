"""`unirep encode` and item vectors: who is published as of T, whole or not at all, never later."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from unirep_feast.catalog import Catalog
from unirep_feast.checkpoint import open_checkpoint
from unirep_feast.events import TIME_TYPE
from unirep_feast.files import sha256
from unirep_feast.instants import parse_instant
from unirep_feast.pipeline import encode
from unirep_feast.snapshot import DIM, LEAKAGE, RUN, VECTORS, read_vectors, snapshot_path
from unirep_feast.testing.world import FUTURES, World, make_items, make_world

T = "2020-03-10"
COLUMNS = ["item_id", "event_timestamp", "created", "vector"]


def trained(shop: Any, cli: Callable[..., Any], **changes: Any) -> str:
    """A promoted run of the shop; returns its id."""
    shop.write(**changes)
    done = cli("train", shop.path, "--json")
    assert done.exit_code == 0, done.stderr
    run: str = json.loads(done.stdout)["run"]
    return run


def item_path(shop: Any, run: str, time: str = T) -> Path:
    return snapshot_path(shop.home, run, parse_instant(time), "item")


def seen(shop: Any, time: str) -> set[Any]:
    """Items with an event before a time, straight from the log."""
    events = pq.read_table(shop.folder / "events.parquet")
    before = pc.less(events["event_timestamp"], pa.scalar(parse_instant(time), TIME_TYPE))
    return set(events.filter(before)["item_id"].to_pylist())


def seen_users(shop: Any, time: str) -> list[Any]:
    """Users with an event before a time, ascending."""
    events = pq.read_table(shop.folder / "events.parquet")
    before = pc.less(events["event_timestamp"], pa.scalar(parse_instant(time), TIME_TYPE))
    return sorted(set(events.filter(before)["user_id"].to_pylist()))


@pytest.mark.parametrize("string_ids", [False, True])
def test_items_seen_before_t_are_published(shop: Any, cli: Any, string_ids: bool) -> None:
    """Each with the vector that the run's encoder has for it; file, row and link say whose."""
    shop.log(make_world(users=60, items=30, string_ids=string_ids).events)
    run = trained(shop, cli)

    done = cli("encode", shop.path, "--as-of", T, "--json")

    assert done.exit_code == 0, done.stderr
    path = item_path(shop, run)
    (told,) = json.loads(done.stdout)
    table = pq.read_table(path)
    assert told["items"] == {"path": str(path), "rows": table.num_rows}
    assert told["interests"] is None
    assert table.column_names == COLUMNS
    assert table.schema.field("vector").type.value_type == pa.float32()
    assert set(table["event_timestamp"].cast(pa.int64()).to_pylist()) == {parse_instant(T)}
    users = pq.read_table(told["path"])
    assert table["created"][0] == users["created"][0]
    footer = table.schema.metadata
    assert (footer[RUN], footer[VECTORS], footer[DIM]) == (run.encode(), b"1", b"8")
    assert footer[LEAKAGE] == b"0"

    checkpoint = open_checkpoint(shop.home / "runs" / run / "checkpoints/final")
    vocabulary = checkpoint.vocabulary().item_ids.to_pylist()
    ids, vectors = read_vectors(path, "item_id")
    assert len(set(ids.to_pylist())) == len(ids)
    assert set(ids.to_pylist()) == seen(shop, T) & set(vocabulary)
    weights = checkpoint.tensors("encoder")["items.weight"].numpy()
    codes = [vocabulary.index(item) + 3 for item in ids.to_pylist()]
    assert vectors.tobytes() == weights[codes].tobytes()

    item, user = Catalog(shop.catalog).snapshots(run)
    assert (item.entity, user.entity) == ("item", "user")
    assert (item.path, item.rows) == (str(path.resolve()), len(ids))
    assert (item.checksum, item.num_vectors, item.dim) == (sha256(path), 1, 8)
    assert (shop.home / "snapshots/promoted/items" / path.name).samefile(path)
    shop.assert_nothing_half_written()


def test_the_item_table_makes_no_item_known(shop: Any, cli: Any) -> None:
    """Listed but never seen before T, or seen after the training with nothing the encoder reads:
    both are left out, whatever the order of the log."""
    pq.write_table(
        pa.table({"item_id": list(range(1, 60)), "title": ["a thing"] * 59}),
        shop.folder / "items.parquet",
    )
    events = pq.read_table(shop.folder / "events.parquet")
    late = pc.greater_equal(
        events["event_timestamp"], pa.scalar(parse_instant("2020-03-01"), TIME_TYPE)
    ).to_numpy()
    changed = events["item_id"].to_numpy().copy()
    changed[np.flatnonzero(late)[:3]] = 45  # listed, seen before T, and after the training
    shop.log(events.set_column(1, "item_id", pa.array(changed)))
    run = trained(shop, cli, items={"path": "items.parquet", "category": None})

    cli("encode", shop.path, "--as-of", T)

    ids, vectors = read_vectors(item_path(shop, run), "item_id")
    known = open_checkpoint(shop.home / "runs" / run / "checkpoints/final").vocabulary().item_ids
    assert set(ids.to_pylist()) == seen(shop, T) & set(known.to_pylist())
    assert 45 in seen(shop, T) and 45 not in ids.to_pylist()
    assert len(np.unique(vectors, axis=0)) == len(ids)


def test_no_bit_of_the_future_shows_in_items(shop: Any, unirep: Any) -> None:
    """Through the command: change, add or remove every event from T on, the bytes are equal."""
    shop.write(view={"items": True})
    events = pq.read_table(shop.folder / "events.parquet")
    done = unirep("train", shop.path, "--json")
    assert done.returncode == 0, done.stderr
    path = item_path(shop, json.loads(done.stdout)["run"])

    def encoded() -> bytes:
        done = unirep("encode", shop.path, "--as-of", T)
        assert done.returncode == 0, done.stderr
        return path.read_bytes()

    wanted = encoded()
    for seed, how in enumerate(FUTURES):
        other = World(events, make_items(33), parse_instant(T)).with_other_future(how, seed)
        assert not other.events.equals(events)
        shop.log(other.events)
        path.unlink()

        assert encoded() == wanted


@pytest.mark.parametrize(
    ("items", "encoder", "made"),
    [
        ("auto", "lab", True),
        (True, "lab", True),
        (False, "lab", False),
        ("auto", "lab.bare", False),
    ],
)
def test_the_spec_says_whether_items_are_made(
    shop: Any, cli: Any, items: Any, encoder: str, made: bool
) -> None:
    """auto follows the encoder, true and false are orders; users are the same in all cases."""
    run = trained(shop, cli, encoder__name=encoder, view={"items": items})

    done = cli("encode", shop.path, "--as-of", T)

    assert done.exit_code == 0, done.stderr
    assert item_path(shop, run).exists() == made
    assert (" items x 8" in done.stdout) == made
    entities = [one.entity for one in Catalog(shop.catalog).snapshots(run)]
    assert entities == (["item", "user"] if made else ["user"])


def test_items_of_an_encoder_without_any_are_refused(shop: Any, cli: Any, refusal: Any) -> None:
    """In one line that names the encoder and the key: before training, and at encode."""
    shop.write(encoder__name="lab.bare", view={"items": True})

    line = refusal(cli("train", shop.path))

    wanted = "view.items: true, encoder 'lab.bare' provides no item vectors; set view.items: auto"
    assert wanted in line
    assert [run.status for run in shop.runs()] == ["failed"]

    run = trained(shop, cli, view={})
    shop.write(view={"items": True})
    assert wanted in refusal(cli("encode", shop.path, "--as-of", T))
    assert list((shop.home / "snapshots" / run).iterdir()) == []
    assert cli("encode", shop.path, "--as-of", T, "--out", shop.folder / "v.parquet").exit_code == 0


def test_only_what_is_missing_is_made(shop: Any, cli: Any, refusal: Any) -> None:
    """A process that died between users and items, a lost file, a changed one."""
    run = trained(shop, cli, view={"items": False})
    cli("encode", shop.path, "--as-of", T)
    users = snapshot_path(shop.home, run, parse_instant(T))
    stamp = users.stat().st_mtime_ns
    shop.write(view={"items": "auto"})

    done = cli("encode", shop.path, "--as-of", T, "--json")

    assert not json.loads(done.stdout)[0]["existed"]
    assert users.stat().st_mtime_ns == stamp
    path = item_path(shop, run)
    content = path.read_bytes()
    assert json.loads(cli("encode", shop.path, "--as-of", T, "--json").stdout)[0]["existed"]

    path.unlink()
    cli("encode", shop.path, "--as-of", T)
    assert path.read_bytes() == content

    path.write_bytes(content[:-1] + b"?")
    line = refusal(cli("encode", shop.path, "--as-of", T))
    assert str(path) in line and "was changed since it was written" in line


def test_names_are_the_specs(shop: Any, cli: Any) -> None:
    """The id column and what the catalog calls the rows."""
    run = trained(shop, cli, view={"item_key": "sku", "item_entity": "product"})

    cli("encode", shop.path, "--as-of", T)

    assert pq.read_schema(item_path(shop, run)).names == ["sku", *COLUMNS[1:]]
    assert [one.entity for one in Catalog(shop.catalog).snapshots(run)] == ["product", "user"]


def test_an_item_has_the_same_bits_whichever_others_are_known(shop: Any, cli: Any) -> None:
    """As of an earlier time fewer items are known; those have the very same vectors."""
    run = trained(shop, cli, training__until="2020-01-20")
    first = pc.min(pq.read_table(shop.folder / "events.parquet")["event_timestamp"]).as_py()
    early = (first.replace(hour=0, minute=0, second=0, microsecond=0)).isoformat()
    early = str(np.datetime64(early[:19]) + np.timedelta64(1, "D"))

    for time in (early, T):
        cli("encode", shop.path, "--as-of", time, "--allow-model-leakage")

    few, some = read_vectors(item_path(shop, run, early), "item_id")
    many, all_of_them = read_vectors(item_path(shop, run), "item_id")
    assert 0 < len(few) < len(many)
    assert set(few.to_pylist()) <= seen(shop, early)
    places = pc.index_in(few, value_set=many).to_numpy()
    assert all_of_them[places].tobytes() == some.tobytes()


# -- interests -------------------------------------------------------------------------------------


@pytest.mark.parametrize("slots", [False, True])
def test_interests_are_the_users_vectors_one_a_row(shop: Any, cli: Any, slots: bool) -> None:
    """Keyed by the slot that the encoder published, else by the vector's place."""
    settings = {"vectors": 3, "dim": 4, "slots": slots}
    run = trained(shop, cli, encoder__settings=settings, view={"per_interest": True})

    done = cli("encode", shop.path, "--as-of", T, "--json")

    (told,) = json.loads(done.stdout)
    users = pq.read_table(told["path"])
    path = snapshot_path(shop.home, run, parse_instant(T), "interest")
    table = pq.read_table(path)
    assert told["interests"] == {"path": str(path), "rows": 3 * users.num_rows}
    assert table.column_names == ["user_id", "interest", "event_timestamp", "created", "vector"]
    assert ("slots" in users.column_names) == slots
    expected = [
        (
            user,
            (row["slots"] if slots else range(3))[place],
            row["vector"][4 * place : 4 * place + 4],
        )
        for row in users.to_pylist()
        for place, user in enumerate([row["user_id"]] * 3)
    ]
    found = [(row["user_id"], row["interest"], row["vector"]) for row in table.to_pylist()]
    assert found == expected
    assert table.schema.metadata[VECTORS] == b"1" and table.schema.metadata[DIM] == b"4"
    assert table.schema.metadata[RUN] == run.encode()
    kinds = {one.entity: one for one in Catalog(shop.catalog).snapshots(run)}
    assert set(kinds) == {"user", "item", "interest"}
    assert (kinds["interest"].num_vectors, kinds["interest"].dim) == (1, 4)

    content = path.read_bytes()
    path.unlink()
    assert encode(shop.parsed(), parse_instant(T)).interests is not None
    assert path.read_bytes() == content


def test_an_interest_twice_is_refused(shop: Any, cli: Any, refusal: Any) -> None:
    """(user, interest) must name one vector; the users are named, nothing is left."""
    settings = {"vectors": 2, "slots": True, "fails": "twice"}
    trained(shop, cli, encoder__settings=settings, view={"per_interest": True})

    line = refusal(cli("encode", shop.path, "--as-of", T))

    users = seen_users(shop, T)
    named = ", ".join(map(str, users[:5]))
    assert f"{len(users)} users have one interest twice (users {named})" in line
    assert "view.per_interest: false" in line
    shop.assert_nothing_half_written()
    assert not list(shop.home.glob("snapshots/*/interests/*.parquet"))
