"""Finding plugins, and building the trio (encoder, objective, sampler) that a spec asks for.

Discovery is guarded: a plugin that fails on import is listed as broken and hurts only the commands
that need it.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Any, Literal

import pluggy
from pydantic import BaseModel, ValidationError

import unirep_feast
from unirep_feast import hookspecs
from unirep_feast.config import problems
from unirep_feast.errors import PluginError, UnirepError

logger = logging.getLogger(__name__)

GROUP = "unirep_feast"
ALLOW_VARIABLE = "UNIREP_LOAD_PLUGINS"
BLOCK_VARIABLE = "UNIREP_BLOCK_PLUGINS"
TRACE_VARIABLE = "UNIREP_TRACE_HOOKS"

Role = Literal["encoder", "objective", "sampler"]
ROLES: tuple[Role, ...] = ("encoder", "objective", "sampler")


@dataclass(frozen=True)
class Plugin:
    """An installed plugin, whatever state it is in.

    Attributes:
        name: of the entry point; prefix of all names it registers.
        distribution: of the package that brings it.
        version: of that package.
        state: ``ready``, ``broken`` (with a reason) or ``blocked`` (by an environment variable).
        reason: why it is not ready, one line.
        offers: ``"encoder clue"``-like lines, in order of registration.
    """

    name: str
    distribution: str
    version: str
    state: Literal["ready", "broken", "blocked"] = "ready"
    reason: str = ""
    offers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Registered:
    """Something a plugin offers: how to build it and what settings it takes."""

    role: Role
    name: str
    build: Callable[..., Any]
    settings: type[BaseModel]
    plugin: Plugin
    prepare: Callable[..., Any] | None = None

    def problems(self, raw: dict[str, Any]) -> list[str]:
        """Say what is wrong with settings: one clause each, with the known names at the end."""
        try:
            self.settings.model_validate(raw)
        except ValidationError as error:
            found = [f"{self.role}.settings: {line}" for line in problems(error)]
            known = ", ".join(self.settings.model_fields)
            return [*found, f"(the settings of {self.role} {self.name!r} are {known})"]
        return []


@dataclass
class Registry:
    """All plugins and everything they offer."""

    plugins: list[Plugin] = field(default_factory=list)
    parts: dict[tuple[Role, str], Registered] = field(default_factory=dict)
    contested: dict[tuple[Role, str], list[Plugin]] = field(default_factory=dict)

    def names(self, role: Role) -> list[str]:
        """Return the registered names of a role, sorted."""
        return sorted(name for found, name in self.parts if found == role)

    def get(self, role: Role, name: str) -> Registered:
        """Look up what a spec names.

        Raises:
            PluginError: nobody offers it, or two distributions do; a broken plugin of that name is
                named with its reason.
        """
        key = (role, name)
        if key in self.contested:
            rivals = " and ".join(f"{p.distribution} {p.version}" for p in self.contested[key])
            raise PluginError(
                f"{role} {name!r} is registered by {rivals}; uninstall one, or block it with "
                f"{BLOCK_VARIABLE}"
            )
        if key in self.parts:
            return self.parts[key]
        for plugin in self.plugins:
            if plugin.state != "ready" and _belongs(name, plugin):
                raise PluginError(
                    f"{role} {name!r} needs plugin {plugin.name!r} of {plugin.distribution} "
                    f"{plugin.version}, which is {plugin.state}: {plugin.reason}"
                )
        known = ", ".join(self.names(role)) or "none"
        raise PluginError(
            f"no plugin offers {role} {name!r}; found: {known}; install the plugin, or see "
            "`unirep plugins list`"
        )


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
        distribution = point.dist.name if point.dist else "unknown"
        plugin = Plugin(point.name, distribution, point.dist.version if point.dist else "0")
        blocked = _blocked(plugin)
        if blocked:
            registry.plugins.append(replace(plugin, state="blocked", reason=blocked))
            continue
        try:
            module = point.load()
            _check_api(module)
            manager.register(module, name=f"{plugin.distribution}:{plugin.name}")
            _check_hooks(manager, module)
        except (Exception, SystemExit) as error:
            # A plugin is foreign code: whatever it raises must not take other commands down.
            logger.debug("plugin %s is broken", plugin.name, exc_info=True)
            registry.plugins.append(replace(plugin, state="broken", reason=_cause(error)))
            continue
        modules.append((plugin, module))
    for plugin, module in modules:
        others = [other for other in manager.get_plugins() if other is not module]
        registry.plugins.append(_collect(manager, plugin, others, registry))
    registry.plugins.sort(key=lambda p: (p.name, p.distribution))
    logger.debug("%d plugins", len(registry.plugins))
    return registry


def _collect(
    manager: pluggy.PluginManager, plugin: Plugin, others: list[Any], registry: Registry
) -> Plugin:
    """Call one plugin's hooks and take in what it offers; all of it, or nothing."""
    offered: list[Registered] = []

    def registrar(role: Role) -> Callable[..., None]:
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
        for role in ROLES:
            hook = manager.subset_hook_caller(f"unirep_register_{role}s", remove_plugins=others)
            hook(register=registrar(role))
    except (Exception, SystemExit) as error:
        logger.debug("plugin %s is broken", plugin.name, exc_info=True)
        return replace(plugin, state="broken", reason=_cause(error))
    for part in offered:
        key = (part.role, part.name)
        if key in registry.parts:
            first = registry.parts[key].plugin
            registry.contested.setdefault(key, [first]).append(plugin)
        else:
            registry.parts[key] = part
    return replace(plugin, offers=tuple(f"{part.role} {part.name}" for part in offered))


def _check_offer(role: Role, name: str, build: Any, settings: Any, plugin: Plugin) -> None:
    if not _belongs(name, plugin):
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


def _belongs(name: object, plugin: Plugin) -> bool:
    return isinstance(name, str) and (name == plugin.name or name.startswith(f"{plugin.name}."))


def _check_api(module: ModuleType) -> None:
    wanted = unirep_feast.API_VERSION
    found = getattr(module, "UNIREP_API", wanted)
    if found != wanted:
        raise PluginError(
            f"speaks plugin API {found}, this host speaks {wanted}; update one of them"
        )


def _check_hooks(manager: pluggy.PluginManager, module: ModuleType) -> None:
    callers = manager.get_hookcallers(module) or []
    unknown = [caller.name for caller in callers if not caller.has_spec()]
    if unknown:
        known = ", ".join(name for name in dir(hookspecs) if name.startswith("unirep_"))
        manager.unregister(module)
        raise PluginError(f"unknown hook {', '.join(unknown)}; known ones: {known}")


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


def _cause(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, UnirepError) else f"{type(error).__name__}: {text}"[:300]


@contextmanager
def blamed(part: Registered, doing: str) -> Iterator[None]:
    """Turn an exception of a plugin's code into one line that names plugin, part and step."""
    try:
        yield
    except UnirepError:
        raise
    except Exception as error:
        raise PluginError(
            f"plugin {part.plugin.name!r} ({part.plugin.distribution} {part.plugin.version}) "
            f"failed to {doing} {part.role} {part.name!r}: {_cause(error)}"
        ) from error
