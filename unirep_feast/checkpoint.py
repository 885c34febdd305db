"""Checkpoints: safetensors and JSON in one folder, written whole or not at all, never unpickled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from unirep_feast.errors import CheckpointError
from unirep_feast.files import atomic_path, sha256
from unirep_feast.items import Vocabulary

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
        trainer: the fit loop's own state: best loss, patience, seconds spent.
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
    trainer: dict[str, Any] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    format: int = FORMAT


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk; tensors are read when asked for."""

    folder: Path
    manifest: Manifest

    def vocabulary(self) -> Vocabulary:
        """Read the vocabulary and hold it against its hash."""
        try:
            vocabulary = Vocabulary.from_table(pq.read_table(self.folder / _VOCABULARY))
        except (pa.ArrowException, OSError) as error:
            raise CheckpointError(_damaged(self.folder, _VOCABULARY, error)) from None
        if vocabulary.hash != self.manifest.vocabulary_hash:
            raise CheckpointError(
                f"checkpoint {self.folder}: its vocabulary hashes to {vocabulary.hash[:12]}, "
                f"wanted {self.manifest.vocabulary_hash[:12]}; the checkpoint was changed, use another"
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
            detail = " ".join(str(error).split())[:300]
            raise CheckpointError(
                f"checkpoint {self.folder} does not fit {type(module).__name__}: {detail}; use the "
                "plugin version it was made with, or train anew"
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
    """
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        for name, group in tensors.items():
            # Copies: safetensors refuses views of shared storage, which tied weights are.
            save_file(
                {key: value.detach().cpu().contiguous().clone() for key, value in group.items()},
                temporary / f"{name}.safetensors",
            )
        pq.write_table(vocabulary.to_table(), temporary / _VOCABULARY)
        files = {file.name: sha256(file) for file in sorted(temporary.iterdir())}
        manifest = Manifest(**{**asdict(manifest), "files": files})
        (temporary / _MANIFEST).write_text(json.dumps(asdict(manifest), indent=1))
    return Checkpoint(folder, manifest)


def open_checkpoint(folder: Path) -> Checkpoint:
    """Open a checkpoint after holding every file against its checksum.

    Raises:
        CheckpointError: it is missing, truncated, changed, or of another format; pickled content is
            never read.
    """
    try:
        raw = json.loads((folder / _MANIFEST).read_text())
    except FileNotFoundError:
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
        manifest = Manifest(**raw)
    except TypeError as error:
        raise CheckpointError(_damaged(folder, _MANIFEST, error)) from None
    for name, wanted in manifest.files.items():
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"checkpoint {folder}: {name} is missing; use another checkpoint")
        _refuse_pickle(path)
        if sha256(path) != wanted:
            raise CheckpointError(
                f"checkpoint {folder}: {name} is truncated or was changed (its checksum differs); "
                "use another checkpoint, see `unirep runs show`"
            )
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


def _refuse_pickle(path: Path) -> None:
    with path.open("rb") as file:
        head = file.read(4)
    # A zip archive or a pickle opcode: what torch.save writes, and what must never be loaded.
    if head.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")):
        raise CheckpointError(
            f"checkpoint file {path} holds pickled content, which can run code and is never "
            "loaded; wanted safetensors"
        )


def _damaged(folder: Path, name: str, error: Exception) -> str:
    detail = " ".join(str(error).split())[:200]
    return (
        f"checkpoint {folder}: {name} cannot be read ({detail}); use another checkpoint, see "
        "`unirep runs show`"
    )
