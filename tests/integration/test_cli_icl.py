"""ICL through the pipeline: words live in the checkpoint, runs resume, the future stays unseen."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import Result

from unirep_feast.instants import parse_instant
from unirep_feast.pipeline import train
from unirep_feast.snapshot import read_vectors
from unirep_feast.testing.world import FUTURES, World, make_items
from unirep_feast.trainer import Record

T = "2020-03-10"


@pytest.fixture(params=["icl", "icl.capsule"])
def icl(request: pytest.FixtureRequest, shop: Any) -> Any:
    """The shop with a catalogue of titles and ICL on it."""
    settings = {"dim": 16, "vectors": 2, "max_events": 10}
    if request.param == "icl":
        settings["interests"] = 6
    pq.write_table(make_items(33), shop.folder / "items.parquet")
    shop.write(
        plugin="icl",
        items={"path": "items.parquet"},
        encoder={"name": request.param, "settings": settings},
        objective={"settings": {"projection": 8}},
        sampler={"settings": {"jitter": 0.5}},
        training__learning_rate=0.01,
    )
    return shop


def test_a_killed_training_resumes_bit_equal(icl: Any) -> None:
    """Stopped after a step between two checkpoints, resumed: the unbroken run's weights."""
    wanted = icl.weights(train(icl.parsed()).run)

    def stop(record: Record) -> None:
        if record.kind == "step" and record.step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(icl.parsed(), on_record=stop)
    found = icl.weights(train(icl.parsed(), resume=True).run)

    assert found.keys() == wanted.keys()
    assert [name for name in wanted if not torch.equal(found[name], wanted[name])] == []


def test_the_future_and_a_grown_catalogue_do_not_matter(
    icl: Any, cli: Callable[..., Result]
) -> None:
    """Another future, and more items with words of their own, give the same bytes."""
    assert cli("train", icl.path).exit_code == 0
    events = pq.read_table(icl.folder / "events.parquet")

    def encoded(name: str) -> Path:
        out = icl.folder / f"{name}.parquet"
        result = cli("encode", icl.path, "--as-of", T, "--out", out, "--json")
        assert result.exit_code == 0, result.stderr
        assert "warning" not in result.stderr  # the probe of batch mates
        (line,) = json.loads(result.stdout)
        assert (line["num_vectors"], line["dim"]) == (2, 16)
        return out

    whole = encoded("whole")
    _, vectors = read_vectors(whole)
    assert vectors.shape[1] == 32 and vectors.any(1).all()
    for how in FUTURES:
        icl.log(World(events, make_items(33), parse_instant(T)).with_other_future(how).events)
        assert encoded(how).read_bytes() == whole.read_bytes()
    icl.log(events)
    more = pa.table(
        {
            "item_id": pa.array([901, 902], pa.int64()),
            "title": ["an unheard of aardvark", None],
            "category": pa.array([["new"], None], pa.list_(pa.string())),
        }
    )
    catalogue = pq.read_table(icl.folder / "items.parquet")
    pq.write_table(
        pa.concat_tables([catalogue, more.cast(catalogue.schema)]), icl.folder / "items.parquet"
    )
    assert encoded("grown").read_bytes() == whole.read_bytes()


def test_snapshots_say_which_interests_were_chosen(icl: Any, cli: Callable[..., Result]) -> None:
    """``slots`` beside the vectors of the dictionary; capsules have none."""
    assert cli("train", icl.path).exit_code == 0
    encoded = cli("encode", icl.path, "--as-of", T, "--json")
    (line,) = json.loads(encoded.stdout)

    table = pq.read_table(line["path"], partitioning=None)
    assert ("slots" in table.column_names) == ("interests" in icl.spec["encoder"]["settings"])
    if "slots" in table.column_names:
        slots = table["slots"].to_pylist()
        assert all(len(set(row)) == 2 and set(row) <= set(range(6)) for row in slots)


def test_titles_are_asked_for_in_one_line(
    icl: Any, cli: Callable[..., Result], refusal: Callable[[Result], str]
) -> None:
    """Without a catalogue the error says what to set; ids need none."""
    del icl.spec["items"]
    icl.write()
    message = refusal(cli("train", icl.path))
    assert "encoder.settings.behavior: id" in message and "`items`" in message

    icl.write(encoder__settings__behavior="id")
    assert cli("train", icl.path).exit_code == 0
