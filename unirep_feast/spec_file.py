"""Spec files: YAML and overrides in, a checked spec out, every problem reported at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from unirep_feast.config import RepresentationSpec
from unirep_feast.errors import SpecError


def load_spec(path: str | Path, overrides: Sequence[str] = ()) -> RepresentationSpec:
    """Read a representation spec.

    Args:
        path: the YAML file; relative paths in it are relative to its folder.
        overrides: ``key.sub=value`` texts, the value in YAML, applied over the file.

    Raises:
        SpecError: the file is missing, is no YAML, or has problems (all of them are listed).
    """
    return parse_spec(read_yaml(path, overrides), f"spec {path}")


def read_yaml(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Read a spec's keys without judging them; see :func:`load_spec`."""
    path = Path(path)
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SpecError(
            f"spec {path}", [f"{error.strerror}; give the path of a spec file"]
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SpecError(f"spec {path}", [f"is not YAML: {' '.join(str(error).split())}"]) from None
    if not isinstance(raw, dict):
        raise SpecError(
            f"spec {path}", [f"found {type(raw).__name__}, wanted keys such as name and events"]
        )
    apply_overrides(raw, overrides)
    raw.setdefault("folder", str(path.parent))
    return raw


def parse_spec(raw: Mapping[str, Any], origin: str) -> RepresentationSpec:
    """Turn parsed YAML or a tag's JSON into a spec; ``origin`` names it in errors."""
    try:
        return RepresentationSpec.model_validate(raw)
    except ValidationError as error:
        raise SpecError(origin, problems(error)) from None


def problems(error: ValidationError) -> list[str]:
    """Say every problem of a validation error, each with its key and what was found."""
    lines = []
    for item in error.errors(include_url=False):
        key = ".".join(str(part) for part in item["loc"])
        message = item["msg"].removeprefix("Value error, ")
        found = item["input"]
        if item["type"] == "extra_forbidden":
            lines.append(f"unknown key `{key}`")
        elif item["type"] == "missing":
            lines.append(f"`{key}` is missing")
        elif (item["type"] == "value_error" and "found" in message) or isinstance(found, dict):
            lines.append(f"{key}: {message}" if key else message)
        else:
            lines.append(f"{key}: {message}, found {found!r}")
    return lines


def apply_overrides(raw: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Apply ``key.sub=value`` texts (the value in YAML) to nested keys in place; return them."""
    for override in overrides:
        _override(raw, override)
    return raw


def _override(raw: dict[str, Any], text: str) -> None:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise SpecError(f"--set {text!r}", ["wanted key=value, such as training.max_steps=100"])
    *parents, last = key.split(".")
    node = raw
    for parent in parents:
        below = node.get(parent)
        if below is None:  # absent, or a key with nothing behind it
            below = node[parent] = {}
        if not isinstance(below, dict):
            raise SpecError(f"--set {text!r}", [f"{parent!r} holds {below!r}, not keys"])
        node = below
    try:
        node[last] = yaml.safe_load(value)
    except yaml.YAMLError:
        raise SpecError(
            f"--set {text!r}", [f"{value!r} is no YAML value; quote it, as in key='text'"]
        ) from None
