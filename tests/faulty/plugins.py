"""Plugins that each break one promise; the kit must fail them. Run by test_testing_kit.py.

Each hook module is a file of its own in ``hooks/``, since what it imports is part of the promise.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest

from unirep_feast.plugins import GROUP
from unirep_feast.testing import PluginTests


def hooks(module: str, name: str = "bad") -> EntryPoint:
    return EntryPoint(name, module, GROUP)


class TestImportsTorch(PluginTests):
    @pytest.fixture
    def entry_point(self) -> EntryPoint:
        return hooks("hooks_torch")


class TestFailsOnImport(PluginTests):
    @pytest.fixture
    def entry_point(self) -> EntryPoint:
        return hooks("hooks_broken")


class TestNoDefaults(PluginTests):
    @pytest.fixture
    def entry_point(self) -> EntryPoint:
        return hooks("hooks_no_defaults")


class TestLaxSettings(PluginTests):
    @pytest.fixture
    def entry_point(self) -> EntryPoint:
        return hooks("hooks_lax")


class TestForeignName(PluginTests):
    @pytest.fixture
    def entry_point(self) -> EntryPoint:
        return hooks("hooks_foreign")


class TestRegistersTwice(PluginTests):
    @pytest.fixture
    def entry_point(self) -> EntryPoint:
        return hooks("hooks_twice")


class TestMisspeltHook(PluginTests):
    @pytest.fixture
    def entry_point(self) -> EntryPoint:
        return hooks("hooks_misspelt")


class TestOffersNothing(PluginTests):
    @pytest.fixture
    def entry_point(self) -> EntryPoint:
        return hooks("hooks_nothing")


class TestChangesInYaml(PluginTests):
    @pytest.fixture
    def entry_point(self) -> EntryPoint:
        return hooks("hooks_yaml")


class TestUndescribed(PluginTests):
    @pytest.fixture
    def entry_point(self) -> EntryPoint:
        return hooks("hooks_undescribed")


class TestMisfit(PluginTests):
    @pytest.fixture
    def entry_point(self) -> EntryPoint:
        return hooks("hooks_misfit")


class TestForgetsTheEntryPoint(PluginTests):
    """Supplies nothing at all."""
