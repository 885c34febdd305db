"""Checks that every plugin passes."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint, entry_points

import pytest
import yaml
from pydantic import BaseModel, ValidationError

from unirep_feast.plugins import GROUP
from unirep_feast.registry import ROLES, Registered, Registry
from unirep_feast.testing.checks import Checks
from unirep_feast.testing.recipe import registered, registry_of
from unirep_feast.testing.world import make_world
from unirep_feast.trio import check_encoder, check_fit

#: What a hook module must not import: each takes seconds, and `unirep --help` would pay for it.
_HEAVY = ("torch", "feast", "sklearn", "transformers")


class PluginTests(Checks):
    """A plugin keeps its contract: light hooks, clean names, settings that survive YAML."""

    @pytest.fixture
    def entry_point(self) -> EntryPoint:
        """The plugin: override this one, for instance with ``return installed("acme")``."""
        raise NotImplementedError(
            f"{type(self).__name__} must override the fixture `entry_point`, for instance with "
            "return installed('acme')"
        )

    @pytest.fixture
    def registry(self, entry_point: EntryPoint) -> Registry:
        """The plugin alone, as the host finds it."""
        return registry_of(entry_point)

    @pytest.fixture
    def offers(self, registry: Registry) -> list[Registered]:
        """Everything it registers."""
        return list(registry.parts.values())

    def test_the_host_takes_it(self, registry: Registry) -> None:
        """It imports, its hooks are known ones, and it offers something."""
        (plugin,) = registry.plugins

        assert plugin.state == "ready", f"plugin {plugin.name!r} is {plugin.state}: {plugin.reason}"
        assert plugin.offers, f"plugin {plugin.name!r} registers nothing"

    def test_hooks_import_nothing_heavy(self, entry_point: EntryPoint) -> None:
        """In a process of its own, the hook module imports neither torch nor feast."""
        program = (
            f"import sys, {entry_point.module}\n"
            f"print(','.join(name for name in {_HEAVY!r} if name in sys.modules))"
        )
        done = subprocess.run(  # noqa: S603
            [sys.executable, "-c", program], capture_output=True, text=True, check=False
        )

        assert done.returncode == 0, f"{entry_point.module} fails on import: {done.stderr}"
        heavy = done.stdout.strip()
        assert not heavy, f"{entry_point.module} imports {heavy}; import it inside the builders"

    def test_names_are_unique_and_prefixed(
        self, entry_point: EntryPoint, registry: Registry, offers: list[Registered]
    ) -> None:
        """``<plugin>`` or ``<plugin>.<thing>``, each once per role."""
        twice = [f"{role} {name}" for role, name in registry.contested]
        assert not twice, f"registered twice: {', '.join(twice)}"
        for part in offers:
            head, _, tail = part.name.partition(".")
            assert head == entry_point.name and (tail or part.name == head), (
                f"{part.role} {part.name!r}: wanted {entry_point.name!r} or "
                f"'{entry_point.name}.<thing>'"
            )

    def test_settings_forbid_unknown_keys(self, offers: list[Registered]) -> None:
        """A misspelt setting is an error, never ignored."""
        for part in offers:
            with pytest.raises(ValidationError, match="no_such_setting"):
                part.settings.model_validate({"no_such_setting": 1})

    def test_settings_have_defaults(self, offers: list[Registered]) -> None:
        """Every setting has one, so that a name alone is enough in a spec."""
        for part in offers:
            lacking = [n for n, f in part.settings.model_fields.items() if f.is_required()]
            assert not lacking, f"{part.role} {part.name!r}: no default for {', '.join(lacking)}"

    def test_settings_survive_yaml(self, offers: list[Registered]) -> None:
        """Defaults written to YAML and read back are equal: specs and checkpoints hold them so."""
        for part in offers:
            settings: BaseModel = part.settings()
            text = yaml.safe_dump(settings.model_dump(mode="json"))
            again = part.settings.model_validate(yaml.safe_load(text))
            assert again == settings, (
                f"{part.role} {part.name!r}: settings change on their way through YAML"
            )

    def test_settings_are_described(self, offers: list[Registered]) -> None:
        """Every field says what it is: that text is all the documentation a user of it sees."""
        for part in offers:
            bare = [n for n, f in part.settings.model_fields.items() if not f.description]
            assert not bare, f"{part.role} {part.name!r}: no description of {', '.join(bare)}"

    def test_the_main_parts_fit(self, entry_point: EntryPoint, registry: Registry) -> None:
        """``plugin: <name>`` in a spec builds, with defaults, a trio whose parts fit each other."""
        main = [role for role in ROLES if (role, entry_point.name) in registry.parts]
        if "encoder" not in main:
            return
        trio = registered(entry_point.name, registry=registry).build(make_world(users=30).past)

        check_encoder(trio.encoder, entry_point.name)
        if trio.objective is not None:
            check_fit(trio)


def installed(name: str) -> EntryPoint:
    """Return the entry point of an installed plugin.

    Raises:
        LookupError: no installed distribution declares it.
    """
    for point in entry_points(group=GROUP):
        if point.name == name:
            return point
    raise LookupError(
        f"no installed plugin {name!r}; install it: pip install -e ., with\n"
        f'[project.entry-points.{GROUP}]\n{name} = "<package>.hooks"'
    )
