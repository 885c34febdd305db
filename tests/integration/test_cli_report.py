"""`unirep report` after `unirep train` and `unirep encode`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytest.importorskip("matplotlib", reason="figures need matplotlib")

from unirep_feast.testing.world import make_items

TIMES = ("2020-03-01", "2020-03-10")


@pytest.fixture
def encoded(shop: Any, cli: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A trained run of the shop with two snapshots; maps are drawn by PCA, which takes no time."""
    monkeypatch.setitem(sys.modules, "umap", None)
    pq.write_table(make_items(items=30), shop.folder / "items.parquet")
    shop.write(items={"path": "items.parquet"})
    assert cli("train", shop.path).exit_code == 0
    for when in TIMES:
        assert cli("encode", shop.path, "--as-of", when).exit_code == 0
    return shop


def test_one_page_tells_of_a_run(encoded: Any, cli: Any) -> None:
    """Map, neighbors with titles, drift between both snapshots, the run and its spec."""
    page = encoded.folder / "page.html"
    done = cli("report", encoded.path, "--out", page)
    assert done.exit_code == 0, done.output
    assert "pip install 'unirep-feast[report]'" in done.stderr
    told = json.loads(cli("report", encoded.path, "--json").stdout)["representation"]

    html = page.read_text()
    users = pq.read_table(encoded.home / "snapshots/promoted/20200310T000000Z.parquet")
    assert told["run"] in html
    assert (told["map"]["users"], told["map"]["sample"]) == (len(users), len(users))
    assert len(told["map"]["x"]) == len(users)
    assert told["map"]["method"] == "PCA"
    assert [entry["as_of"][:10] for entry in told["drift"]] == list(TIMES)
    assert told["drift"][0]["mean_shift"] == 0.0
    named = make_items(items=30).to_pylist()
    titles = {item["title"] or str(item["item_id"]) for item in named}
    for user in told["neighbors"]["users"]:
        assert set(user["latest"]) <= titles
        assert user["latest"]
        assert all(set(near["latest"]) <= titles for near in user["near"])
        assert user["id"] not in [near["id"] for near in user["near"]]
    assert any(curve["name"] == "loss" for curve in told["curves"])
    assert "<h2>Leaderboard" not in html


def test_users_are_coloured_by_a_label(encoded: Any, cli: Any) -> None:
    """Whoever is not in the table stays grey; the sample is of the size that was asked for."""
    users = pq.read_table(encoded.home / "snapshots/promoted/20200310T000000Z.parquet")["user_id"]
    some = users.slice(0, 9)
    labels = pa.table({"user_id": some, "plan": ["gold", "free", None] * 3})
    pq.write_table(labels, encoded.folder / "plans.parquet")
    arguments = ("--labels", f"{encoded.folder / 'plans.parquet'}:plan", "--sample", 30, "--json")
    told = json.loads(cli("report", encoded.path, *arguments).stdout)["representation"]["map"]

    assert told["grouped_by"] == "plan"
    assert set(told["groups"]) <= {"free", "gold"}
    assert told["sample"] == min(30, len(users))
    assert np.mean(np.array(told["group"]) == -1) >= 0.5


def test_a_run_that_was_not_encoded_still_has_a_page(shop: Any, cli: Any) -> None:
    """And the command that is missing is named."""
    shop.write()
    assert cli("train", shop.path).exit_code == 0
    done = cli("report", shop.path, "--out", shop.folder / "page.html")
    assert done.exit_code == 0
    assert "no snapshot: no map, no neighbors; run `unirep encode SPEC`" in done.stderr
    assert "<h2>Lineage" in (shop.folder / "page.html").read_text()


def test_bad_input_is_one_line_and_leaves_no_page(encoded: Any, cli: Any, refusal: Any) -> None:
    """What is wrong, and what to do."""
    folder = encoded.folder
    (folder / "leaderboard.json").write_text('{"format": 99}')
    (folder / "text.parquet").write_text("no parquet")
    pq.write_table(pa.table({"user_id": [1]}), folder / "ids.parquet")
    page = folder / "page.html"
    for arguments, message in (
        ((), "nothing to report; name a SPEC, an --evaluation FOLDER, or both"),
        (("--run", "x"), "nothing to report"),
        (("--evaluation", folder / "nowhere"), "name a folder that `unirep evaluate` wrote"),
        (("--evaluation", folder), "is not of format 1; run `unirep evaluate` of this version"),
        ((encoded.path, "--run", "nope"), "nope"),
        ((encoded.path, "--labels", "plans"), "--labels plans: wanted FILE:COLUMN"),
        ((encoded.path, "--labels", f"{folder / 'text.parquet'}:a"), "wanted a parquet file"),
        ((encoded.path, "--labels", f"{folder / 'ids.parquet'}:plan"), "has no column 'plan'"),
    ):
        assert message in refusal(cli("report", *arguments, "--out", page)), arguments
        assert not page.exists()


@pytest.mark.slow
def test_the_map_is_drawn_by_umap_where_it_is_installed(
    encoded: Any, cli: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Twice the same map: its random numbers are fixed. Slow: it compiles for half a minute."""
    monkeypatch.delitem(sys.modules, "umap")
    pytest.importorskip("umap")
    one, two = (
        json.loads(cli("report", encoded.path, "--json").stdout)["representation"]["map"]
        for _ in range(2)
    )
    assert one["method"] == "UMAP"
    assert one == two
