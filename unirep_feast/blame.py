"""Whose code it was: what a plugin raises as one line that names plugin, part, hook and step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from unirep_feast.errors import PluginError, UnirepError, one_line


@dataclass(frozen=True)
class Part:
    """A part of a trio, for messages.

    Attributes:
        role: ``encoder``, ``objective`` or ``sampler``.
        name: as registered; the class where it is not.
        plugin: ``plugin 'acme' (unirep-feast-acme 1.0)``; empty where no plugin brought it.
    """

    role: str
    name: str
    plugin: str = ""

    @classmethod
    def of(cls, role: str, identity: Mapping[str, str]) -> Part:
        """Read a part from the identity that checkpoints and trios carry."""
        plugin = ""
        if "plugin" in identity:
            plugin = (
                f"plugin {identity['plugin']!r} ({identity['distribution']} {identity['version']})"
            )
        return cls(role, identity["name"], plugin)

    def __str__(self) -> str:
        """``plugin 'acme' (unirep-feast-acme 1.0): encoder 'acme.gru'``."""
        own = f"{self.role} {self.name!r}"
        return f"{self.plugin}: {own}" if self.plugin else own


def cause(error: BaseException) -> str:
    """What a plugin raised, in one line; expected failures say enough without their type."""
    text = one_line(error, limit=10_000)
    return text if isinstance(error, UnirepError) else f"{type(error).__name__}: {text}"[:300]


def failure(part: Part, hook: str, error: BaseException, when: str = "") -> PluginError:
    """Return the one line for an exception of a plugin's code; raise it ``from`` the exception.

    Args:
        part: whose code it was.
        hook: the function or method that raised, such as ``build`` or ``forward``.
        error: what it raised.
        when: the step, such as ``at step 12``.
    """
    return PluginError(
        f"{part} failed in {hook}{f' {when}' if when else ''}: {cause(error)}; "
        "`unirep --verbose` shows where"
    )


@contextmanager
def blamed(part: Part, hook: str, when: str = "") -> Iterator[None]:
    """Turn an exception of a plugin's code into one line; see :func:`failure`."""
    try:
        yield
    except UnirepError:
        raise
    except (Exception, SystemExit) as error:
        raise failure(part, hook, error, when) from error
