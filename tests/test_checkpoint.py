"""Checkpoints: read back as written, and refused in one line when anything is off."""

from __future__ import annotations

import io
import json
import os
import pickle
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
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
from unirep_feast.files import sha256
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


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.out = nn.Linear(3, 5, bias=False)
        self.out.weight = self.embed.weight
        self.norm = nn.BatchNorm1d(3)


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


def refused(folder: Path, checksum: str | None = None) -> str:
    """Open, and read everything, what must be refused; returns the error, one line."""
    with pytest.raises(CheckpointError) as caught:
        checkpoint = open_checkpoint(folder, checksum)
        checkpoint.vocabulary()
        for name in ("encoder", "objective", "prepared"):
            checkpoint.tensors(name)
    message = str(caught.value)
    assert "\n" not in message
    assert str(folder) in message
    return message


def adapt_manifest(folder: Path, **changes: Any) -> None:
    """Change the manifest; checksums of files are brought up to date."""
    raw = json.loads((folder / "checkpoint.json").read_text())
    raw["files"] = {name: sha256(folder / name) for name in raw["files"]}
    raw.update(changes)
    (folder / "checkpoint.json").write_text(json.dumps(raw))


def test_a_checkpoint_reads_back_as_written(
    saved: Checkpoint, groups: dict[str, dict[str, Tensor]]
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
def test_every_kind_of_vocabulary_survives(tmp_path: Path, ids: pa.Array) -> None:
    """Integer, string and no items at all keep their codes and their hash."""
    vocabulary = Vocabulary(ids, pa.array(np.ones(len(ids), np.int64)))
    manifest = replace(MANIFEST, vocabulary_hash=vocabulary.hash)
    save_checkpoint(tmp_path / "x", manifest, vocabulary, {})

    assert open_checkpoint(tmp_path / "x").vocabulary().item_ids.equals(ids)


def test_tied_weights_survive(tmp_path: Path) -> None:
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


def test_views_and_strides_survive(tmp_path: Path) -> None:
    """Transposed and sliced tensors come back with the same numbers."""
    base = torch.arange(12.0).reshape(3, 4)
    group = {"turned": base.T, "part": base[:, 1:3], "row": base[1]}
    saved = save_checkpoint(tmp_path / "x", MANIFEST, VOCABULARY, {"encoder": group})

    found = saved.tensors("encoder")

    assert all(torch.equal(found[name], value) for name, value in group.items())


@pytest.mark.parametrize("fused", [True, False])
def test_an_optimizer_goes_on_as_if_nothing_happened(tmp_path: Path, fused: bool) -> None:
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


@pytest.mark.parametrize(
    "name", ["encoder.safetensors", "prepared.safetensors", "vocabulary.parquet"]
)
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_truncated_file_is_refused(saved: Checkpoint, name: str, share: float) -> None:
    """A file that was cut off does not match its checksum."""
    path = saved.folder / name
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])

    assert f"{name} is truncated or was changed" in refused(saved.folder)


@pytest.mark.parametrize("name", ["encoder.safetensors", "vocabulary.parquet"])
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_truncation_is_noticed_even_with_a_matching_checksum(
    saved: Checkpoint, name: str, share: float
) -> None:
    """Whoever also adapts the checksum gets one line from the reader itself."""
    path = saved.folder / name
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    adapt_manifest(saved.folder)

    assert f"{name} cannot be read" in refused(saved.folder)


def test_a_changed_bit_is_refused(saved: Checkpoint) -> None:
    """One flipped bit in the weights is noticed."""
    path = saved.folder / "encoder.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)

    assert "encoder.safetensors is truncated or was changed" in refused(saved.folder)


def test_a_missing_file_is_refused(saved: Checkpoint) -> None:
    """A file that the manifest lists and nobody finds is named."""
    (saved.folder / "prepared.safetensors").unlink()

    assert "prepared.safetensors is missing" in refused(saved.folder)


def test_a_manifest_that_is_not_the_recorded_one_is_refused(saved: Checkpoint) -> None:
    """The catalog's checksum guards what the manifest says, such as until when it was trained."""
    recorded = sha256(saved.folder / "checkpoint.json")
    open_checkpoint(saved.folder, recorded)
    adapt_manifest(saved.folder, trained_until=0)

    assert "checkpoint.json is truncated or was changed" in refused(saved.folder, recorded)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "checkpoint.json cannot be read"),
        ("{", "checkpoint.json cannot be read"),
        ("[1]", "has format 'list', this version reads 1"),
        ("{}", "has format None, this version reads 1"),
        ('{"format": 2}', "has format 2, this version reads 1; train anew or install"),
        ('{"format": 1}', "checkpoint.json cannot be read (`run` is missing; "),
        ("\udce4".encode("utf-8", "surrogateescape"), "checkpoint.json cannot be read"),
    ],
)
def test_other_formats_are_refused(saved: Checkpoint, text: str | bytes, message: str) -> None:
    """A manifest of another format, or none at all, says what was found and what is read."""
    data = text if isinstance(text, bytes) else text.encode()
    (saved.folder / "checkpoint.json").write_bytes(data)

    assert message in refused(saved.folder)


@pytest.mark.parametrize(
    "changes", [{"files": ["a"]}, {"step": "many"}, {"identity": None}, {"spec": []}]
)
def test_a_malformed_manifest_is_refused(saved: Checkpoint, changes: dict[str, Any]) -> None:
    """Keys of the wrong type are named."""
    adapt_manifest(saved.folder, **changes)

    assert f"checkpoint.json cannot be read ({next(iter(changes))}" in refused(saved.folder)


def test_a_folder_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    """A folder without a manifest, no folder, and a file are told apart from a damaged one."""
    (tmp_path / "file").write_text("x")

    for folder in (tmp_path, tmp_path / "nothing", tmp_path / "file"):
        assert "is no checkpoint (no checkpoint.json)" in refused(folder)
        assert "is no checkpoint (no checkpoint.json)" in refused(folder, "0" * 64)


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def pickled(kind: str, bomb: Bomb) -> bytes:
    if kind.startswith("protocol"):
        return pickle.dumps({"w": bomb}, protocol=int(kind[-1]))
    buffer = io.BytesIO()
    zipped = kind == "torch.save"
    torch.save({"w": bomb}, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


PICKLES = ("torch.save", "legacy torch.save", *(f"protocol {n}" for n in range(6)))


@pytest.mark.parametrize("kind", PICKLES)
@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize("name", ["encoder.safetensors", "vocabulary.parquet"])
def test_pickled_content_is_never_loaded(
    saved: Checkpoint, tmp_path: Path, kind: str, adapted: bool, name: str
) -> None:
    """A pickle in place of a file is refused and not run, whatever the manifest says of it."""
    trace = tmp_path / "executed"
    (saved.folder / name).write_bytes(pickled(kind, Bomb(trace)))
    if adapted:
        adapt_manifest(saved.folder)

    message = refused(saved.folder)

    assert not trace.exists()
    known = kind not in ("protocol 0", "protocol 1")  # those begin like any text
    if known:
        assert "holds pickled content, which can run code and is never loaded" in message


def test_the_bomb_would_go_off(tmp_path: Path) -> None:
    """The pickles of the test above do run code when they are loaded."""
    for number, kind in enumerate(PICKLES):
        trace = tmp_path / f"executed {number}"
        data = pickled(kind, Bomb(trace))
        if "torch" in kind:
            torch.load(io.BytesIO(data), weights_only=False)
        else:
            pickle.loads(data)
        assert trace.exists(), kind


@pytest.mark.parametrize("opcode", [2, 3, 4, 5])
def test_a_header_that_looks_like_a_pickle_is_read(tmp_path: Path, opcode: int) -> None:
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


def test_another_vocabulary_is_refused(saved: Checkpoint) -> None:
    """A vocabulary that is not the one the weights belong to is noticed by its hash."""
    other = Vocabulary(pa.array(["lamp", "mug"]), VOCABULARY.counts, VOCABULARY.event_types)
    pq.write_table(other.to_table(), saved.folder / "vocabulary.parquet")
    adapt_manifest(saved.folder)

    message = refused(saved.folder)

    assert f"hashes to {other.hash[:12]}, wanted {VOCABULARY.hash[:12]}" in message


def test_weights_of_another_module_are_refused(saved: Checkpoint) -> None:
    """Other names or shapes than the module's are one line that names the module."""
    with pytest.raises(CheckpointError) as caught:
        saved.load_into(nn.Linear(2, 2), "encoder")

    message = str(caught.value)
    assert f"checkpoint {saved.folder} does not fit Linear: " in message
    assert "plugin version it was made with" in message
    assert "\n" not in message


def test_state_that_is_no_tensor_is_refused(tmp_path: Path) -> None:
    """A module that keeps Python objects in its state dict cannot be saved without pickle."""
    with pytest.raises(CheckpointError, match="encoder keeps dict 'extra' in its state; wanted"):
        save_checkpoint(tmp_path / "x", MANIFEST, VOCABULARY, {"encoder": {"extra": {"a": 1}}})

    assert list(tmp_path.iterdir()) == []


SAVE = """
    import resource, sys
    from pathlib import Path
    import torch
    sys.path.insert(0, {tests!r})
    from test_checkpoint import MANIFEST, VOCABULARY
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
def test_a_kill_while_saving_leaves_no_checkpoint(tmp_path: Path, call: str) -> None:
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


def test_a_file_in_place_of_a_folder_is_one_line(tmp_path: Path) -> None:
    """A run folder that cannot be made is told with its cause."""
    (tmp_path / "runs").write_text("x")

    with pytest.raises(CheckpointError, match=r"cannot be written: .*; free space, or"):
        save_checkpoint(tmp_path / "runs" / "final", MANIFEST, VOCABULARY, {})
