"""Finding plugins, and taking in what they offer.

Discovery is guarded: a plugin that fails on import is listed as broken and hurts only the commands
that need it.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from difflib import get_close_matches
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Any

import pluggy
from pydantic import BaseModel

import unirep_feast
from unirep_feast import hookspecs
from unirep_feast.blame import cause
from unirep_feast.errors import PluginError
from unirep_feast.registry import BLOCK_VARIABLE, OFFERS, Offer, Plugin, Registered, Registry

logger = logging.getLogger(__name__)

GROUP = "unirep_feast"
ALLOW_VARIABLE = "UNIREP_LOAD_PLUGINS"
TRACE_VARIABLE = "UNIREP_TRACE_HOOKS"


@cache
def load_plugins() -> Registry:
    """Find, import and check every installed plugin; once per process."""
    return build_registry(entry_points(group=GROUP))


def build_registry(points: Iterator[EntryPoint] | Any) -> Registry:
    """Build a registry from entry points; see :func:`load_plugins`."""
    manager = pluggy.PluginManager("unirep")
    manager.add_hookspecs(hookspecs)
    if os.environ.get(TRACE_VARIABLE):
        manager.trace.root.setwriter(sys.stderr.write)
        manager.enable_tracing()
    registry = Registry()
    modules: list[tuple[Plugin, ModuleType]] = []
    for point in sorted(points, key=lambda p: (p.name, p.dist.name if p.dist else "")):
        plugin, module = _load(manager, point)
        if module is None:
            registry.plugins.append(plugin)
        else:
            modules.append((plugin, module))
    for plugin, module in modules:
        others = [other for other in manager.get_plugins() if other is not module]
        registry.plugins.append(_collect(manager, plugin, others, registry))
    _contest_namesakes(registry)
    registry.plugins.sort(key=lambda p: (p.name, p.distribution))
    logger.debug("%d plugins", len(registry.plugins))
    return registry


def _load(manager: pluggy.PluginManager, point: EntryPoint) -> tuple[Plugin, ModuleType | None]:
    """Import the hooks of one plugin; None, and why, where it is blocked or broken."""
    distribution = point.dist.name if point.dist else "unknown"
    plugin = Plugin(point.name, distribution, point.dist.version if point.dist else "0")
    blocked = _blocked(plugin)
    if blocked:
        return replace(plugin, state="blocked", reason=blocked), None
    try:
        module = point.load()
        plugin = replace(plugin, api=_agreed_api(module))
        manager.register(module, name=f"{plugin.distribution}:{plugin.name}")
        _check_hooks(manager, module)
    except (Exception, SystemExit) as error:
        # A plugin is foreign code: whatever it raises must not take other commands down.
        logger.debug("plugin %s is broken", plugin.name, exc_info=True)
        return replace(plugin, state="broken", reason=cause(error)), None
    return plugin, module


def _collect(
    manager: pluggy.PluginManager, plugin: Plugin, others: list[Any], registry: Registry
) -> Plugin:
    """Call one plugin's hooks and take in what it offers; all of it, or nothing."""
    offered: list[Registered] = []

    def registrar(role: Offer) -> Callable[..., None]:
        def register(
            name: str,
            build: Callable[..., Any],
            settings: type[BaseModel],
            prepare: Callable[..., Any] | None = None,
        ) -> None:
            _check_offer(role, name, build, settings, plugin)
            if any(part.role == role and part.name == name for part in offered):
                raise PluginError(f"{role} {name!r} is registered twice")
            offered.append(Registered(role, name, build, settings, plugin, prepare))

        return register

    try:
        for role in OFFERS:
            called = f"unirep_register_{role}s"
            hook = manager.subset_hook_caller(called, remove_plugins=others)
            hook(register=registrar(role))
    except (Exception, SystemExit) as error:
        logger.debug("plugin %s is broken", plugin.name, exc_info=True)
        return replace(plugin, state="broken", reason=f"{called}: {cause(error)}")
    for part in offered:
        key = (part.role, part.name)
        registry.parts.setdefault(key, part)
    return replace(plugin, offers=tuple(f"{part.role} {part.name}" for part in offered))


def _contest_namesakes(registry: Registry) -> None:
    """Give nothing to anyone where two distributions claim one plugin name.

    A second ``acme`` that registers only what the first leaves out would otherwise change what
    ``plugin: acme`` in a spec means.
    """
    claims: dict[str, list[Plugin]] = {}
    for plugin in registry.plugins:
        if plugin.state == "ready":
            claims.setdefault(plugin.name, []).append(plugin)
    for key, part in registry.parts.items():
        rivals = claims[part.plugin.name]
        if len(rivals) > 1:
            registry.contested[key] = rivals


def _check_offer(role: Offer, name: str, build: Any, settings: Any, plugin: Plugin) -> None:
    if not plugin.owns(name):
        raise PluginError(
            f"{role} {name!r}: wanted the name {plugin.name!r} or one that begins with "
            f"'{plugin.name}.'"
        )
    if not callable(build):
        raise PluginError(f"{role} {name!r}: build is {build!r}; wanted a function")
    if not (isinstance(settings, type) and issubclass(settings, BaseModel)):
        raise PluginError(f"{role} {name!r}: settings is {settings!r}; wanted a pydantic model")
    if settings.model_config.get("extra") != "forbid":
        raise PluginError(f"{role} {name!r}: {settings.__name__} must set extra='forbid'")
    needed = [key for key, value in settings.model_fields.items() if value.is_required()]
    if needed:
        raise PluginError(
            f"{role} {name!r}: {settings.__name__} has no default for {', '.join(needed)}"
        )


def _agreed_api(module: ModuleType) -> int:
    """The newest plugin API that both sides speak."""
    given, ours = getattr(module, "UNIREP_API", 1), unirep_feast.API_VERSIONS
    spoken = set(given) if isinstance(given, tuple | list | set | frozenset) else {given}
    if not spoken or any(type(version) is not int for version in spoken):
        raise PluginError(f"UNIREP_API is {given!r}; wanted a number, or several such as (1, 2)")
    if common := spoken & set(ours):
        return max(common)
    newer = min(spoken) > max(ours)
    raise PluginError(
        f"speaks plugin API {_listed(spoken)}, this host speaks {_listed(ours)}; install a newer "
        f"{'unirep-feast' if newer else 'version of the plugin'}"
    )


def _listed(versions: Iterable[int]) -> str:
    return " and ".join(map(str, sorted(versions)))


def _check_hooks(manager: pluggy.PluginManager, module: ModuleType) -> None:
    """Refuse what pluggy would pass over in silence: a misspelt hook, and one without its mark."""
    known = [name for name in dir(hookspecs) if name.startswith("unirep_")]
    called = [caller.name for caller in manager.get_hookcallers(module) or []]
    unknown = [name for name in called if name not in known]
    unmarked = [name for name in known if name not in called and hasattr(module, name)]
    if not unknown and not unmarked:
        return
    manager.unregister(module)
    if unmarked:
        raise PluginError(
            f"{', '.join(unmarked)} is not marked as a hook; put @hookimpl of unirep_feast above it"
        )
    meant = [guess for name in unknown for guess in get_close_matches(name, known, 1)]
    raise PluginError(
        f"unknown hook {', '.join(unknown)}; "
        + (f"did you mean {', '.join(meant)}? " if meant else "")
        + f"known ones: {', '.join(known)}"
    )


def _blocked(plugin: Plugin) -> str:
    def plain(name: str) -> str:
        return re.sub(r"[-_.]+", "-", name.strip()).lower()  # as pip compares distributions

    def listed(variable: str) -> set[str]:
        return {plain(name) for name in os.environ.get(variable, "").split(",")}

    names = {plain(plugin.name), plain(plugin.distribution)}
    if names & listed(BLOCK_VARIABLE):
        return f"named in {BLOCK_VARIABLE}"
    if ALLOW_VARIABLE in os.environ and not names & listed(ALLOW_VARIABLE):
        return f"not named in {ALLOW_VARIABLE}"
    return ""
