"""CLUE through the pipeline: every backbone resumes bit-equal and sees nothing of the future."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
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

BACKBONES = ("sasrec", "gru", "nextitnet", "caser")


@pytest.fixture(params=BACKBONES)
def clue(request: pytest.FixtureRequest, shop: Any) -> Any:
    """The shop with CLUE on a small backbone."""
    settings = {"backbone": request.param, "dim": 16, "max_events": 10, "dropout": 0.2}
    shop.write(
        plugin="clue",
        encoder={"settings": settings},
        objective={"settings": {"projector": 16, "bottleneck": 8}},
        training__learning_rate=0.01,
    )
    return shop


def test_a_killed_training_resumes_bit_equal(clue: Any) -> None:
    """Stopped after a step between two checkpoints, resumed: the unbroken run's weights."""
    wanted = clue.weights(train(clue.parsed()).run)

    def stop(record: Record) -> None:
        if record.kind == "step" and record.step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(clue.parsed(), on_record=stop)
    resumed = train(clue.parsed(), resume=True)

    found = clue.weights(resumed.run)
    assert found.keys() == wanted.keys()
    assert [name for name in wanted if not torch.equal(found[name], wanted[name])] == []


def test_the_future_and_the_company_do_not_matter(clue: Any, cli: Callable[..., Result]) -> None:
    """Another future gives the same bytes; a fifth of the users, in any order, the same vectors."""
    assert cli("train", clue.path).exit_code == 0
    events = pq.read_table(clue.folder / "events.parquet")

    def encoded(name: str) -> Path:
        out = clue.folder / f"{name}.parquet"
        result = cli("encode", clue.path, "--as-of", T, "--out", out, "--json")
        assert result.exit_code == 0, result.stderr
        assert "warning" not in result.stderr  # the probe of batch mates
        assert json.loads(result.stdout)[0]["dim"] == 16
        return out

    whole = encoded("whole")
    ids, vectors = read_vectors(whole)
    for how in FUTURES:
        clue.log(World(events, make_items(33), parse_instant(T)).with_other_future(how).events)
        assert encoded(how).read_bytes() == whole.read_bytes()

    clue.log(events.filter(pc.equal(pc.bit_wise_and(events["user_id"], 3), 1)))
    some, few = read_vectors(encoded("some"))
    assert 5 < len(some) < len(ids) / 2
    place = {user: row for row, user in enumerate(ids.to_pylist())}
    rows = [place[user] for user in some.to_pylist()]
    assert few.tobytes() == vectors[rows].tobytes()
