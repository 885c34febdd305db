"""`unirep plugins check` runs the compliance kit on an installed plugin and tells what it found."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import Result


@pytest.mark.usefixtures("lab")
def test_a_plugin_that_keeps_its_promises_passes(cli: Callable[..., Result]) -> None:
    """Every check is listed with its promise, and the exit code is 0."""
    result = cli("plugins", "check", "lab", "--json")

    report: dict[str, Any] = json.loads(result.stdout)

    assert result.exit_code == 0, result.stdout
    assert report["passed"]
    assert {check["part"] for check in report["checks"]} >= {"plugin", "encoder lab", "sampler lab"}


@pytest.mark.usefixtures("lab")
def test_an_unknown_plugin_is_one_clear_line(
    cli: Callable[..., Result], refusal: Callable[[Result], str]
) -> None:
    """The line lists the plugins there are."""
    line = refusal(cli("plugins", "check", "nobody"))

    assert "no plugin 'nobody' is installed; found: " in line
    assert "lab" in line
