"""Renders the template files of the wheel into a folder that appears whole or not at all."""

from __future__ import annotations

import re
from collections.abc import Collection
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from unirep_feast import __version__
from unirep_feast.errors import PluginError
from unirep_feast.files import atomic_path

#: What a plugin is made to offer where nothing is asked for: three parts that train together.
TRIO = ("encoder", "objective", "sampler")

#: What it can be made to offer.
PARTS = (*TRIO, "task")

_NAME = re.compile(r"[a-z][a-z0-9_]{0,40}")

#: Template to where it goes; ``package`` and ``name`` stand for the plugin's own.
_FILES = {
    "pyproject.toml": "pyproject.toml",
    "README.md": "README.md",
    "gitignore": ".gitignore",
    "package/__init__.py": "{package}/__init__.py",
    "package/hooks.py": "{package}/hooks.py",
    "package/config.py": "{package}/config.py",
    "tests/test_compliance.py": "tests/test_compliance.py",
}
_OF_PART = {
    "encoder": {
        "package/encoder.py": "{package}/encoder.py",
        "tests/test_encoder.py": "tests/test_encoder.py",
    },
    "objective": {"package/objective.py": "{package}/objective.py"},
    "sampler": {"package/sampler.py": "{package}/sampler.py"},
    "task": {"package/task.py": "{package}/task.py", "tests/test_task.py": "tests/test_task.py"},
}
_OF_WHOLE = {
    "example/spec.yaml": "example/{name}.yaml",
    "example/feature_store.yaml": "example/feature_store.yaml",
    "example/representations.py": "example/representations.py",
    "example/feastignore": "example/.feastignore",
}


def new_plugin(name: str, into: Path, parts: Collection[str] = ()) -> Path:
    """Write a plugin's distribution into a folder of its own.

    Args:
        name: of the plugin: what specs will say.
        into: the folder to make ``unirep-feast-<name>`` in.
        parts: some of :data:`PARTS`; none: :data:`TRIO`.

    Returns:
        The new folder.

    Raises:
        PluginError: the name cannot be one, or the folder is there already or cannot be written.
    """
    if not _NAME.fullmatch(name):
        raise PluginError(
            f"plugin name {name!r}: wanted lower-case letters, digits and _, a letter first, at "
            "most 41 of them"
        )
    values = _values(name, [part for part in PARTS if part in (parts or TRIO)])
    target: Path = into / values["distribution"]
    if target.exists():
        raise PluginError(f"{target} is there already; give another name, or --into another folder")
    try:
        with atomic_path(target) as folder:
            folder.mkdir()
            for template, path in _wanted(values).items():
                file = folder / path.format(**values)
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(_rendered(template, values), encoding="utf-8")
    except OSError as error:
        raise PluginError(
            f"{target} cannot be written: {error.strerror or error}; mend the folder, or give "
            "--into another one"
        ) from None
    return target


def _values(name: str, parts: list[str]) -> dict[str, Any]:
    major, minor = __version__.split(".")[:2]
    return {
        "name": name,
        "package": f"unirep_feast_{name}",
        "distribution": f"unirep-feast-{name.replace('_', '-')}",
        "camel": "".join(word.capitalize() for word in name.split("_")),
        "host": f"{major}.{minor}",
        "next_host": f"{major}.{int(minor) + 1}",
        "parts": parts,
        "whole": set(TRIO) <= set(parts),
        **{part: part in parts for part in PARTS},
    }


def _wanted(values: dict[str, Any]) -> dict[str, str]:
    wanted = dict(_FILES)
    for part in values["parts"]:
        wanted.update(_OF_PART[part])
    return {**wanted, **_OF_WHOLE} if values["whole"] else wanted


def _rendered(template: str, values: dict[str, Any]) -> str:
    from jinja2 import Environment, StrictUndefined

    found: Traversable = files("unirep_feast.scaffold") / "templates"
    for part in f"{template}.jinja".split("/"):
        found = found / part
    environment = Environment(  # noqa: S701 - Python and YAML, no HTML
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, undefined=StrictUndefined
    )
    text: str = environment.from_string(found.read_text(encoding="utf-8")).render(values)
    return text
