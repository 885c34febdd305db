"""`unirep plugins check` runs the compliance kit on an installed plugin and tells what it found."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import Result


@pytest.mark.usefixtures("lab")
def test_every_promise_is_listed_and_the_broken_one_named(cli: Callable[..., Result]) -> None:
    """The lab plugin describes none of its settings: that line fails, all others are kept."""
    result = cli("plugins", "check", "lab", "--json")

    report: dict[str, Any] = json.loads(result.stdout)
    broken = [check for check in report["checks"] if check["outcome"] == "failed"]

    assert result.exit_code == 1
    assert not report["passed"]
    assert [check["promise"] for check in broken] == ["settings are described"]
    assert "no description of dim" in broken[0]["message"]
    assert {check["part"] for check in report["checks"]} >= {"plugin", "encoder lab", "sampler lab"}


@pytest.mark.usefixtures("lab")
def test_an_unknown_plugin_is_one_clear_line(
    cli: Callable[..., Result], refusal: Callable[[Result], str]
) -> None:
    """The line lists the plugins there are."""
    line = refusal(cli("plugins", "check", "nobody"))

    assert "no plugin 'nobody' is installed; found: " in line
    assert "lab" in line
