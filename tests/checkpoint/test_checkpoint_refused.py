"""Checkpoints that are refused in one line: cut off, changed, pickled, or of another model."""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

from unirep_feast.checkpoint import Checkpoint, open_checkpoint
from unirep_feast.errors import CheckpointError
from unirep_feast.files import sha256
from unirep_feast.items import Vocabulary


def adapt_manifest(folder: Path, **changes: Any) -> None:
    """Change the manifest; checksums of files are brought up to date."""
    raw = json.loads((folder / "checkpoint.json").read_text())
    raw["files"] = {name: sha256(folder / name) for name in raw["files"]}
    raw.update(changes)
    (folder / "checkpoint.json").write_text(json.dumps(raw))


@pytest.mark.parametrize(
    "name", ["encoder.safetensors", "prepared.safetensors", "vocabulary.parquet"]
)
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_truncated_file_is_refused(
    saved: Checkpoint, name: str, share: float, refused: Any
) -> None:
    """A file that was cut off does not match its checksum."""
    path = saved.folder / name
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])

    assert f"{name} is truncated or was changed" in refused(saved.folder)


@pytest.mark.parametrize("name", ["encoder.safetensors", "vocabulary.parquet"])
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_truncation_is_noticed_even_with_a_matching_checksum(
    saved: Checkpoint, name: str, share: float, refused: Any
) -> None:
    """Whoever also adapts the checksum gets one line from the reader itself."""
    path = saved.folder / name
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    adapt_manifest(saved.folder)

    assert f"{name} cannot be read" in refused(saved.folder)


def test_a_changed_bit_is_refused(saved: Checkpoint, refused: Any) -> None:
    """One flipped bit in the weights is noticed."""
    path = saved.folder / "encoder.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)

    assert "encoder.safetensors is truncated or was changed" in refused(saved.folder)


def test_a_missing_file_is_refused(saved: Checkpoint, refused: Any) -> None:
    """A file that the manifest lists and nobody finds is named."""
    (saved.folder / "prepared.safetensors").unlink()

    assert "prepared.safetensors is missing" in refused(saved.folder)


def test_a_manifest_that_is_not_the_recorded_one_is_refused(
    saved: Checkpoint, refused: Any
) -> None:
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
def test_other_formats_are_refused(
    saved: Checkpoint, text: str | bytes, message: str, refused: Any
) -> None:
    """A manifest of another format, or none at all, says what was found and what is read."""
    data = text if isinstance(text, bytes) else text.encode()
    (saved.folder / "checkpoint.json").write_bytes(data)

    assert message in refused(saved.folder)


@pytest.mark.parametrize(
    "changes", [{"files": ["a"]}, {"step": "many"}, {"identity": None}, {"spec": []}]
)
def test_a_malformed_manifest_is_refused(
    saved: Checkpoint, changes: dict[str, Any], refused: Any
) -> None:
    """Keys of the wrong type are named."""
    adapt_manifest(saved.folder, **changes)

    assert f"checkpoint.json cannot be read ({next(iter(changes))}" in refused(saved.folder)


def test_a_folder_that_is_no_checkpoint_is_refused(tmp_path: Path, refused: Any) -> None:
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
    saved: Checkpoint, tmp_path: Path, kind: str, adapted: bool, name: str, refused: Any
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


def test_another_vocabulary_is_refused(
    saved: Checkpoint, VOCABULARY: Vocabulary, refused: Any
) -> None:
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
