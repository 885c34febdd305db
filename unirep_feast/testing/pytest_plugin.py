"""Adds ``--unirep-plugin NAME`` to pytest: ``pytest --pyargs unirep_feast.testing`` checks it.

Loaded by pytest wherever unirep-feast is installed, so it imports nothing of it until asked.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from unirep_feast.testing.kit_module import Kit

#: The file that stands for the kit's classes of a plugin.
_FILE = Path(__file__).with_name("kit_module.py")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("unirep")
    group.addoption(
        "--unirep-plugin",
        metavar="NAME",
        help="check this installed plugin: pytest --pyargs unirep_feast.testing --unirep-plugin X",
    )
    group.addoption(
        "--unirep-set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a setting for the check, such as encoder.dim=16; defaults may be too large",
    )


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    """Collect the kit's classes for the plugin that was named."""
    name = parent.config.getoption("--unirep-plugin")
    if name is None or file_path != _FILE:
        return None
    module = pytest.Module.from_parent(parent, path=file_path)
    kit = _kit(name, parent.config.getoption("--unirep-set"))
    module.obj = kit.module
    # unirep_kit is how `unirep plugins check` learns what the classes are called.
    parent.config.unirep_kit = kit  # type: ignore[attr-defined]
    return module


def pytest_report_header(config: pytest.Config) -> str | None:
    """Say which plugin is checked."""
    name: Any = config.getoption("--unirep-plugin")
    return None if name is None else f"unirep-feast: checking plugin {name!r}"


def _kit(name: str, overrides: list[str]) -> Kit:
    from unirep_feast.errors import UnirepError
    from unirep_feast.plugins import load_plugins
    from unirep_feast.spec_file import apply_overrides
    from unirep_feast.testing.kit_module import kit_module, ready_plugin

    try:
        return kit_module(ready_plugin(load_plugins(), name), apply_overrides({}, overrides))
    except UnirepError as error:
        raise pytest.UsageError(str(error)) from None
