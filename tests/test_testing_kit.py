"""The compliance kit: the toy plugin passes it, and each faulty part is caught by its check."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest

from unirep_feast.testing import (
    EncoderTests,
    ObjectiveTests,
    PluginTests,
    Recipe,
    SamplerTests,
    registered,
    registry_of,
)
from unirep_feast.testing.toy.hooks import ENTRY_POINT


class _Toy:
    @pytest.fixture
    def recipe(self) -> Recipe:
        return registered("toy", registry=registry_of(ENTRY_POINT))


class TestToyEncoder(_Toy, EncoderTests):
    """The toy encoder passes."""


class TestToyObjective(_Toy, ObjectiveTests):
    """The toy objective passes."""


class TestToySampler(_Toy, SamplerTests):
    """The toy sampler passes."""


class TestToyPlugin(PluginTests):
    """The toy plugin passes."""

    @pytest.fixture
    def entry_point(self) -> EntryPoint:
        return ENTRY_POINT
