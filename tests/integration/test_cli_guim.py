"""GUIM through the pipeline: users and items as of T, runs resume, the future stays unseen."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import Result

from unirep_feast.instants import parse_instant
from unirep_feast.pipeline import train
from unirep_feast.snapshot import read_vectors, snapshot_path
from unirep_feast.testing.world import FUTURES, World, make_items
from unirep_feast.trainer import Record

T = "2020-03-10"


@pytest.fixture(params=["guim", "edi", "mh"])
def guim(request: pytest.FixtureRequest, shop: Any) -> Any:
    """The shop with a catalogue of titles and categories, and GUIM on it."""
    sizes = {"dim": 8, "vectors": 2, "layers": 2, "item_dim": 8, "category_dim": 8, "word_dim": 8}
    pq.write_table(make_items(33), shop.folder / "items.parquet")
    shop.write(
        plugin="guim",
        items={"path": "items.parquet"},
        encoder={"settings": {**sizes, "variant": request.param, "max_events": 10}},
        training__learning_rate=0.01,
    )
    return shop


def test_a_killed_training_resumes_bit_equal(guim: Any) -> None:
    """Stopped after a step between two checkpoints, resumed: the unbroken run's weights."""
    wanted = guim.weights(train(guim.parsed()).run)

    def stop(record: Record) -> None:
        if record.kind == "step" and record.step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(guim.parsed(), on_record=stop)
    found = guim.weights(train(guim.parsed(), resume=True).run)

    assert found.keys() == wanted.keys()
    assert [name for name in wanted if not torch.equal(found[name], wanted[name])] == []


def test_users_and_items_share_a_space_and_know_no_future(
    guim: Any, cli: Callable[..., Result]
) -> None:
    """Both snapshots as of T are the same bytes whatever happens from T on."""
    done = cli("train", guim.path, "--json")
    assert done.exit_code == 0, done.stderr
    run = json.loads(done.stdout)["run"]
    events = pq.read_table(guim.folder / "events.parquet")
    variant = guim.parsed().encoder.settings["variant"]
    vectors, dim = (1, 16) if variant == "edi" else (2, 8)

    def encoded(name: str) -> bytes:
        out = guim.folder / f"{name}.parquet"
        result = cli("encode", guim.path, "--as-of", T, "--out", out, "--json")
        assert result.exit_code == 0, result.stderr
        assert "warning" not in result.stderr  # the probe of batch mates
        (line,) = json.loads(result.stdout)
        assert (line["num_vectors"], line["dim"]) == (vectors, dim)
        return out.read_bytes()

    whole = encoded("whole")
    assert read_vectors(guim.folder / "whole.parquet")[1].shape[1] == vectors * dim
    for how in FUTURES:
        guim.log(World(events, make_items(33), parse_instant(T)).with_other_future(how).events)
        assert encoded(how) == whole

    guim.log(events)
    assert cli("encode", guim.path, "--as-of", T).exit_code == 0
    items = pq.read_table(snapshot_path(guim.home, run, parse_instant(T), "item"))
    found = np.array(items["vector"].to_pylist(), np.float32)
    assert found.shape == (items.num_rows, dim) and np.isfinite(found).all()


def test_two_processes_train_one_run(shop: Any) -> None:
    """Negatives come from both; a rank without masked items or futures would be waited for."""
    pq.write_table(make_items(33), shop.folder / "items.parquet")
    shop.write(
        plugin="guim",
        items={"path": "items.parquet"},
        encoder={"settings": {"dim": 8, "vectors": 2, "layers": 1, "max_events": 10}},
        training__max_steps=4,
    )
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*torchrun, "-m", "unirep_feast", "train", str(shop.path), "--json"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )

    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout)["steps"] == 4
