"""Checkpoints: safetensors and JSON in one folder, written whole or not at all, never unpickled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from unirep_feast.errors import CheckpointError, one_line
from unirep_feast.files import atomic_path, sha256
from unirep_feast.items import Vocabulary
from unirep_feast.spec_file import problems

FORMAT = 1
_MANIFEST = "checkpoint.json"
_VOCABULARY = "vocabulary.parquet"


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint says of itself.

    Attributes:
        run: id of the run.
        step: optimizer steps done.
        trained_until: microseconds; the model has seen events strictly before it, and no other.
        spec: the resolved representation spec, JSON-ready.
        identity: name, plugin, distribution and version by role.
        vocabulary_hash: of the vocabulary beside it.
        num_vectors: K.
        dim: D.
        depends_on_as_of: whether the encoder's vectors change with the as-of time alone.
        provides_items: whether the encoder has item vectors.
        provides_slots: whether it tells the interest of each vector.
        blocks: by name, where a block begins and ends among a user's numbers; most have none.
        trainer: the fit loop's own state: best loss, patience, seconds spent; at the end what the
            training came to.
        files: SHA-256 of every other file by name.
        format: version of this layout.
    """

    run: str
    step: int
    trained_until: int
    spec: dict[str, Any]
    identity: dict[str, dict[str, str]]
    vocabulary_hash: str
    num_vectors: int
    dim: int
    depends_on_as_of: bool
    provides_items: bool = False
    provides_slots: bool = False
    blocks: dict[str, tuple[int, int]] = field(default_factory=dict)
    trainer: dict[str, Any] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    format: int = FORMAT


_AS_MANIFEST = TypeAdapter(Manifest)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk; tensors are read when asked for."""

    folder: Path
    manifest: Manifest

    def vocabulary(self) -> Vocabulary:
        """Read the vocabulary and hold it against its hash."""
        try:
            vocabulary = Vocabulary.from_table(pq.read_table(self.folder / _VOCABULARY))
        except (pa.ArrowException, OSError, ValueError) as error:
            raise CheckpointError(_damaged(self.folder, _VOCABULARY, error)) from None
        if vocabulary.hash != self.manifest.vocabulary_hash:
            raise CheckpointError(
                f"checkpoint {self.folder}: its vocabulary hashes to {vocabulary.hash[:12]}, "
                f"wanted {self.manifest.vocabulary_hash[:12]}; it was changed, use another"
            )
        return vocabulary

    def tensors(self, name: str) -> dict[str, Tensor]:
        """Read a group of tensors: ``encoder``, ``objective``, ``prepared``, ``optimizer``."""
        path = self.folder / f"{name}.safetensors"
        if path.name not in self.manifest.files:
            return {}
        try:
            tensors: dict[str, Tensor] = load_file(path)
        except (SafetensorError, OSError, ValueError) as error:
            raise CheckpointError(_damaged(self.folder, path.name, error)) from None
        return tensors

    def load_into(self, module: nn.Module, name: str) -> None:
        """Load a group of tensors into a module, all names and shapes equal.

        Raises:
            CheckpointError: the module has other parameters than the checkpoint.
        """
        try:
            module.load_state_dict(self.tensors(name), strict=True)
        except RuntimeError as error:
            raise CheckpointError(
                f"checkpoint {self.folder} does not fit {type(module).__name__}: "
                f"{one_line(error)}; use the plugin version it was made with, or train anew"
            ) from None


def save_checkpoint(
    folder: Path,
    manifest: Manifest,
    vocabulary: Vocabulary,
    tensors: Mapping[str, Mapping[str, Tensor]],
) -> Checkpoint:
    """Write a checkpoint under a temporary name, sync it, and rename it.

    Args:
        folder: does not exist yet.
        manifest: ``files`` is filled in.
        vocabulary: written beside the weights.
        tensors: groups of named tensors.

    Raises:
        CheckpointError: the disk refuses, or a part keeps something else than tensors in its state;
            nothing is left behind.
    """
    try:
        with atomic_path(folder) as temporary:
            temporary.mkdir()
            for name, group in tensors.items():
                save_file(_on_cpu(group, name), temporary / f"{name}.safetensors")
            pq.write_table(vocabulary.to_table(), temporary / _VOCABULARY)
            files = {file.name: sha256(file) for file in sorted(temporary.iterdir())}
            manifest = replace(manifest, files=files)
            (temporary / _MANIFEST).write_text(json.dumps(asdict(manifest), indent=1))
    except (OSError, SafetensorError) as error:
        cause = error.strerror if isinstance(error, OSError) and error.strerror else one_line(error)
        raise CheckpointError(
            f"checkpoint {folder} cannot be written: {cause}; free space, or name another "
            "`storage` in the spec"
        ) from error
    return Checkpoint(folder, manifest)


def open_checkpoint(folder: Path, checksum: str | None = None) -> Checkpoint:
    """Open a checkpoint after holding every file against its checksum.

    Args:
        folder: where it lies.
        checksum: of its manifest, as the catalog has it; None takes the manifest as it is.

    Raises:
        CheckpointError: it is missing, truncated, changed, or of another format; pickled content is
            never read.
    """
    path = folder / _MANIFEST
    try:
        if checksum is not None and sha256(path) != checksum:
            raise CheckpointError(_changed(folder, _MANIFEST))
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise CheckpointError(
            f"{folder} is no checkpoint (no {_MANIFEST}); see `unirep runs list`"
        ) from None
    except (OSError, ValueError) as error:
        raise CheckpointError(_damaged(folder, _MANIFEST, error)) from None
    if not isinstance(raw, dict) or raw.get("format") != FORMAT:
        found = raw.get("format") if isinstance(raw, dict) else type(raw).__name__
        raise CheckpointError(
            f"checkpoint {folder} has format {found!r}, this version reads {FORMAT}; train anew or "
            "install the unirep-feast it was made with"
        )
    try:
        manifest = _AS_MANIFEST.validate_python(raw)
    except ValidationError as error:
        wrong = "; ".join(problems(error)[:3])
        raise CheckpointError(_damaged(folder, _MANIFEST, ValueError(wrong))) from None
    for name, wanted in manifest.files.items():
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"checkpoint {folder}: {name} is missing; use another checkpoint")
        _refuse_pickle(path)
        if sha256(path) != wanted:
            raise CheckpointError(_changed(folder, name))
    return Checkpoint(folder, manifest)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Flatten an optimizer's state into named tensors, ``<parameter>.<key>``."""
    return {
        f"{index}.{key}": value if isinstance(value, Tensor) else torch.tensor(value)
        for index, entries in optimizer.state_dict()["state"].items()
        for key, value in entries.items()
    }


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Undo :func:`optimizer_tensors`; the parameter groups stay as the spec made them."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict(
        {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
    )


def _on_cpu(group: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """Copy tensors: safetensors refuses views of shared storage, which tied weights are."""
    for key, value in group.items():
        if not isinstance(value, Tensor):
            raise CheckpointError(
                f"{name} keeps {type(value).__name__} {key!r} in its state; wanted tensors only "
                "(make it a buffer, or a setting)"
            )
    return {key: value.detach().cpu().contiguous().clone() for key, value in group.items()}


def _refuse_pickle(path: Path) -> None:
    """Refuse what torch.save or pickle wrote: a zip archive, or a pickle's opcode."""
    with path.open("rb") as file:
        head = file.read(9)
    # A safetensors file begins with the length of its header in eight bytes, and 640 of them look
    # like a pickle's opcode; what follows is its JSON.
    length = int.from_bytes(head[:8], "little")
    if head[8:] == b"{" and length <= path.stat().st_size:
        return
    if head.startswith((b"PK\x03\x04", *(b"\x80" + bytes([n]) for n in range(2, 6)))):
        raise CheckpointError(
            f"checkpoint file {path} holds pickled content, which can run code and is never "
            "loaded; wanted safetensors"
        )


def _changed(folder: Path, name: str) -> str:
    return (
        f"checkpoint {folder}: {name} is truncated or was changed (its checksum differs); use "
        "another checkpoint, see `unirep runs show`"
    )


def _damaged(folder: Path, name: str, error: Exception) -> str:
    return (
        f"checkpoint {folder}: {name} cannot be read ({one_line(error, 200)}); use another "
        "checkpoint, see `unirep runs show`"
    )
