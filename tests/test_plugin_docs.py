"""plugins/README.md holds every hook, with the signatures of the code and examples that run."""

from __future__ import annotations

import inspect
import re
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numpy as np
import pytest

from unirep_feast import hookspecs
from unirep_feast.plugins import build_registry
from unirep_feast.task import TaskLog
from unirep_feast.testing import make_world, registered
from unirep_feast.testing.recipe import train

TEXT = (Path(__file__).parents[1] / "plugins" / "README.md").read_text(encoding="utf-8")
HOOKS = [name for name in dir(hookspecs) if name.startswith("unirep_")]
EXAMPLES = re.findall(r"<!-- example -->\n```python\n(.*?)```", TEXT, re.DOTALL)

#: What the registrars of each hook are called, and the contract of what is built.
REGISTRARS: dict[str, tuple[type, str]] = {
    "unirep_register_encoders": (hookspecs.RegisterEncoder, "encoder.Encoder"),
    "unirep_register_objectives": (hookspecs.RegisterObjective, "objective.Objective"),
    "unirep_register_samplers": (hookspecs.RegisterSampler, "sampler.Sampler"),
    "unirep_register_tasks": (hookspecs.RegisterTask, "task.Task"),
}


def section(hook: str) -> str:
    """The text under a hook's heading."""
    found = re.search(rf"(?ms)^### `{hook}`\n(.*?)(?=^##|\Z)", TEXT)
    assert found is not None, f"plugins/README.md has no heading ### `{hook}`"
    return found[1]


def plain(signature: str) -> str:
    """A signature without line breaks and the spaces they bring."""
    text = re.sub(r"\s+", " ", signature)
    return text.replace("( ", "(").replace(", )", ")").replace(" )", ")")


def test_the_headings_are_the_hooks() -> None:
    """None is missing, and none is there that the host does not have."""
    assert re.findall(r"(?m)^### `(unirep_\w+)`$", TEXT) == HOOKS
    assert set(REGISTRARS) == set(HOOKS)


@pytest.mark.parametrize("hook", HOOKS)
def test_signatures_are_those_of_the_code(hook: str) -> None:
    """Of the hook, and of what it is handed to register with."""
    text = plain(section(hook))
    call = inspect.signature(REGISTRARS[hook][0].__call__)
    own = call.replace(parameters=list(call.parameters.values())[1:])

    for name, signature in ((hook, inspect.signature(getattr(hookspecs, hook))), ("register", own)):
        wanted = plain(f"def {name}{signature}".replace("'", ""))
        assert wanted in text, f"wanted\n{wanted}"


@pytest.mark.parametrize("hook", HOOKS)
def test_every_section_answers_the_same_questions(hook: str) -> None:
    """When, in what order, what is given and returned, what the host checks, an example."""
    for part in ("**When**", "rder**", "`build(settings", "**Returns**", "**The host checks**"):
        assert part in section(hook), part
    assert "<!-- example -->" in section(hook)


@pytest.mark.parametrize("hook", HOOKS)
def test_everything_a_contract_asks_for_is_named(hook: str) -> None:
    """Each attribute and method of what a builder returns."""
    module, _, name = REGISTRARS[hook][1].partition(".")
    contract: Any = getattr(__import__(f"unirep_feast.{module}", fromlist=[name]), name)
    assert issubclass(contract, Protocol)  # type: ignore[arg-type]
    methods = [n for n in vars(contract) if not n.startswith("_") and callable(vars(contract)[n])]

    for wanted in (*contract.__annotations__, *methods):
        assert re.search(rf"`{wanted}\b", section(hook)), f"{wanted} is not named"
    if "__call__" in vars(contract):
        assert "`forward(" in section(hook)


@pytest.fixture
def documented(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """All examples together, as the hook module of a plugin `acme`."""
    module = ModuleType("documented_hooks")
    monkeypatch.setitem(sys.modules, "documented_hooks", module)
    exec(compile("\n".join(EXAMPLES), "plugins/README.md", "exec"), module.__dict__)
    return module


def test_the_examples_are_a_plugin_that_trains(documented: ModuleType) -> None:
    """The host takes it, and it trains to finite losses."""
    registry = build_registry([EntryPoint("acme", "documented_hooks", "unirep_feast")])
    (plugin,) = registry.plugins

    losses = train(registered("acme", registry=registry).build(make_world().past), _past(), 3)

    assert plugin.state == "ready", plugin.reason
    assert plugin.offers == ("encoder acme", "objective acme", "sampler acme", "task acme.returns")
    assert len(losses) == 3 and np.isfinite(losses).all()


def test_the_example_task_asks_a_log(documented: ModuleType) -> None:
    """Those with an event before the cut-off, with both answers among the targets."""
    registry = build_registry([EntryPoint("acme", "documented_hooks", "unirep_feast")])
    part = registry.get("task", "acme.returns")
    world = make_world(users=40)

    examples = part.build(part.settings()).examples(TaskLog.build(world.packed, None), world.until)

    assert len(examples) == int((world.past.lengths > 0).sum())
    assert set(examples.targets.tolist()) == {0.0, 1.0}


def _past() -> Any:
    return make_world().past
