"""LURM through the pipeline: what is prepared is kept, resumes, and sees nothing of the future."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import Result

from unirep_feast.checkpoint import open_checkpoint
from unirep_feast.instants import parse_instant
from unirep_feast.pipeline import train
from unirep_feast.snapshot import read_vectors
from unirep_feast.testing.world import FUTURES, World, make_items
from unirep_feast.trainer import Record

T = "2020-03-10"

ENCODER: dict[str, Any] = {
    "item_dim": 8,
    "item_steps": 5,
    "interests": 6,
    "anchors": 3,
    "dim": 8,
}


@pytest.fixture(params=["text", "id", "word2vec"])
def lurm(request: pytest.FixtureRequest, shop: Any) -> Any:
    """The shop with a small LURM, by each way to item vectors."""
    return _with_lurm(shop, items=request.param)


def _with_lurm(shop: Any, **settings: Any) -> Any:
    pq.write_table(make_items(33), shop.folder / "items.parquet")
    shop.write(
        plugin="lurm",
        items={"path": "items.parquet"},
        encoder={"settings": {**ENCODER, **settings}},
        objective={},
        sampler={},
        training__learning_rate=0.01,
    )
    return shop


def prepared(shop: Any, run: str) -> dict[str, torch.Tensor]:
    final = open_checkpoint(shop.home / "runs" / run / "checkpoints" / "final")
    return final.tensors("prepared")


def test_a_killed_training_resumes_bit_equal(lurm: Any) -> None:
    """Weights and prepared state of an unbroken run, which is never prepared again."""
    whole = train(lurm.parsed()).run

    def stop(record: Record) -> None:
        if record.kind == "step" and record.step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(lurm.parsed(), on_record=stop)
    resumed = train(lurm.parsed(), resume=True).run

    for read in (lurm.weights, lambda run: prepared(lurm, run)):
        wanted, found = read(whole), read(resumed)
        assert found.keys() == wanted.keys()
        assert [name for name in wanted if not torch.equal(found[name], wanted[name])] == []


def test_the_future_and_the_company_do_not_matter(lurm: Any, cli: Callable[..., Result]) -> None:
    """Another future gives the same bytes; a fifth of the users, in any order, the same vectors."""
    assert cli("train", lurm.path).exit_code == 0
    events = pq.read_table(lurm.folder / "events.parquet")

    def encoded(name: str) -> Path:
        out: Path = lurm.folder / f"{name}.parquet"
        result = cli("encode", lurm.path, "--as-of", T, "--out", out, "--json")
        assert result.exit_code == 0, result.stderr
        assert "warning" not in result.stderr  # the probe of batch mates
        assert json.loads(result.stdout)[0]["dim"] == 8
        return out

    whole = encoded("whole")
    ids, vectors = read_vectors(whole)
    assert vectors.shape[1] == 3 * 8
    for how in FUTURES:
        lurm.log(World(events, make_items(33), parse_instant(T)).with_other_future(how).events)
        assert encoded(how).read_bytes() == whole.read_bytes()

    lurm.log(events.filter(pc.equal(pc.bit_wise_and(events["user_id"], 3), 1)))
    some, few = read_vectors(encoded("some"))
    assert 5 < len(some) < len(ids) / 2
    place = {user: row for row, user in enumerate(ids.to_pylist())}
    rows = [place[user] for user in some.to_pylist()]
    assert few.tobytes() == vectors[rows].tobytes()


def test_two_processes_prepare_and_train_one_run(shop: Any, cli: Callable[..., Result]) -> None:
    """Under torchrun both stages are shared out; interests are the same whoever clusters."""
    lurm = _with_lurm(shop, assignment="soft", nearest=2)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*launch, "-m", "unirep_feast", "train", str(lurm.path), "--json"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )

    assert done.returncode == 0, done.stderr[-3000:]
    (line,) = done.stdout.strip().splitlines()
    found = prepared(lurm, json.loads(line)["run"])
    shares = found["interests.shares"]
    assert torch.allclose(shares.sum(1), (found["items.vectors"] != 0).any(1).float())
    out = lurm.folder / "out.parquet"
    result = cli("encode", lurm.path, "--as-of", T, "--out", out)
    assert result.exit_code == 0, result.stderr


def test_a_grown_catalogue_moves_nobody_who_met_nothing_new(
    shop: Any, cli: Callable[..., Result]
) -> None:
    """New items, some of them bought: only their buyers' vectors change."""
    lurm = _with_lurm(shop)
    assert cli("train", lurm.path).exit_code == 0

    def encoded(name: str) -> dict[int, bytes]:
        out = lurm.folder / f"{name}.parquet"
        result = cli("encode", lurm.path, "--as-of", T, "--out", out)
        assert result.exit_code == 0, result.stderr
        ids, vectors = read_vectors(out)
        return {user: row.tobytes() for user, row in zip(ids.to_pylist(), vectors, strict=True)}

    before = encoded("before")
    new = make_items(400, seed=1).slice(33)
    pq.write_table(pa.concat_tables([make_items(33), new]), lurm.folder / "items.parquet")
    assert encoded("grown") == before

    events = pq.read_table(lurm.folder / "events.parquet")
    buyer = events["user_id"][0].as_py()
    title = new.filter(pc.is_valid(new["title"]))["item_id"][0].as_py()
    bought = events.slice(0, 1).set_column(1, "item_id", pa.array([title], pa.int64()))
    early = pa.array([parse_instant("2020-01-05")], pa.timestamp("us", tz="UTC"))
    bought = bought.set_column(2, "event_timestamp", early)
    lurm.log(pa.concat_tables([events, bought.cast(events.schema)]))
    after = encoded("bought")

    assert [user for user in before if after[user] != before[user]] == [buyer]


def test_the_bag_alone_is_a_baseline_without_training(
    shop: Any, cli: Callable[..., Result]
) -> None:
    """`lurm.boi` fits interests, trains no network, and gives log counts as vectors."""
    _with_lurm(shop)
    shop.spec = {key: shop.spec[key] for key in ("name", "events", "items", "training")}
    small = {key: ENCODER[key] for key in ("item_dim", "item_steps", "interests")}
    shop.write(encoder={"name": "lurm.boi", "settings": small})
    assert cli("train", shop.path).exit_code == 0
    out = shop.folder / "bags.parquet"
    result = cli("encode", shop.path, "--as-of", T, "--out", out)
    assert result.exit_code == 0, result.stderr

    _, vectors = read_vectors(out)
    assert vectors.shape[1] <= 6
    counts = torch.from_numpy(vectors.copy()).double().expm1()
    assert torch.allclose(counts, counts.round(), atol=1e-4)
    assert int(counts.sum(1).max()) > 1


def test_item_vectors_are_published_by_the_item_encoder(
    shop: Any, cli: Callable[..., Result]
) -> None:
    """`lurm.items` trains by pairs of items and writes snapshots of users and of items."""
    _with_lurm(shop)
    part = {"name": "lurm.items"}
    settings = {"item_dim": 8}
    shop.write(encoder={**part, "settings": settings}, objective=part, sampler=part)
    assert cli("train", shop.path).exit_code == 0
    result = cli("encode", shop.path, "--as-of", T, "--json")

    assert result.exit_code == 0, result.stderr
    (told,) = json.loads(result.stdout)
    vectors = np.stack(pq.read_table(told["items"]["path"])["vector"].to_numpy())
    assert vectors.shape == (told["items"]["rows"], 8)
    lengths = np.linalg.norm(vectors, axis=1)
    assert np.all((np.abs(lengths - 1) < 1e-5) | (lengths == 0))
    assert (lengths > 0).mean() > 0.7  # a title in ten is missing
