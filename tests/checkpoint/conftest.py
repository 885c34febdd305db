"""A saved checkpoint, and how one is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from torch import Tensor

from unirep_feast.checkpoint import Checkpoint, Manifest, open_checkpoint, save_checkpoint
from unirep_feast.errors import CheckpointError
from unirep_feast.items import Vocabulary

VOCABULARY = Vocabulary(pa.array(["mug", "lamp"]), pa.array([5, 2]), ("view", "buy"))

MANIFEST = Manifest(
    run="run-1",
    step=7,
    trained_until=1_583_020_800_000_000,
    spec={"name": "shop", "training": {"until": "2020-03-01T00:00:00Z"}},
    identity={"encoder": {"name": "lab", "plugin": "lab", "distribution": "d", "version": "1"}},
    vocabulary_hash=VOCABULARY.hash,
    num_vectors=2,
    dim=4,
    depends_on_as_of=False,
    trainer={"best": None, "stale": 3},
)


@pytest.fixture(scope="session", name="VOCABULARY")
def _vocabulary() -> Vocabulary:
    return VOCABULARY


@pytest.fixture(scope="session", name="MANIFEST")
def _manifest() -> Manifest:
    return MANIFEST


@pytest.fixture
def groups() -> dict[str, dict[str, Tensor]]:
    torch.manual_seed(0)
    return {
        "encoder": {"w": torch.randn(3, 4), "count": torch.tensor(5), "flags": torch.ones(3) > 0},
        "objective": {},
        "prepared": {"empty": torch.zeros(0, 3), "half": torch.ones(2, dtype=torch.bfloat16)},
    }


@pytest.fixture
def saved(tmp_path: Path, groups: dict[str, dict[str, Tensor]]) -> Checkpoint:
    return save_checkpoint(tmp_path / "final", MANIFEST, VOCABULARY, groups)


@pytest.fixture(scope="session")
def refused() -> Callable[..., str]:
    """Open, and read everything, what must be refused; returns the error, one line."""

    def check(folder: Path, checksum: str | None = None) -> str:
        with pytest.raises(CheckpointError) as caught:
            checkpoint = open_checkpoint(folder, checksum)
            checkpoint.vocabulary()
            for name in ("encoder", "objective", "prepared"):
                checkpoint.tensors(name)
        message = str(caught.value)
        assert "\n" not in message
        assert str(folder) in message
        return message

    return check
