"""Checkpoints: read back as written, and written whole or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor, nn

from unirep_feast.checkpoint import (
    Checkpoint,
    Manifest,
    load_optimizer,
    open_checkpoint,
    optimizer_tensors,
    save_checkpoint,
)
from unirep_feast.errors import CheckpointError
from unirep_feast.items import Vocabulary


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.out = nn.Linear(3, 5, bias=False)
        self.out.weight = self.embed.weight
        self.norm = nn.BatchNorm1d(3)


def test_a_checkpoint_reads_back_as_written(
    saved: Checkpoint,
    groups: dict[str, dict[str, Tensor]],
    MANIFEST: Manifest,
    VOCABULARY: Vocabulary,
) -> None:
    """Manifest, vocabulary and every tensor are equal after opening, to the last bit."""
    opened = open_checkpoint(saved.folder)

    assert opened.manifest == saved.manifest
    assert replace(opened.manifest, files={}) == MANIFEST
    assert opened.vocabulary().hash == VOCABULARY.hash
    assert opened.vocabulary().event_types == ("view", "buy")
    for name, group in groups.items():
        found = opened.tensors(name)
        assert found.keys() == group.keys()
        for key, value in group.items():
            assert found[key].dtype == value.dtype
            assert torch.equal(found[key], value)
    assert opened.tensors("optimizer") == {}


@pytest.mark.parametrize(
    "ids", [pa.array([3, 1, 2]), pa.array(["é", "", "b"]), pa.array([], pa.int64())]
)
def test_every_kind_of_vocabulary_survives(
    tmp_path: Path, ids: pa.Array, MANIFEST: Manifest
) -> None:
    """Integer, string and no items at all keep their codes and their hash."""
    vocabulary = Vocabulary(ids, pa.array(np.ones(len(ids), np.int64)))
    manifest = replace(MANIFEST, vocabulary_hash=vocabulary.hash)
    save_checkpoint(tmp_path / "x", manifest, vocabulary, {})

    assert open_checkpoint(tmp_path / "x").vocabulary().item_ids.equals(ids)


def test_tied_weights_survive(tmp_path: Path, MANIFEST: Manifest, VOCABULARY: Vocabulary) -> None:
    """A weight that two modules share is saved, loaded, and still shared."""
    torch.manual_seed(0)
    module, other = Tied(), Tied()
    save_checkpoint(tmp_path / "x", MANIFEST, VOCABULARY, {"encoder": module.state_dict()})

    open_checkpoint(tmp_path / "x").load_into(other, "encoder")

    assert other.out.weight is other.embed.weight
    assert all(
        torch.equal(a, b) for a, b in zip(module.parameters(), other.parameters(), strict=True)
    )
    assert torch.equal(module.norm.running_var, other.norm.running_var)


def test_views_and_strides_survive(
    tmp_path: Path, MANIFEST: Manifest, VOCABULARY: Vocabulary
) -> None:
    """Transposed and sliced tensors come back with the same numbers."""
    base = torch.arange(12.0).reshape(3, 4)
    group = {"turned": base.T, "part": base[:, 1:3], "row": base[1]}
    saved = save_checkpoint(tmp_path / "x", MANIFEST, VOCABULARY, {"encoder": group})

    found = saved.tensors("encoder")

    assert all(torch.equal(found[name], value) for name, value in group.items())


@pytest.mark.parametrize("fused", [True, False])
def test_an_optimizer_goes_on_as_if_nothing_happened(
    tmp_path: Path, fused: bool, MANIFEST: Manifest, VOCABULARY: Vocabulary
) -> None:
    """Adam's state, also with a parameter that never had a gradient, continues bit-equal."""

    def step(module: nn.Linear, optimizer: torch.optim.Optimizer, seed: int) -> None:
        torch.manual_seed(seed)
        optimizer.zero_grad()
        torch.randn(2, 3).matmul(module.weight.T).square().sum().backward()
        optimizer.step()

    def make() -> tuple[nn.Linear, torch.optim.Optimizer]:
        torch.manual_seed(0)
        module = nn.Linear(3, 3)  # the bias gets no gradient
        return module, torch.optim.Adam(module.parameters(), weight_decay=0.1, fused=fused)

    module, optimizer = make()
    step(module, optimizer, 1)
    groups = {"encoder": module.state_dict(), "optimizer": optimizer_tensors(optimizer)}
    saved = save_checkpoint(tmp_path / "x", MANIFEST, VOCABULARY, groups)
    step(module, optimizer, 2)

    again, resumed = make()
    saved.load_into(again, "encoder")
    load_optimizer(resumed, saved.tensors("optimizer"))
    step(again, resumed, 2)

    assert torch.equal(module.weight, again.weight)
    assert torch.equal(module.bias, again.bias)


@pytest.mark.parametrize("opcode", [2, 3, 4, 5])
def test_a_header_that_looks_like_a_pickle_is_read(
    tmp_path: Path, opcode: int, MANIFEST: Manifest, VOCABULARY: Vocabulary
) -> None:
    """A safetensors header of 640 bytes begins with a pickle's first two bytes; it is none."""
    wanted = opcode << 8 | 0x80

    def save(width: int) -> tuple[Checkpoint, str, int]:
        name = "x" * width
        group = {"encoder": {name: torch.ones(3)}}
        saved = save_checkpoint(tmp_path / str(width), MANIFEST, VOCABULARY, group)
        head = (saved.folder / "encoder.safetensors").read_bytes()[:8]
        return saved, name, int.from_bytes(head, "little")

    _, _, shortest = save(1)
    saved, name, length = save(1 + wanted - shortest)

    assert length == wanted
    assert torch.equal(open_checkpoint(saved.folder).tensors("encoder")[name], torch.ones(3))


def test_state_that_is_no_tensor_is_refused(
    tmp_path: Path, MANIFEST: Manifest, VOCABULARY: Vocabulary
) -> None:
    """A module that keeps Python objects in its state dict cannot be saved without pickle."""
    with pytest.raises(CheckpointError, match="encoder keeps dict 'extra' in its state; wanted"):
        save_checkpoint(tmp_path / "x", MANIFEST, VOCABULARY, {"encoder": {"extra": {"a": 1}}})

    assert list(tmp_path.iterdir()) == []


SAVE = """
    import resource, sys
    from pathlib import Path
    import torch
    sys.path.insert(0, {tests!r})
    from conftest import MANIFEST, VOCABULARY
    from unirep_feast.checkpoint import save_checkpoint
    from unirep_feast.errors import CheckpointError
    groups = {{"encoder": {{"w": torch.ones(1000, 1000)}}, "more": {{"w": torch.ones(10)}}}}
    {before}
    try:
        save_checkpoint(Path(sys.argv[1]), MANIFEST, VOCABULARY, groups)
    except CheckpointError as error:
        sys.exit(str(error))
"""


def run(target: Path, before: str) -> subprocess.CompletedProcess[str]:
    code = textwrap.dedent(SAVE).format(tests=str(Path(__file__).parent), before=before)
    return subprocess.run(
        [sys.executable, "-c", code, target],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )


@pytest.mark.parametrize("limit", [100, 1_000_000])
def test_a_full_disk_leaves_nothing(tmp_path: Path, limit: int) -> None:
    """When the system refuses to write on, the error is one line and no file is left."""
    before = f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))"

    done = run(tmp_path / "step", before)

    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert "cannot be written: " in line
    assert "File too large" in line
    assert "free space" in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("call", ["sha256", "asdict"])
def test_a_kill_while_saving_leaves_no_checkpoint(tmp_path: Path, call: str, refused: Any) -> None:
    """After kill -9 in the middle there is no folder of that name, so nothing to open."""
    before = (
        "import os, signal, unirep_feast.checkpoint as module; "
        f"module.{call} = lambda *_: os.kill(os.getpid(), signal.SIGKILL)"
    )

    done = run(tmp_path / "step", before)

    assert done.returncode == -9
    assert not (tmp_path / "step").exists()
    assert [path.name.startswith(".step.") for path in tmp_path.iterdir()] == [True]
    assert "is no checkpoint" in refused(tmp_path / "step")


def test_a_file_in_place_of_a_folder_is_one_line(
    tmp_path: Path, MANIFEST: Manifest, VOCABULARY: Vocabulary
) -> None:
    """A run folder that cannot be made is told with its cause."""
    (tmp_path / "runs").write_text("x")

    with pytest.raises(CheckpointError, match=r"cannot be written: .*; free space, or"):
        save_checkpoint(tmp_path / "runs" / "final", MANIFEST, VOCABULARY, {})
