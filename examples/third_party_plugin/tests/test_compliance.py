"""The host's compliance kit over everything this plugin offers."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest

from unirep_feast.testing import (
    EncoderTests,
    ObjectiveTests,
    PluginTests,
    Recipe,
    SamplerTests,
    installed,
    registered,
)


class _Decay:
    @pytest.fixture
    def recipe(self) -> Recipe:
        return registered("decay", settings={"encoder": {"dim": 8, "max_events": 16}})


class TestPlugin(PluginTests):
    @pytest.fixture
    def entry_point(self) -> EntryPoint:
        return installed("decay")


class TestEncoder(_Decay, EncoderTests):
    """The decayed sums."""


class TestObjective(_Decay, ObjectiveTests):
    """The next days' items."""


class TestSampler(_Decay, SamplerTests):
    """The moment and the days behind it."""
