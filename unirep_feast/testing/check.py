"""Run the compliance kit on an installed plugin, outside its repository."""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from unirep_feast.errors import PluginError
from unirep_feast.plugins import load_plugins
from unirep_feast.spec_file import apply_overrides

#: The pytest plugin by the name of its entry point, so that it is loaded once at most.
_PYTEST_PLUGIN = "unirep_feast.testing.pytest_plugin"


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


def check_plugin(name: str, overrides: Sequence[str] = ()) -> CheckReport:
    """Run the kit on a plugin's main trio, its other encoders and its other trios.

    An objective and a sampler of the same name make a trio. What can only be checked with data of
    its own (a table of labels, say) is left out and said.

    Args:
        name: of the plugin.
        overrides: ``role.setting=value`` texts, for parts whose defaults are too large for small
            worlds.

    Raises:
        PluginError: no such plugin, it is broken, or pytest is not installed.
    """
    try:
        import pytest
    except ImportError:
        raise PluginError(
            "`unirep plugins check` needs pytest; pip install 'unirep-feast[testing]'"
        ) from None
    from unirep_feast.testing.kit_module import ready_plugin

    ready_plugin(load_plugins(), name)  # what is wrong with it is one line, not a report
    apply_overrides({}, overrides)
    report = CheckReport(name)
    with tempfile.TemporaryDirectory() as folder:
        arguments = [
            *("--pyargs", "unirep_feast.testing", "--noconftest", "-q"),
            *("-p", _PYTEST_PLUGIN, "-p", "no:cacheprovider"),
            *(f"--rootdir={folder}", "-c", "/dev/null"),
            *("--unirep-plugin", name),
            *(word for one in overrides for word in ("--unirep-set", one)),
        ]
        told = io.StringIO()
        with contextlib.redirect_stdout(told):
            pytest.main(arguments, plugins=[_Collector(report)])
    if not report.checks:
        raise PluginError(f"the kit did not run: {' '.join(told.getvalue().split())[-300:]}")
    return report


class _Collector:
    """A pytest plugin that turns test reports into checks."""

    def __init__(self, report: CheckReport) -> None:
        self.report = report
        self.titles: dict[str, str] = {}
        self.promises: dict[str, str] = {}

    def pytest_collection_finish(self, session: Any) -> None:
        kit = getattr(session.config, "unirep_kit", None)
        if kit is not None:
            self.titles, self.report.left_out = kit.titles, kit.left_out

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
