"""Run the compliance kit on an installed plugin, outside its repository."""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from unirep_feast.errors import PluginError
from unirep_feast.plugins import Plugin, Registry, load_plugins

_HEAD = """
import pytest
from unirep_feast.testing import (
    EncoderTests, ObjectiveTests, PluginTests, SamplerTests, installed, registered
)

class TestPlugin(PluginTests):
    @pytest.fixture
    def entry_point(self):
        return installed({plugin!r})
"""

_PART = """
class Test{number}{kind}({kind}Tests):
    random = None  # whether a sampler draws at random is for its author to say

    @pytest.fixture
    def recipe(self):
        return registered({plugin!r}, {roles}, settings={settings!r})
"""


@dataclass(frozen=True)
class Check:
    """One promise and whether it is kept.

    Attributes:
        part: ``plugin`` or the role and name of what was checked.
        promise: one sentence.
        outcome: ``passed``, ``failed`` or ``skipped``.
        message: what was found instead, one line.
    """

    part: str
    promise: str
    outcome: str
    message: str = ""


@dataclass
class CheckReport:
    """What the kit found out about a plugin."""

    plugin: str
    checks: list[Check] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether no promise is broken."""
        return bool(self.checks) and all(check.outcome != "failed" for check in self.checks)

    def to_json(self) -> dict[str, Any]:
        """The report as JSON-ready values."""
        return {"passed": self.passed, **asdict(self)}

    def lines(self) -> list[str]:
        """The report for people: failures with what was found, and a count."""
        out = []
        for check in self.checks:
            mark = {"passed": "ok  ", "failed": "FAIL", "skipped": "skip"}[check.outcome]
            out.append(f"{mark} {check.part}: {check.promise}")
            if check.outcome == "failed":
                out.append(f"       {check.message}")
        out.extend(f"not checked: {line}" for line in self.left_out)
        failed = sum(check.outcome == "failed" for check in self.checks)
        kept = sum(check.outcome == "passed" for check in self.checks)
        out.append(f"{self.plugin}: {kept} promises kept, {failed} broken")
        return out


def check_plugin(name: str, settings: Mapping[str, Any] | None = None) -> CheckReport:
    """Run the kit on a plugin's main trio, its other encoders and its other trios.

    An objective and a sampler of the same name make a trio. What can only be checked with data of
    its own (a table of labels, say) is left out and said.

    Args:
        name: of the plugin.
        settings: by role, for parts whose defaults are too large for small worlds.

    Raises:
        PluginError: no such plugin, it is broken, or pytest is not installed.
    """
    try:
        import pytest
    except ImportError:
        raise PluginError(
            "`unirep plugins check` needs pytest; pip install 'unirep-feast[testing]'"
        ) from None
    registry = load_plugins()
    plugin = _find(registry, name)
    source, titles, left_out = _module(plugin, settings or {})
    report = CheckReport(name, left_out=left_out)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "test_plugin.py"
        path.write_text(source)
        quiet = ("-q", "-p", "no:cacheprovider", f"--rootdir={folder}", "-c", "/dev/null")
        with contextlib.redirect_stdout(io.StringIO()):
            pytest.main([str(path), *quiet], plugins=[_Collector(report, titles)])
    return report


class _Collector:
    """A pytest plugin that turns test reports into checks."""

    def __init__(self, report: CheckReport, titles: dict[str, str]) -> None:
        self.report = report
        self.titles = titles
        self.promises: dict[str, str] = {}

    def pytest_itemcollected(self, item: Any) -> None:
        # Names of checks are sentences; brackets hold the variant.
        name, _, variant = item.name.removeprefix("test_").partition("[")
        self.promises[item.nodeid] = name.replace("_", " ") + (f" [{variant}" if variant else "")

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when != "call" and report.outcome == "passed":
            return
        message = ""
        if report.failed:
            crash = getattr(report.longrepr, "reprcrash", None)
            message = " ".join(str(crash.message if crash else report.longrepr).split())[:300]
        part = self.titles[report.nodeid.split("::")[1]]
        promise = self.promises.get(report.nodeid, report.nodeid)
        self.report.checks.append(Check(part, promise, report.outcome, message))


def _find(registry: Registry, name: str) -> Plugin:
    for plugin in registry.plugins:
        if plugin.name == name:
            if plugin.state != "ready":
                raise PluginError(
                    f"plugin {name!r} of {plugin.distribution} {plugin.version} is {plugin.state}: "
                    f"{plugin.reason}"
                )
            return plugin
    known = ", ".join(plugin.name for plugin in registry.plugins) or "none"
    raise PluginError(f"no plugin {name!r} is installed; found: {known}")


def _module(plugin: Plugin, settings: Mapping[str, Any]) -> tuple[str, dict[str, str], list[str]]:
    """Write the test module; returns it, a title per class, and what is left out."""
    names: dict[str, list[str]] = {"encoder": [], "objective": [], "sampler": []}
    for offer in plugin.offers:
        role, _, part = offer.partition(" ")
        names[role].append(part)
    source = _HEAD.format(plugin=plugin.name)
    titles = {"TestPlugin": "plugin"}
    left_out: list[str] = []

    def add(kind: str, title: str, parts: str) -> None:
        nonlocal source
        number = len(titles)
        given = {role: dict(values) for role, values in settings.items()}
        source += _PART.format(
            number=number, kind=kind, plugin=plugin.name, roles=parts, settings=given
        )
        titles[f"Test{number}{kind}"] = title

    for encoder in names["encoder"]:
        add("Encoder", f"encoder {encoder}", f"encoder={encoder!r}")
    for objective in names["objective"]:
        if objective in names["sampler"]:
            parts = f"objective={objective!r}, sampler={objective!r}"
            add("Objective", f"objective {objective}", parts)
            add("Sampler", f"sampler {objective}", parts)
        else:
            left_out.append(f"objective {objective}, which no sampler of the same name feeds")
    left_out += [
        f"sampler {sampler}, which no objective of the same name uses"
        for sampler in names["sampler"]
        if sampler not in names["objective"]
    ]
    return source, titles, left_out
