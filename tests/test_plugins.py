"""Finding plugins: over real distributions, whatever state they are in."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from click.testing import Result

from unirep_feast import hookspecs
from unirep_feast.errors import PluginError
from unirep_feast.plugins import load_plugins
from unirep_feast.registry import Plugin, Registry

GOOD = """
from pydantic import BaseModel
from unirep_feast import hookimpl

class Settings(BaseModel, extra="forbid"):
    size: int = 3

@hookimpl
def unirep_register_encoders(register):
    register("{name}", lambda settings, vocabulary, prepared: None, Settings)
    register("{name}.other", lambda settings, vocabulary, prepared: None, Settings)
"""

Install = Callable[..., None]


@pytest.fixture
def install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh_plugins: None
) -> Iterator[Install]:
    """Install plugins as pip would: a package and a dist-info folder on ``sys.path``."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("PYTHONPATH", str(site))
    made: list[str] = []

    def write(
        name: str, source: str = GOOD, distribution: str | None = None, version: str = "1.0"
    ) -> None:
        distribution = distribution or f"unirep-feast-{name}"
        module = distribution.replace("-", "_")
        made.append(module)
        (site / f"{module}.py").write_text(textwrap.dedent(source.replace("{name}", name)))
        info = site / f"{module}-{version}.dist-info"
        info.mkdir()
        metadata = f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n"
        (info / "METADATA").write_text(metadata)
        (info / "entry_points.txt").write_text(f"[unirep_feast]\n{name} = {module}\n")
        load_plugins.cache_clear()

    yield write
    for module in made:
        sys.modules.pop(module, None)


def state_of(name: str) -> Plugin:
    return next(plugin for plugin in load_plugins().plugins if plugin.name == name)


def test_every_installed_plugin_is_ready() -> None:
    """All plugins of this environment, found over their real entry points, work."""
    registry = load_plugins()

    found = {plugin.name for plugin in registry.plugins}
    assert found == {point.name for point in entry_points(group="unirep_feast")}
    assert [p for p in registry.plugins if p.state == "broken"] == []


def test_an_installed_distribution_is_found(install: Install) -> None:
    """A plugin is known by its entry point; name, distribution, version, offers are told."""
    install("acme", version="2.5")

    plugin = state_of("acme")

    assert plugin == Plugin(
        "acme", "unirep-feast-acme", "2.5", "ready", "", ("encoder acme", "encoder acme.other")
    )
    assert load_plugins().get("encoder", "acme.other").settings().size == 3


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import no_such_module_here", "ModuleNotFoundError: No module named"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("raise RuntimeError('two\\nlines')", "RuntimeError: two lines"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        ("def broken(:", "SyntaxError"),
        (
            "UNIREP_API = 99" + GOOD,
            "speaks plugin API 99, this host speaks 1; install a newer unirep-feast",
        ),
        (
            GOOD.replace("register_encoders", "register_encodrs"),
            "unknown hook unirep_register_encodrs; did you mean unirep_register_encoders? known "
            "ones: unirep_register_encoders, "
            "unirep_register_objectives, unirep_register_samplers, unirep_register_tasks",
        ),
        (GOOD.replace('"{name}.other"', '"other"'), "encoder 'other': wanted the name 'acme' or"),
        (GOOD.replace('"{name}.other"', '"acmeother"'), "one that begins with 'acme.'"),
        (GOOD.replace('"{name}.other"', '"{name}"'), "encoder 'acme' is registered twice"),
        (GOOD.replace(', extra="forbid"', ""), "Settings must set extra='forbid'"),
        (GOOD.replace("= 3", ""), "Settings has no default for size"),
        (GOOD.replace("(register):", "(registrar):"), "PluginValidationError"),
        (
            GOOD.replace("None, Settings", "None, dict"),
            "settings is <class 'dict'>; wanted a pydantic model",
        ),
        (GOOD.replace("lambda settings, vocabulary, prepared: None", "7"), "build is 7; wanted a"),
        (GOOD.replace('"{name}.other", ', ""), "TypeError"),
    ],
)
def test_a_broken_plugin_is_listed_with_its_reason(
    install: Install, source: str, reason: str
) -> None:
    """Whatever is wrong with a plugin is told in one line; it offers nothing, others work."""
    install("acme", source)
    install("sound")

    broken, registry = state_of("acme"), load_plugins()

    assert broken.state == "broken"
    assert reason in broken.reason
    assert "\n" not in broken.reason
    assert broken.offers == ()
    assert state_of("sound").state == "ready"
    assert registry.get("encoder", "sound").plugin.name == "sound"
    with pytest.raises(PluginError, match=r"unirep-feast-acme 1\.0, which is broken: ") as caught:
        registry.get("encoder", "acme.other")
    assert reason in str(caught.value)


def test_a_name_of_two_distributions_names_both(install: Install) -> None:
    """What two distributions register belongs to neither, until one is blocked."""
    install("acme", distribution="acme-one")
    install("acme", distribution="acme-two", version="2.0")

    with pytest.raises(PluginError) as caught:
        load_plugins().get("encoder", "acme")

    assert "acme-one 1.0 and acme-two 2.0" in str(caught.value)
    assert "UNIREP_BLOCK_PLUGINS" in str(caught.value)


def test_one_of_two_rivals_can_be_blocked(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one distribution blocked, the name is the other's."""
    install("acme", distribution="acme-one")
    install("acme", distribution="acme-two")
    monkeypatch.setenv("UNIREP_BLOCK_PLUGINS", "acme-one")

    assert load_plugins().get("encoder", "acme").plugin.distribution == "acme-two"


def test_an_unknown_name_lists_the_known_ones(install: Install) -> None:
    """A name that nobody offers is answered with those that are."""
    install("acme")

    with pytest.raises(PluginError) as caught:
        load_plugins().get("encoder", "amce")

    assert "no plugin offers encoder 'amce'; found: acme, acme.other" in str(caught.value)


@pytest.mark.parametrize("listed", ["acme", "unirep-feast-acme", " Unirep_Feast.Acme , x"])
def test_the_block_list_names_plugins_or_distributions(
    install: Install, monkeypatch: pytest.MonkeyPatch, listed: str
) -> None:
    """A blocked plugin is not even imported, and says which variable blocks it."""
    install("acme", "raise RuntimeError('imported')")
    monkeypatch.setenv("UNIREP_BLOCK_PLUGINS", listed)

    plugin = state_of("acme")

    assert (plugin.state, plugin.reason) == ("blocked", "named in UNIREP_BLOCK_PLUGINS")
    with pytest.raises(PluginError, match="which is blocked: named in UNIREP_BLOCK_PLUGINS"):
        load_plugins().get("encoder", "acme")


def test_the_allow_list_blocks_all_others(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With an allow-list only what it names is loaded; an empty one loads nothing."""
    install("acme")
    install("other")
    monkeypatch.setenv("UNIREP_LOAD_PLUGINS", "acme")

    states = {plugin.name: plugin.state for plugin in load_plugins().plugins}

    assert states["acme"] == "ready"
    assert {state for name, state in states.items() if name != "acme"} == {"blocked"}
    assert state_of("other").reason == "not named in UNIREP_LOAD_PLUGINS"
    load_plugins.cache_clear()
    monkeypatch.setenv("UNIREP_LOAD_PLUGINS", "")
    assert {plugin.state for plugin in load_plugins().plugins} == {"blocked"}


def test_hooks_can_be_traced(
    install: Install, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """UNIREP_TRACE_HOOKS writes every call of a hook to stderr, and nothing is without it."""
    install("acme")
    load_plugins()
    assert capfd.readouterr().err == ""

    monkeypatch.setenv("UNIREP_TRACE_HOOKS", "1")
    load_plugins.cache_clear()
    load_plugins()

    assert "unirep_register_encoders [hook]" in capfd.readouterr().err


def test_the_list_is_text_for_people(install: Install, cli: Callable[..., Result]) -> None:
    """`plugins list` shows name, distribution, version, state, offers, reasons and clashes."""
    install("acme", version="3.1")
    install("wrong", "import nothing_of_that_name")
    install("twin", distribution="twin-a")
    install("twin", distribution="twin-b")

    result = cli("plugins", "list")

    lines = result.stdout.splitlines()
    assert result.exit_code == 0
    assert "acme  unirep-feast-acme 3.1  ready" in lines
    assert lines[lines.index("acme  unirep-feast-acme 3.1  ready") + 1] == "    encoder acme"
    assert "wrong  unirep-feast-wrong 1.0  broken" in lines
    assert "    ModuleNotFoundError: No module named 'nothing_of_that_name'" in lines
    assert "clash: encoder 'twin' is registered by twin-a and twin-b" in lines


def test_the_list_is_json_for_scripts(install: Install, cli: Callable[..., Result]) -> None:
    """`plugins list --json` prints one list, with the reason of what is broken."""
    install("acme")
    install("wrong", "1 / 0")

    listed = json.loads(cli("plugins", "list", "--json").stdout)

    by_name = {plugin["name"]: plugin for plugin in listed}
    assert by_name["acme"]["offers"] == ["encoder acme", "encoder acme.other"]
    assert by_name["acme"]["version"] == "1.0"
    assert by_name["wrong"]["state"] == "broken"
    assert by_name["wrong"]["reason"] == "ZeroDivisionError: division by zero"


def test_no_plugin_at_all_says_what_to_install(
    cli: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without any plugin `list` says how to get one."""
    monkeypatch.setattr("unirep_feast.plugins.load_plugins", Registry)

    assert "pip install unirep-feast-clue" in cli("plugins", "list").stdout


@pytest.mark.parametrize("name", [n for n in dir(hookspecs) if n.startswith("unirep_")])
def test_every_hook_is_documented_in_full(name: str) -> None:
    """A hook says when it is called, in what order, its arguments, result, and an example."""
    text = inspect.getdoc(getattr(hookspecs, name))

    assert text is not None
    for section in ("**When**", "Args:", "Returns:", "The host checks", "Example:"):
        assert section in text, section
    assert "**order**" in text.lower()
    assert "@hookimpl" in text


def test_hook_modules_are_light() -> None:
    """Looking at plugins imports no torch: a hook module imports it inside its builders."""
    code = (
        "import sys; from unirep_feast.plugins import load_plugins; load_plugins(); "
        "sys.exit('torch' in sys.modules)"
    )

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
