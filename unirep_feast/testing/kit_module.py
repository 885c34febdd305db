"""The kit's classes for an installed plugin, as a module that pytest can collect.

``pytest --pyargs unirep_feast.testing --unirep-plugin NAME`` collects this file; what is in it then
is made by :func:`kit_module`. ``unirep plugins check`` is the same call with its own report.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import product
from types import ModuleType
from typing import Any

import pytest

from unirep_feast.errors import PluginError, UnirepError
from unirep_feast.registry import Plugin, Registry
from unirep_feast.testing.encoder_tests import EncoderTests
from unirep_feast.testing.objective_tests import ObjectiveTests
from unirep_feast.testing.plugin_tests import PluginTests, installed
from unirep_feast.testing.recipe import Recipe, module_of, registered
from unirep_feast.testing.sampler_tests import SamplerTests
from unirep_feast.testing.world import make_world
from unirep_feast.trio import check_fit

_KITS: dict[str, type] = {
    "encoder": EncoderTests,
    "objective": ObjectiveTests,
    "sampler": SamplerTests,
}


@dataclass
class Kit:
    """What is checked of a plugin.

    Attributes:
        module: holds a test class per part.
        titles: what each class checks, such as ``encoder acme``.
        left_out: what cannot be checked without its author's help, and why.
    """

    module: ModuleType
    titles: dict[str, str] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)


def ready_plugin(registry: Registry, name: str) -> Plugin:
    """Find an installed plugin that is neither broken nor blocked.

    Raises:
        PluginError: there is none of that name, or it is not ready; says why.
    """
    for plugin in registry.plugins:
        if plugin.name == name:
            if plugin.state != "ready":
                raise PluginError(
                    f"plugin {plugin.name!r} of {plugin.distribution} {plugin.version} is "
                    f"{plugin.state}: {plugin.reason}"
                )
            return plugin
    known = ", ".join(plugin.name for plugin in registry.plugins) or "none"
    raise PluginError(f"no plugin {name!r} is installed; found: {known}")


def kit_module(plugin: Plugin, settings: Mapping[str, Mapping[str, Any]]) -> Kit:
    """Make the test classes of a plugin's encoders and of its objectives with their samplers.

    Args:
        plugin: a ready one.
        settings: by role, for parts whose defaults are too large for small worlds.
    """
    names: dict[str, list[str]] = {"encoder": [], "objective": [], "sampler": []}
    for offer in plugin.offers:
        role, _, part = offer.partition(" ")
        names.setdefault(role, []).append(part)
    kit = Kit(ModuleType(f"kit_of_{plugin.name}", f"The kit for plugin {plugin.name!r}."))
    _add(kit, "plugin", PluginTests, entry_point=lambda self: installed(plugin.name))

    def add(role: str, name: str, first: str, **parts: str) -> None:
        def recipe(self: object) -> Any:
            return _recipe(first, settings, **parts)

        _add(kit, f"{role} {name}", _KITS[role], recipe=recipe)

    pairs = [name for name in names["objective"] if name in names["sampler"]]
    for encoder in names["encoder"]:
        if plugin.name in pairs:
            add("encoder", encoder, plugin.name, encoder=encoder)
        elif encoder in pairs:
            add("encoder", encoder, encoder)
        else:
            add("encoder", encoder, encoder, **trained_by(encoder, names, settings))
    for objective in names["objective"]:
        # With the plugin's main encoder, else with its own.
        first = plugin.name if plugin.name in names["encoder"] else objective
        if objective not in pairs:
            kit.left_out.append(f"objective {objective}, which no sampler of the same name feeds")
        elif first not in names["encoder"]:
            kit.left_out.append(f"objective {objective}, as there is no encoder {plugin.name}")
        else:
            add("objective", objective, first, objective=objective, sampler=objective)
            add("sampler", objective, first, objective=objective, sampler=objective)
    kit.left_out += [
        f"sampler {sampler}, which no objective of the same name uses"
        for sampler in names["sampler"]
        if sampler not in names["objective"]
    ]
    return kit


def _recipe(
    plugin: str,
    settings: Mapping[str, Mapping[str, Any]],
    encoder: str | None = None,
    objective: str | None = None,
    sampler: str | None = None,
) -> Recipe:
    return registered(
        plugin, encoder=encoder, objective=objective, sampler=sampler, settings=settings
    )


def trained_by(
    encoder: str, names: Mapping[str, list[str]], settings: Mapping[str, Mapping[str, Any]]
) -> dict[str, str]:
    """The plugin's first objective and sampler that an encoder with weights fits, if any.

    A baseline has nothing to train, and gets none. An encoder that is meant for other plugins'
    objectives is tried with what its own plugin has.
    """
    past = make_world(users=30).past
    try:
        built = registered(encoder, settings=settings).build(past).encoder
        weights = list(module_of(built).parameters())
    except Exception:
        return {}  # the checks tell what is wrong
    if not any(weight.requires_grad for weight in weights):
        return {}
    for objective, sampler in product(names["objective"], names["sampler"]):
        parts = {"objective": objective, "sampler": sampler}
        with suppress(UnirepError):
            check_fit(_recipe(encoder, settings, **parts).build(past))
            return parts
    return {"objective": "toy", "sampler": "toy"}  # which fits every encoder


def _add(kit: Kit, title: str, base: type, **fixtures: Any) -> None:
    """Add a subclass of a kit class that supplies the fixture it wants."""
    words = title.replace(".", " ").replace("-", " ").replace("_", " ").split()
    name = "Test" + "".join(word[:1].upper() + word[1:] for word in words)
    while name in kit.titles:
        name += "_"
    body: dict[str, Any] = {
        fixture: pytest.fixture(function) for fixture, function in fixtures.items()
    }
    if base is SamplerTests:
        body["random"] = None  # whether a sampler draws at random is for its author to say
    setattr(kit.module, name, type(name, (base,), {**body, "__module__": kit.module.__name__}))
    kit.titles[name] = title
