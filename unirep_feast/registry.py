"""What plugins offer: the parts of a trio, and tasks, each under a name that a spec can say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

import unirep_feast
from unirep_feast.blame import Part
from unirep_feast.errors import PluginError, UnusablePluginError
from unirep_feast.spec_file import problems

Role = Literal["encoder", "objective", "sampler"]
ROLES: tuple[Role, ...] = ("encoder", "objective", "sampler")

#: What a plugin can offer: the parts of a trio, and tasks to evaluate any of them on.
Offer = Literal[Role, "task"]
OFFERS: tuple[Offer, ...] = (*ROLES, "task")

#: Names plugins and distributions that are never loaded.
BLOCK_VARIABLE = "UNIREP_BLOCK_PLUGINS"


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
        api: the plugin API that host and plugin agreed on.
    """

    name: str
    distribution: str
    version: str
    state: Literal["ready", "broken", "blocked"] = "ready"
    reason: str = ""
    offers: tuple[str, ...] = ()
    api: int = unirep_feast.API_VERSION

    def owns(self, name: object) -> bool:
        """Whether it may register something under a name."""
        return isinstance(name, str) and (name == self.name or name.startswith(f"{self.name}."))


@dataclass(frozen=True)
class Registered:
    """Something a plugin offers: how to build it and what settings it takes."""

    role: Offer
    name: str
    build: Callable[..., Any]
    settings: type[BaseModel]
    plugin: Plugin
    prepare: Callable[..., Any] | None = None

    @property
    def identity(self) -> dict[str, str]:
        """Where it comes from, as checkpoints and catalog rows say it."""
        return {
            "name": self.name,
            "plugin": self.plugin.name,
            "distribution": self.plugin.distribution,
            "version": self.plugin.version,
        }

    @property
    def part(self) -> Part:
        """It, for messages."""
        return Part.of(self.role, self.identity)

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
    parts: dict[tuple[Offer, str], Registered] = field(default_factory=dict)
    contested: dict[tuple[Offer, str], list[Plugin]] = field(default_factory=dict)

    def names(self, role: Offer) -> list[str]:
        """Return the registered names of a role, sorted."""
        return sorted(name for found, name in self.parts if found == role)

    def get(self, role: Offer, name: str) -> Registered:
        """Look up what a spec names.

        Raises:
            PluginError: nobody offers it, or two distributions do; a broken plugin of that name is
                named with its reason.
        """
        key = (role, name)
        if key in self.contested:
            rivals = " and ".join(f"{p.distribution} {p.version}" for p in self.contested[key])
            raise PluginError(
                f"{role} {name!r} belongs to nobody: plugin {self.contested[key][0].name!r} is "
                f"registered by {rivals}; uninstall one, or block it with {BLOCK_VARIABLE}"
            )
        if key in self.parts:
            return self.parts[key]
        for plugin in self.plugins:
            if plugin.state != "ready" and plugin.owns(name):
                raise UnusablePluginError(
                    f"{role} {name!r} needs plugin {plugin.name!r} of {plugin.distribution} "
                    f"{plugin.version}, which is {plugin.state}: {plugin.reason}",
                    plugin.name,
                )
        known = ", ".join(self.names(role)) or "none"
        raise PluginError(
            f"no plugin offers {role} {name!r}; found: {known}; install the plugin, or see "
            "`unirep plugins list`"
        )
