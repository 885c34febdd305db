"""The trio: chosen with every problem told at once, built, and refused where it does not fit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unirep_feast.config import RepresentationSpec, TrainingConfig
from unirep_feast.encoder import Window
from unirep_feast.errors import ContractError, PluginError, SpecError
from unirep_feast.plugins import load_plugins
from unirep_feast.registry import Registry
from unirep_feast.spec_file import parse_spec
from unirep_feast.testing.world import World, make_world
from unirep_feast.trainer import Trainer
from unirep_feast.trio import Trio, build_trio, check_declared, choose, part_problems

pytestmark = pytest.mark.usefixtures("lab")


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(users=40, items=20)


def spec_of(**parts: Any) -> RepresentationSpec:
    raw = {"name": "shop", "events": {"path": "made"}, "plugin": "lab", **parts}
    return parse_spec(raw, "spec")


def build(world: World, **parts: Any) -> Trio:
    choice = choose(spec_of(**parts), load_plugins())
    return build_trio(choice, world.vocabulary, world.past.items, {})


def test_a_plugin_gives_all_three_parts(world: World) -> None:
    """A spec that names a plugin gets its encoder, objective and sampler, with their origin."""
    choice = choose(spec_of(), load_plugins())

    assert choice.trains
    assert set(choice.identity()) == {"encoder", "objective", "sampler"}
    assert choice.identity()["encoder"] == {
        "name": "lab",
        "plugin": "lab",
        "distribution": "unirep-feast-lab",
        "version": "1.0",
    }
    assert build(world).encoder.dim == 8


def test_an_unknown_part_lists_the_known_ones() -> None:
    """A name that nobody registered is answered with the names that are."""
    with pytest.raises(PluginError) as caught:
        choose(spec_of(encoder={"name": "lab.nothing"}), load_plugins())

    message = str(caught.value)
    assert "no plugin offers encoder 'lab.nothing'; found: " in message
    assert "lab, lab.bare, lab.prepared" in message


def test_all_problems_of_settings_come_at_once() -> None:
    """Wrong settings of several parts, and an unknown part, are one error in one line."""
    with pytest.raises(SpecError) as caught:
        choose(
            spec_of(
                encoder={"settings": {"dim": "wide", "layers": 3}},
                objective={"name": "lab.nothing"},
                sampler={"settings": {"min_event": 2}},
            ),
            load_plugins(),
        )

    message = str(caught.value)
    assert "no plugin offers objective 'lab.nothing'" in message
    assert "encoder.settings: dim: " in message and "found 'wide'" in message
    assert "encoder.settings: unknown key `layers`" in message
    assert "sampler.settings: unknown key `min_event`" in message
    assert "(the settings of sampler 'lab' are min_events, seconds, fails)" in message
    assert "\n" not in message


def test_a_wrong_spec_tells_of_its_parts_as_far_as_it_can() -> None:
    """From a spec that is itself wrong, whatever can be read of the parts is judged."""
    registry = load_plugins()

    assert part_problems({"plugin": "lab"}, registry) == []
    assert part_problems({}, registry) == []
    assert part_problems({"plugin": 7, "encoder": "lab", "sampler": ["x"]}, registry) == []
    assert part_problems({"plugin": "lab", "encoder": {"name": None}}, registry) == []
    (only,) = part_problems({"encoder": {"name": "nope"}}, registry)
    assert only.startswith("no plugin offers encoder 'nope'")
    found = part_problems({"plugin": "lab", "encoder": {"settings": {"dim": []}}}, registry)
    assert found[0].startswith("encoder.settings: dim: ")


def test_an_encoder_alone_is_a_baseline() -> None:
    """A plugin that offers an encoder and nothing else is not trained."""
    full = load_plugins()
    parts = {key: part for key, part in full.parts.items() if key == ("encoder", "lab")}
    registry = Registry(full.plugins, parts, {})

    choice = choose(spec_of(), registry)

    assert not choice.trains
    assert set(choice.parts) == {"encoder"}
    assert part_problems({"plugin": "lab"}, registry) == []


def test_an_objective_without_a_sampler_is_refused() -> None:
    """Where only one of the two is found, the spec is refused."""
    full = load_plugins()
    parts = {key: part for key, part in full.parts.items() if key[0] != "sampler"}

    with pytest.raises(PluginError, match="no plugin offers sampler 'lab'"):
        choose(spec_of(), Registry(full.plugins, parts, {}))


def test_an_encoder_that_lacks_what_is_required_is_refused(world: World) -> None:
    """requires ⊄ provides: the refusal names both parts and what is lacking."""
    with pytest.raises(ContractError) as caught:
        build(world, encoder={"name": "lab.bare"}, objective={"settings": {"steps": True}})

    assert str(caught.value) == (
        "objective 'lab' requires steps, which encoder 'lab.bare' does not provide (it provides "
        "nothing); choose an encoder that does"
    )


def test_a_sampler_that_lacks_a_view_is_refused(world: World) -> None:
    """Views that do not match: the refusal names both parts and their views."""
    with pytest.raises(ContractError) as caught:
        build(world, objective={"name": "lab.other"})

    assert str(caught.value) == (
        "objective 'lab.other' needs views a, c, but sampler 'lab' supplies a, b; choose a "
        "sampler that supplies them"
    )


def test_the_trainer_checks_parts_that_came_without_a_registry(world: World) -> None:
    """Parts handed to the fit loop by `prepare` are checked too, named by their classes."""
    trio, other = build(world), build(world, encoder={"name": "lab.bare"})
    trio.encoder, trio.identity = other.encoder, {}
    trio.objective.requires = frozenset({"steps"})

    with pytest.raises(ContractError, match="encoder 'BareEncoder' does not provide"):
        Trainer(trio, world.past, TrainingConfig(device="cpu"))


def test_what_a_builder_raises_is_one_line(world: World) -> None:
    """A failing build names plugin, distribution, version, part and cause."""
    with pytest.raises(PluginError) as caught:
        build(world, encoder={"settings": {"dim": -3}})

    message = str(caught.value)
    assert message.startswith(
        "plugin 'lab' (unirep-feast-lab 1.0): encoder 'lab' failed in build: RuntimeError: "
    )
    assert "\n" not in message


class Sound(nn.Module):
    num_vectors, dim = 2, 4
    window = Window()
    depends_on_as_of = False
    provides = frozenset({"items"})
    requires: frozenset[str] = frozenset()
    views: frozenset[str] = frozenset()
    validate_with_dropout = trains_encoder = True

    def bind(self, items: object) -> None: ...
    def penalties(self, extras: object) -> dict[str, Tensor]:
        return {}

    def embed_items(self, codes: Tensor) -> Tensor:
        return codes

    def units(self, sequences: object) -> Tensor:
        return torch.zeros(0)

    def sample(self, sequences: object, units: object, draw: object) -> dict[str, Tensor]:
        return {}


@pytest.mark.parametrize(
    ("role", "changed", "message"),
    [
        ("encoder", {"dim": 0}, "encoder 'x': dim is 0; wanted a number from 1 on"),
        ("encoder", {"num_vectors": True}, "num_vectors is True; wanted a number from 1 on"),
        ("encoder", {"dim": None}, "dim is None"),
        ("encoder", {"window": 50}, "window is 50; wanted window"),
        ("encoder", {"depends_on_as_of": "no"}, "depends_on_as_of is 'no'; wanted bool"),
        ("encoder", {"provides": ["steps"]}, "provides is ['steps']; wanted set"),
        ("encoder", {"provides": {"magic"}}, "provides unknown magic; known: batch_independent,"),
        ("encoder", {"embed_items": None}, "has no method embed_items()"),
        ("encoder", {"bind": None}, "has no method bind()"),
        ("objective", {"trains_encoder": None}, "objective 'x': trains_encoder is None"),
        ("objective", {"requires": {"magic"}}, "requires unknown magic"),
        ("objective", {"views": "ab"}, "views is 'ab'; wanted set"),
        ("sampler", {"views": None}, "sampler 'x': views is None"),
        ("sampler", {"sample": 3}, "sampler 'x' has no method sample()"),
    ],
)
def test_wrong_declarations_are_refused(role: Any, changed: dict[str, Any], message: str) -> None:
    """What a part declares is checked before it sees a batch, and told in one line."""
    check_declared(Sound(), role, "x")
    part = Sound()
    for name, value in changed.items():
        object.__setattr__(part, name, value)

    with pytest.raises(ContractError) as caught:
        check_declared(part, role, "x")

    assert message in str(caught.value)


def test_an_encoder_must_be_a_module() -> None:
    """Something that is no ``nn.Module`` cannot be trained, moved or saved."""
    with pytest.raises(ContractError, match=r"encoder 'x' is object; wanted an nn\.Module"):
        check_declared(object(), "encoder", "x")
