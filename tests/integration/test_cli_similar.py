"""`unirep similar` after `unirep train` and `unirep encode`, with the installed executable."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from unirep_feast.testing.world import make_items

T = "2020-03-10"

Unirep = Callable[..., subprocess.CompletedProcess[str]]


def encoded(shop: Any, cli: Any) -> None:
    """A trained run of the shop, and its snapshots as of T."""
    pq.write_table(make_items(items=30), shop.folder / "items.parquet")
    shop.write(items={"path": "items.parquet"})
    for arguments in (("train", shop.path), ("encode", shop.path, "--as-of", T)):
        assert cli(*arguments).exit_code == 0


def test_from_a_log_to_look_alikes_and_items(shop: Any, cli: Any, unirep: Unirep) -> None:
    """Train, encode, then ask: the command builds what it needs and answers from anywhere."""
    shop.write(encoder__settings={"dropout": 0.1, "vectors": 2})
    encoded(shop, cli)
    users = pq.read_table(shop.home / "snapshots/promoted/20200310T000000Z.parquet")
    user = users["user_id"][5].as_py()

    alike = unirep("similar", shop.path, user, "--index", "--recall", 1, "--json", cwd="/")
    items = unirep("similar", shop.path, user, "--items", "--top", 3, "--json", cwd="/")
    table = unirep("similar", shop.path, user, "--items", "--top", 3, cwd="/")

    assert (alike.returncode, items.returncode, table.returncode) == (0, 0, 0), alike.stderr
    vectors = np.array(users["vector"].to_pylist()).reshape(len(users), 2, -1)
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    scores = np.einsum("qd,nkd->nqk", vectors[5], vectors).max(axis=(1, 2))
    scores[5] = -np.inf
    found = json.loads(alike.stdout)["users"]
    np.testing.assert_allclose([one["score"] for one in found], -np.sort(-scores)[:10], atol=1e-5)
    assert "recall@" in alike.stderr
    lines = table.stdout.splitlines()[1:4]
    for hit, line in zip(json.loads(items.stdout)["items"], lines, strict=True):
        assert str(hit["id"]) in line and (hit["title"] or "") in line


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"encoder__name": "lab.bare"},
            "encoder 'lab.bare' of run .* provides no item vectors, so items cannot be compared",
        ),
        (
            {"view__items": False},
            "has no item vectors as of 2020-03-10T00:00:00Z; set view.items: auto, then "
            "`unirep encode SPEC --as-of 2020-03-10T00:00:00Z` makes them",
        ),
    ],
)
def test_without_item_vectors_the_reason_is_told(
    shop: Any, cli: Any, refusal: Any, changes: dict[str, Any], message: str
) -> None:
    """An encoder that has none, or a spec that publishes none; users are found all the same."""
    shop.write(**changes)
    encoded(shop, cli)
    user = pq.read_table(shop.home / "snapshots/promoted/20200310T000000Z.parquet")["user_id"][0]

    assert re.search(message, refusal(cli("similar", shop.path, user.as_py(), "--items")))
    assert cli("similar", shop.path, user.as_py()).exit_code == 0
