"""The compliance kit: subclass a class, supply one fixture, and inherit the checks.

::

    import pytest
    from unirep_feast.testing import EncoderTests, Recipe, registered

    class TestAcmeEncoder(EncoderTests):
        @pytest.fixture
        def recipe(self) -> Recipe:
            return registered("acme", settings={"encoder": {"dim": 16}})

``EncoderTests``, ``ObjectiveTests`` and ``SamplerTests`` want a :class:`Recipe`, ``PluginTests`` an
entry point. A check may be overridden only under ``@pytest.mark.xfail(reason=...)``; the kit tests
that too. Needs pytest: ``pip install 'unirep-feast[testing]'``.

Names are loaded when they are asked for: importing this package imports neither torch nor pytest.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unirep_feast.testing.encoder_tests import EncoderTests
    from unirep_feast.testing.objective_tests import ObjectiveTests
    from unirep_feast.testing.plugin_tests import PluginTests, installed
    from unirep_feast.testing.recipe import Recipe, registered, registry_of
    from unirep_feast.testing.sampler_tests import SamplerTests
    from unirep_feast.testing.world import World, make_sequences, make_world

_HOMES = {
    "EncoderTests": "encoder_tests",
    "ObjectiveTests": "objective_tests",
    "PluginTests": "plugin_tests",
    "Recipe": "recipe",
    "SamplerTests": "sampler_tests",
    "World": "world",
    "installed": "plugin_tests",
    "make_sequences": "world",
    "make_world": "world",
    "registered": "recipe",
    "registry_of": "recipe",
}

__all__ = [
    "EncoderTests",
    "ObjectiveTests",
    "PluginTests",
    "Recipe",
    "SamplerTests",
    "World",
    "installed",
    "make_sequences",
    "make_world",
    "registered",
    "registry_of",
]


def __getattr__(name: str) -> Any:
    """Load a name's module when the name is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
