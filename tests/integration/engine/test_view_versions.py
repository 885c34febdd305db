"""Feast's feature-view versions: the vectors of a run stay readable beside those of the next."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import yaml
from feast import FeatureStore
from feast.errors import FeatureViewPinConflict

from unirep_feast.feature_store.views import representation
from unirep_feast.instants import parse_instant
from unirep_feast.pipeline import encode

T0, T1 = "2020-03-01T00:00:00Z", "2020-03-10T12:00:00Z"


def applied(repo: Any, version: str) -> FeatureStore:
    """The repo with versions switched on, its view declared as one of them."""
    repo.write()
    path = repo.folder / "feature_store.yaml"
    config = yaml.safe_load(path.read_text())
    config["registry"]["enable_online_feature_view_versioning"] = True
    path.write_text(yaml.safe_dump(config))
    made = representation(repo.shop.path)
    made.view.version = version
    store = FeatureStore(repo_path=str(repo.folder))
    store.apply(list(made))
    return store


def served(store: FeatureStore, name: str, ids: list[Any]) -> np.ndarray:
    """Vectors that Feast serves under a name, which may carry a version."""
    answer = store.get_online_features([f"{name}:vector"], [{"user_id": user} for user in ids])
    (found,) = [row for key, row in answer.to_dict().items() if key.startswith("vector")]
    return np.float32(found)


def test_the_old_space_stays_readable_under_its_version(any_repo: Any) -> None:
    """A number per run: each has a table of its own, before and after applying again; materialize
    and rollback touch the version that serves and no other."""
    repo = any_repo
    first = repo.train()
    encode(repo.shop.parsed(), parse_instant(T0))
    store = applied(repo, "v1")
    try:
        repo.materialize(store, T1)
        second = repo.train(encoder__settings={"dim": 4})
        encode(repo.shop.parsed(), parse_instant(T0))
        store = applied(repo, "v2")
        repo.materialize(store, T1)

        for _ in range(2):
            for run, names in ((first, ["shop@v1"]), (second, ["shop@v2", "shop"])):
                ids, vectors = repo.snapshot(run, T1)
                for name in names:
                    assert served(store, name, ids).tobytes() == vectors.tobytes(), name
            store = applied(repo, "v2")  # again: nothing changes
        views = {row[2] for row in repo.recorded()}
        assert views == {f"{repo.project}/shop_v1", f"{repo.project}/shop_v2"}

        repo.promote(first)
        store = applied(repo, "v3")
        repo.materialize(store, T1)

        ids, vectors = repo.snapshot(first, T1)
        assert served(store, "shop", ids).tobytes() == vectors.tobytes()
        ids, vectors = repo.snapshot(second, T1)
        assert served(store, "shop@v2", ids).tobytes() == vectors.tobytes()
    finally:
        store.teardown()


def test_going_back_to_a_version_serves_at_once(any_repo: Any) -> None:
    """First the number, then the run: readers have the old space without any materialize, and the
    next one writes to it and leaves the newer alone. The other way round Feast refuses."""
    repo = any_repo
    first = repo.train()
    encode(repo.shop.parsed(), parse_instant(T0))
    store = applied(repo, "v1")
    try:
        repo.materialize(store, T0)
        second = repo.train()
        encode(repo.shop.parsed(), parse_instant(T0))
        store = applied(repo, "v2")
        repo.materialize(store, T1)
        repo.promote(first)
        with pytest.raises(FeatureViewPinConflict):
            applied(repo, "v1")
        repo.promote(second)

        store = applied(repo, "v1")

        ids, vectors = repo.snapshot(first, T0)
        assert served(store, "shop", ids).tobytes() == vectors.tobytes()

        repo.promote(first)
        store = applied(repo, "v1")
        repo.materialize(store, T1)

        for run, names in ((first, ["shop", "shop@v1"]), (second, ["shop@v2"])):
            ids, vectors = repo.snapshot(run, T1)
            for name in names:
                assert served(store, name, ids).tobytes() == vectors.tobytes(), name
    finally:
        store.teardown()
