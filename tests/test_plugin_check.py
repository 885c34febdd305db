"""`unirep plugins check` runs the compliance kit on an installed plugin and tells what it found."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import Result

from unirep_feast.plugins import load_plugins
from unirep_feast.testing.kit_module import kit_module, ready_plugin, trained_by


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


def test_encoders_without_a_main_trio_are_tried_with_what_fits() -> None:
    """Nothing for a baseline; for an encoder with weights the plugin's first pair that fits it."""
    names = {
        "objective": ["baselines.sumn", "baselines.contrast"],
        "sampler": ["baselines.sumn"],
    }

    assert trained_by("baselines.aggregates", names, {}) == {}
    # baselines.sumn requires items, which a TextCNN has not.
    assert trained_by("baselines.textcnn", names, {}) == {
        "objective": "baselines.contrast",
        "sampler": "baselines.sumn",
    }


def test_a_plugin_without_a_main_encoder_is_checked_whole() -> None:
    """Every encoder has its class; an objective is tried with the encoder of its own name."""
    kit = kit_module(ready_plugin(load_plugins(), "baselines"), {})

    titles = set(kit.titles.values())
    assert {"encoder baselines.random", "encoder baselines.han", "sampler baselines.sumn"} <= titles
    assert kit.left_out == ["objective baselines.contrast, which no sampler of the same name feeds"]
