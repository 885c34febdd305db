"""Plugins that each break one promise: `unirep` says so in one line, before anything is spoilt."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from unirep_feast.cli import main
from unirep_feast.plugins import load_plugins

#: A plugin of somebody else's, sound: its parts are the toy's under names of their own.
HOOKS = """
from pydantic import BaseModel, Field
from unirep_feast import hookimpl
from unirep_feast.testing.toy.hooks import (
    ToyEncoderSettings as EncoderSettings,
    ToyObjectiveSettings as ObjectiveSettings,
    ToySamplerSettings as SamplerSettings,
)

@hookimpl
def unirep_register_encoders(register):
    def build(settings, vocabulary, prepared):
        from acme_parts import Encoder
        return Encoder(len(vocabulary), settings)
    register("acme", build, EncoderSettings)

@hookimpl
def unirep_register_objectives(register):
    def build(settings, encoder):
        from acme_parts import Objective
        return Objective(encoder.num_vectors * encoder.dim, settings)
    register("acme", build, ObjectiveSettings)

@hookimpl
def unirep_register_samplers(register):
    def build(settings):
        from acme_parts import Sampler
        return Sampler(settings)
    register("acme", build, SamplerSettings)
"""

PARTS = """
from dataclasses import replace
import torch
from torch import nn
from unirep_feast.encoder import Encoded
from unirep_feast.testing.toy.parts import ToyEncoder, ToyObjective, ToySampler

class Encoder(ToyEncoder):
    def turned(self, batch, steps, change):
        encoded = super().forward(batch, steps=steps)
        return replace(encoded, users=change(encoded.users))

class Objective(ToyObjective): pass
class Sampler(ToySampler): pass
"""

OWN = "plugin 'acme' (unirep-feast-acme 1.0): "
UNUSABLE = "encoder 'acme' needs plugin 'acme' of unirep-feast-acme 1.0, which is broken: "


def in_hooks(old: str, new: str) -> dict[str, str]:
    assert HOOKS.count(old) == 1, old
    return {"hooks": HOOKS.replace(old, new)}


def in_encoder(body: str) -> dict[str, str]:
    return {
        "parts": PARTS.replace(
            "class Objective", textwrap.indent(body, "    ") + "\nclass Objective"
        )
    }


def in_objective(body: str) -> dict[str, str]:
    return {
        "parts": PARTS.replace(
            "(ToyObjective): pass", f"(ToyObjective):\n{textwrap.indent(body, '    ')}"
        )
    }


def in_sampler(body: str) -> dict[str, str]:
    return {
        "parts": PARTS.replace(
            "(ToySampler): pass", f"(ToySampler):\n{textwrap.indent(body, '    ')}"
        )
    }


#: What is wrong with a plugin, and the whole line that `unirep train` ends in.
FAULTS: dict[str, tuple[dict[str, str], str]] = {
    "import error": (
        {"hooks": "import a_package_that_nobody_has\n" + HOOKS},
        UNUSABLE + "ModuleNotFoundError: No module named 'a_package_that_nobody_has'",
    ),
    "misspelt hook": (
        in_hooks("def unirep_register_samplers", "def unirep_register_sampler"),
        UNUSABLE + "unknown hook unirep_register_sampler; did you mean unirep_register_samplers? "
        "known ones: {hooks}",
    ),
    "hook without its mark": (
        in_hooks("@hookimpl\ndef unirep_register_objectives", "def unirep_register_objectives"),
        UNUSABLE + "unirep_register_objectives is not marked as a hook; put @hookimpl of "
        "unirep_feast above it",
    ),
    "duplicate name": (
        in_hooks(
            'register("acme", build, EncoderSettings)',
            'register("acme", build, EncoderSettings); register("acme", build, EncoderSettings)',
        ),
        UNUSABLE + "unirep_register_encoders: encoder 'acme' is registered twice",
    ),
    "somebody else's name": (
        in_hooks(
            'register("acme", build, EncoderSettings)', 'register("lab", build, EncoderSettings)'
        ),
        UNUSABLE + "unirep_register_encoders: encoder 'lab': wanted the name 'acme' or one that "
        "begins with 'acme.'",
    ),
    "settings without defaults": (
        in_hooks(
            'register("acme", build, SamplerSettings)',
            'class Bare(BaseModel, extra="forbid"):\n        gap_days: int\n'
            '    register("acme", build, Bare)',
        ),
        UNUSABLE + "unirep_register_samplers: sampler 'acme': Bare has no default for gap_days",
    ),
    "another API": (
        {"hooks": HOOKS + "\nUNIREP_API = (2, 3)\n"},
        UNUSABLE + "speaks plugin API 2 and 3, this host speaks 1; install a newer unirep-feast",
    ),
    "a hook that raises": (
        in_hooks('register("acme", build, EncoderSettings)', "1 / 0"),
        UNUSABLE + "unirep_register_encoders: ZeroDivisionError: division by zero",
    ),
    "wrong K": (
        in_encoder("num_vectors = 2"),
        OWN + "encoder 'acme' returned users (9, 1, 8); it declares (B, K, D) = (9, 2, 8)",
    ),
    "wrong D": (
        in_encoder(
            "def forward(self, batch, *, steps=False):\n"
            "    return self.turned(batch, steps, lambda users: users[..., :-1])"
        ),
        OWN + "encoder 'acme' returned users (9, 1, 7); it declares (B, K, D) = (9, 1, 8)",
    ),
    "NaN": (
        in_encoder(
            "def forward(self, batch, *, steps=False):\n"
            "    return self.turned(batch, steps, lambda users: users / "
            "batch.lengths[:, None, None].sign())"
        ),
        OWN + "encoder 'acme': the vectors of rows without events hold NaN or infinity; look for a "
        "division by a count of zero or a softmax over nothing; if the model diverged, train with "
        "a lower training.learning_rate",
    ),
    "padding-dependent": (
        in_encoder(
            "def forward(self, batch, *, steps=False):\n"
            "    return self.turned(batch, steps, lambda users: users + 1 / batch.width)"
        ),
        OWN + "encoder 'acme' gives other vectors in a batch 16 instead of 8 steps wide: they "
        "depend on padding; mask what is no event (batch.mask) (by up to 0.062)",
    ),
    "batch-dependent": (
        in_encoder(
            "def forward(self, batch, *, steps=False):\n"
            "    place = torch.arange(len(batch))[:, None, None]\n"
            "    return self.turned(batch, steps, lambda users: users + place)"
        ),
        OWN + "encoder 'acme' gives other vectors beside other users, or in another row: they "
        "depend on the rest of the batch; compute every row from its own events (by up to 5)",
    ),
    "non-deterministic in eval": (
        in_encoder(
            "calls = 0\n"
            "def forward(self, batch, *, steps=False):\n"
            "    self.calls += 1\n"
            "    return self.turned(batch, steps, lambda users: users + self.calls)"
        ),
        OWN + "encoder 'acme' gives other vectors when it encodes the same histories again in "
        "eval(); switch off what is random there, and change no state in forward (by up to 1)",
    ),
    "future-peeking encoder": (
        in_encoder(
            "longest = None\n"
            "def forward(self, batch, *, steps=False):\n"
            "    if self.longest is None:\n"
            "        self.longest = batch.lengths * 0.0\n"
            "    self.longest = torch.maximum(self.longest, batch.lengths[: len(self.longest)])\n"
            "    memory = self.longest[:, None, None]\n"
            "    return self.turned(batch, steps, lambda users: users + memory)"
        ),
        OWN + "encoder 'acme' gives other vectors of the past once it has encoded later events: "
        "the future leaks into the past; keep no histories and no state of users between calls "
        "(by up to {number})",
    ),
    "future-peeking sampler": (
        in_sampler(
            "def sample(self, sequences, units, draw):\n"
            "    views = dict(super().sample(sequences, units, draw))\n"
            "    views['earlier'] = replace(views['later'], as_of=views['earlier'].as_of)\n"
            "    return views"
        ),
        OWN + "sampler 'acme': view 'earlier' holds {number} events at or after the as_of of their "
        "row: the future leaks into the past; end a view at sequences.locate(users, as_of)",
    ),
    "sampler past the cut-off": (
        in_sampler(
            "def sample(self, sequences, units, draw):\n"
            "    hi = (sequences.ends[units.users] + 1).clamp(max=len(sequences.times))\n"
            "    until = torch.full_like(hi, sequences.until)\n"
            "    views = dict(super().sample(sequences, units, draw))\n"
            "    views['later'] = sequences.window(units.users, hi - 2, hi, until)\n"
            "    return views"
        ),
        OWN + "sampler 'acme': view 'later' holds {number} events later than the last one of their "
        "user before the cut-off: it reads past sequences.ends, where the next user's events begin",
    ),
    "sampler without a seed": (
        in_sampler(
            "def sample(self, sequences, units, draw):\n"
            "    chance = int(torch.randint(1 << 30, ()))\n"
            "    return super().sample(sequences, units, replace(draw, seed=chance))"
        ),
        OWN + "sampler 'acme': view 'earlier' has other codes when the same step is drawn "
        "again, so that no training could be resumed; take random numbers from draw.generator() "
        "and keep no state",
    ),
    "as-of time undeclared": (
        in_encoder(
            "def forward(self, batch, *, steps=False):\n"
            "    age = (batch.as_of.double() / 1e15).float()[:, None, None]\n"
            "    return self.turned(batch, steps, lambda users: users + age)"
        ),
        OWN + "encoder 'acme' changes vectors with the as-of time alone, and declares that it does "
        "not; set depends_on_as_of = True, or leave batch.as_of alone (by up to 0.0026)",
    ),
    "an encoder that raises": (
        in_encoder(
            "def forward(self, batch, *, steps=False):\n"
            "    if self.training:\n"
            "        raise RuntimeError('no\\nmore embeddings')\n"
            "    return super().forward(batch, steps=steps)"
        ),
        OWN + "encoder 'acme' failed in forward at step 1: RuntimeError: no more embeddings; "
        "`unirep --verbose` shows where",
    ),
    "an objective that raises": (
        in_objective("def forward(self, encoder, views):\n    raise KeyError('tomorrow')"),
        OWN + "objective 'acme' failed in forward at step 1: KeyError: 'tomorrow'; "
        "`unirep --verbose` shows where",
    ),
    "a sampler that raises": (
        in_sampler("def units(self, sequences):\n    raise SystemExit(3)"),
        OWN + "sampler 'acme' failed in units before the start: SystemExit: 3; "
        "`unirep --verbose` shows where",
    ),
    "a builder that raises": (
        in_hooks("return Encoder(len(vocabulary), settings)", "return Encoder(settings)"),
        OWN + "encoder 'acme' failed in build: TypeError: ToyEncoder.__init__() missing 1 required "
        "positional argument: 'settings'; `unirep --verbose` shows where",
    ),
}


@pytest.fixture
def acme(
    tmp_path: Path, shop: Any, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., None]]:
    """Install the plugin as pip would, sound but for what is given; the shop's spec names it."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("PYTHONPATH", str(site))
    shop.spec["encoder"] = {}
    shop.write(plugin="acme")

    def install(
        hooks: str = HOOKS, parts: str = PARTS, distribution: str = "unirep-feast-acme"
    ) -> None:
        module = "acme_hooks" if distribution == "unirep-feast-acme" else distribution
        (site / f"{module}.py").write_text(hooks)
        (site / "acme_parts.py").write_text(parts)
        info = site / f"{distribution.replace('-', '_')}-1.0.dist-info"
        info.mkdir(exist_ok=True)
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n"
        )
        (info / "entry_points.txt").write_text(f"[unirep_feast]\nacme = {module}\n")
        forget()

    def forget() -> None:
        load_plugins.cache_clear()
        for module in ("acme_hooks", "acme_parts", "rival"):
            sys.modules.pop(module, None)

    yield install
    forget()


def expected(line: str) -> str:
    """A line with what no author can know in advance filled in: which hooks there are."""
    from unirep_feast import hookspecs

    hooks = ", ".join(name for name in dir(hookspecs) if name.startswith("unirep_"))
    return line.replace("{hooks}", hooks)


def agrees(found: str, line: str) -> bool:
    """Equal, where ``{number}`` stands for any number."""
    head, marker, tail = line.partition("{number}")
    if not marker:
        return found == line
    number = found.removeprefix(head).removesuffix(tail)
    return found == head + number + tail and float(number) > 0


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_plugin_is_refused_in_one_clear_line(
    fault: str,
    acme: Callable[..., None],
    shop: Any,
    cli: Callable[..., Result],
    refusal: Callable[[Result], str],
) -> None:
    """`unirep train` says what is wrong, whose it is and what to do; no run finishes."""
    changed, line = FAULTS[fault]
    acme(**changed)

    found = refusal(cli("train", shop.path)).removeprefix("Error: ")

    assert agrees(found, expected(line)), found
    assert all(run.status != "finished" for run in shop.runs())
    shop.assert_nothing_half_written()


def test_the_sound_plugin_is_not_refused(
    acme: Callable[..., None], shop: Any, cli: Callable[..., Result]
) -> None:
    """What all faulty ones are made from trains, encodes, and keeps every promise of the kit."""
    acme()

    assert cli("train", shop.path).exit_code == 0
    assert cli("encode", shop.path, "--as-of", "2020-03-10").exit_code == 0
    report = json.loads(cli("plugins", "check", "acme", "--json").stdout)
    assert report["passed"], [c for c in report["checks"] if c["outcome"] == "failed"]


@pytest.mark.parametrize(
    "fault", ["padding-dependent", "batch-dependent", "future-peeking encoder", "NaN", "wrong D"]
)
def test_encoding_refuses_what_training_has_not_seen(
    fault: str,
    acme: Callable[..., None],
    shop: Any,
    cli: Callable[..., Result],
    refusal: Callable[[Result], str],
) -> None:
    """A plugin that was changed after the training is tried again before it encodes."""
    acme()
    assert cli("train", shop.path).exit_code == 0
    changed, line = FAULTS[fault]
    acme(**changed)

    found = refusal(cli("encode", shop.path, "--as-of", "2020-03-10")).removeprefix("Error: ")

    assert found.split(" (by up to")[0] == line.split(" (by up to")[0], found
    assert not list(shop.home.glob("snapshots/*/*.parquet"))
    shop.assert_nothing_half_written()


def test_what_peeks_when_it_is_prepared_is_found_by_the_kit(
    acme: Callable[..., None], cli: Callable[..., Result]
) -> None:
    """The host hands `prepare` nothing later than the cut-off; in another host it would peek."""
    hooks = HOOKS.replace(
        "return Encoder(len(vocabulary), settings)",
        "encoder = Encoder(len(vocabulary), settings)\n"
        "        encoder.register_buffer('latest', prepared['latest'])\n"
        "        return encoder",
    ).replace(
        'register("acme", build, EncoderSettings)',
        "def prepare(settings, vocabulary, sequences, fit):\n"
        "        return {'latest': sequences.times.max()[None]}\n"
        '    register("acme", build, EncoderSettings, prepare)',
    )
    acme(hooks)

    report = json.loads(cli("plugins", "check", "acme", "--json").stdout)

    broken = {c["promise"]: c["message"] for c in report["checks"] if c["outcome"] == "failed"}
    assert any("'latest' depends on events after the cut-off" in m for m in broken.values()), broken


def test_a_namesake_shadows_nothing(
    acme: Callable[..., None],
    shop: Any,
    cli: Callable[..., Result],
    refusal: Callable[[Result], str],
) -> None:
    """A second distribution of a plugin's name takes nothing of it over: both are named."""
    acme(HOOKS.split("@hookimpl\ndef unirep_register_samplers")[0])
    sampler = HOOKS.split("@hookimpl")[0] + "@hookimpl" + HOOKS.split("@hookimpl")[3]
    acme(sampler, distribution="rival")

    found = refusal(cli("train", shop.path))

    for part in ("encoder 'acme'", "objective 'acme'", "sampler 'acme'"):
        assert (
            f"{part} belongs to nobody: plugin 'acme' is registered by rival 1.0 and "
            "unirep-feast-acme 1.0; uninstall one, or block it with UNIREP_BLOCK_PLUGINS"
        ) in found


def test_verbose_shows_the_whole_trace(acme: Callable[..., None], shop: Any) -> None:
    """The line ends in how to see more; `unirep --verbose` shows the plugin's own frames."""
    changed, _ = FAULTS["an objective that raises"]
    acme(**changed)

    result = CliRunner().invoke(main, ["--verbose", "train", str(shop.path)])

    error: BaseException | None = result.exception
    assert type(error).__name__ == "PluginError"
    assert isinstance(error.__cause__, KeyError)
    frames, trace = [], error.__cause__.__traceback__
    while trace is not None:
        frames.append(trace.tb_frame.f_code.co_filename)
        trace = trace.tb_next
    assert Path(frames[-1]).name == "acme_parts.py"


def test_the_allow_list_names_distributions(
    acme: Callable[..., None],
    shop: Any,
    cli: Callable[..., Result],
    refusal: Callable[[Result], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is not on the list is not even imported, and says which list it is missing from."""
    acme("raise SystemError('imported')")
    monkeypatch.setenv("UNIREP_LOAD_PLUGINS", "unirep-feast-clue")

    assert refusal(cli("train", shop.path)) == (
        "Error: encoder 'acme' needs plugin 'acme' of unirep-feast-acme 1.0, which is blocked: "
        "not named in UNIREP_LOAD_PLUGINS"
    )


def test_the_newest_api_that_both_speak_is_used(
    acme: Callable[..., None], cli: Callable[..., Result]
) -> None:
    """A plugin may speak several; the list says which one is spoken."""
    acme(HOOKS + "\nUNIREP_API = (1, 7)\n")

    listed = {one["name"]: one for one in json.loads(cli("plugins", "list", "--json").stdout)}

    assert (listed["acme"]["state"], listed["acme"]["api"]) == ("ready", 1)


def test_settings_of_a_plugin_are_told_with_the_known_ones(
    acme: Callable[..., None], shop: Any, cli: Any, refusal: Any
) -> None:
    """A misspelt setting of a sound plugin is refused with the names it could have been."""
    acme()
    shop.path.write_text(yaml.safe_dump({**shop.spec, "encoder": {"settings": {"dims": 3}}}))

    assert "unknown key `dims`; (the settings of encoder 'acme' are dim, max_events)" in refusal(
        cli("train", shop.path)
    )
