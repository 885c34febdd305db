"""A Feast repo with a representation whose snapshots are made up, so that nothing is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from unirep_feast.instants import parse_instant
from unirep_feast.snapshot import RUN, VectorBlock, point_promoted, snapshot_path, write_snapshot
from unirep_feast.spec_file import load_spec

K, D = 2, 3


@dataclass
class MadeRepo:
    """A folder with a spec, events of one user (for the id type), and snapshots on demand."""

    folder: Path
    keys: pa.DataType
    offline: dict[str, Any]
    online: dict[str, Any]
    view: dict[str, Any]
    project: str
    snapshots: dict[int, dict[Any, np.ndarray]] = field(default_factory=dict)

    @property
    def spec_path(self) -> Path:
        return self.folder / "purchases.yaml"

    @property
    def home(self) -> Path:
        return load_spec(self.spec_path).home

    def ids(self, numbers: Any) -> list[Any]:
        """User ids of the repo's key type."""
        texts = pa.types.is_string(self.keys)
        return [f"user-{n}" if texts else int(n) for n in numbers]

    def write(self) -> None:
        events = pa.table(
            {
                "user_id": pa.array(self.ids([1]), self.keys),
                "item_id": pa.array([1]),
                "event_timestamp": pa.array([0], pa.timestamp("us", tz="UTC")),
            }
        )
        pq.write_table(events, self.folder / "events.parquet")
        spec = {
            "name": "purchases",
            "events": {"path": "events.parquet"},
            "plugin": "clue",
            "view": self.view,
            "storage": "data/unirep",
        }
        self.spec_path.write_text(yaml.safe_dump(spec))
        config = {
            "project": self.project,
            "provider": "local",
            "registry": "data/registry.db",
            "offline_store": self.offline,
            "online_store": self.online,
            "entity_key_serialization_version": 3,
        }
        (self.folder / "feature_store.yaml").write_text(yaml.safe_dump(config))
        (self.folder / "representations.py").write_text(
            "from pathlib import Path\n"
            "from unirep_feast.feature_store.views import representation\n\n"
            "user, source, view, service = representation(\n"
            '    Path(__file__).with_name("purchases.yaml")\n'
            ")\n"
        )

    def snapshot(self, time: str, numbers: Any, run: str = "r1", dim: int = D) -> None:
        """Write random vectors as of a time, seven users to a row group, and promote their run."""
        as_of = parse_instant(time)
        rng = np.random.default_rng([as_of % 2**32, len(run), dim])
        numbers = np.sort(np.asarray(numbers))
        vectors = rng.standard_normal((len(numbers), K * dim)).astype(np.float32)

        def blocks() -> Iterator[VectorBlock]:
            for start in range(0, len(numbers), 7):
                part = numbers[start : start + 7]
                yield VectorBlock(
                    users=pa.array(self.ids(part), self.keys),
                    vectors=vectors[start : start + 7],
                    history_length=part + 1,
                    last_event=np.full(len(part), as_of - 1),
                )

        path = snapshot_path(self.home, run, as_of)
        write_snapshot(
            path,
            blocks(),
            join_key=self.view["join_key"],
            as_of=as_of,
            created=as_of,
            num_vectors=K,
            dim=dim,
            metadata={RUN: run.encode()},
        )
        point_promoted(self.home, run)
        self.snapshots[as_of] = dict(zip(self.ids(numbers), vectors, strict=True))

    def expected(self, user: Any, time: Any) -> np.ndarray | None:
        """Vector of the latest snapshot at or before a time, by a plain loop."""
        found = None
        for as_of in sorted(self.snapshots):
            if as_of <= parse_instant(time) and user in self.snapshots[as_of]:
                found = self.snapshots[as_of][user]
        return found

    def store(self, apply: bool = True) -> Any:
        from feast import FeatureStore

        from unirep_feast.feature_store.views import representation

        store = FeatureStore(repo_path=str(self.folder))
        if apply:
            store.apply(list(representation(self.spec_path)))
        return store


MakeRepo = Callable[..., MadeRepo]


@pytest.fixture
def make_repo(tmp_path: Path) -> MakeRepo:
    """Factory of repos; by default int64 ids, DuckDB offline and SQLite online."""

    def make(
        keys: pa.DataType | None = None,
        offline: dict[str, Any] | None = None,
        online: dict[str, Any] | None = None,
        view: dict[str, Any] | None = None,
        project: str = "test",
        folder: str = "repo",
    ) -> MadeRepo:
        repo = MadeRepo(
            folder=tmp_path / folder,
            keys=keys or pa.int64(),
            offline=offline or {"type": "duckdb"},
            online=online or {"type": "sqlite", "path": "data/online.db"},
            view={"join_key": "user_id", **(view or {})},
            project=project,
        )
        (repo.folder / "data").mkdir(parents=True)
        repo.write()
        return repo

    return make
