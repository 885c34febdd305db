"""The trio a spec asks for: encoder, objective and sampler, built and checked to fit."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel
from torch import Tensor, nn

from unirep_feast.blame import Part, blamed
from unirep_feast.blocks import declared_blocks
from unirep_feast.config import RepresentationSpec
from unirep_feast.encoder import CAPABILITIES, Encoder, Window
from unirep_feast.errors import ContractError, PluginError, SpecError, UnusablePluginError
from unirep_feast.hookspecs import Fit
from unirep_feast.items import ItemTable, Vocabulary
from unirep_feast.objective import Objective
from unirep_feast.registry import ROLES, Registered, Registry, Role
from unirep_feast.sampler import Sampler
from unirep_feast.sequences import Sequences


@dataclass(frozen=True)
class Choice:
    """The registered parts a spec names, with their parsed settings; nothing is built yet."""

    parts: Mapping[Role, Registered]
    settings: Mapping[Role, BaseModel]

    def identity(self) -> dict[str, dict[str, str]]:
        """Which part came from where: name, plugin, distribution and version by role."""
        return {role: part.identity for role, part in self.parts.items()}

    @property
    def trains(self) -> bool:
        """False for a baseline without objective and sampler: nothing is fitted by gradient."""
        return "objective" in self.parts


@dataclass
class Trio:
    """Encoder, objective and sampler, ready to train or (encoder alone) to encode."""

    encoder: Encoder
    objective: Objective | None = None
    sampler: Sampler | None = None
    identity: dict[str, dict[str, str]] = field(default_factory=dict)

    def name(self, role: Role) -> str:
        """The registered name of a part, for messages; its class where it has none."""
        if role in self.identity:
            return self.identity[role]["name"]
        return type(getattr(self, role)).__name__

    def part(self, role: Role) -> Part:
        """A part, for messages: with its plugin where that is known."""
        return Part.of(role, {"name": self.name(role), **self.identity.get(role, {})})


def choose(spec: RepresentationSpec, registry: Registry) -> Choice:
    """Look up the parts of a spec and validate their settings, all problems at once.

    Raises:
        PluginError: a part is unknown or its plugin broken, and nothing else is wrong.
        SpecError: settings are wrong, or several things are; every problem is listed.
    """
    parts: dict[Role, Registered] = {}
    settings: dict[Role, BaseModel] = {}
    unknown: list[PluginError] = []
    wrong: list[str] = []
    for role in ROLES:
        wanted = spec.part(role)
        if wanted is None or wanted.name is None:
            continue
        if role != "encoder" and _is_baseline(spec.plugin, wanted.name, registry):
            continue
        try:
            parts[role] = part = registry.get(role, wanted.name)
        except PluginError as error:
            _tell_once(unknown, error)
            continue
        found = part.problems(wanted.settings)
        wrong.extend(found)
        if not found:
            settings[role] = part.settings.model_validate(wanted.settings)
    if not unknown and ("objective" in parts) != ("sampler" in parts):
        wrong.append("objective and sampler go together: both, or neither")
    if len(unknown) == 1 and not wrong:
        raise unknown[0]
    if unknown or wrong:
        raise SpecError(f"spec {spec.name}", [*map(str, unknown), *wrong])
    return Choice(parts, settings)


def part_problems(raw: Mapping[str, Any], registry: Registry) -> list[str]:
    """Say what is wrong with the parts of a spec that is itself wrong, as far as can be told.

    Args:
        raw: keys of a spec that did not pass; anything may be in it.
        registry: the installed plugins.
    """
    plugin = raw.get("plugin")
    unknown: list[PluginError] = []
    wrong: list[str] = []
    for role in ROLES:
        part = raw.get(role)
        part = part if isinstance(part, Mapping) else {}
        name = part.get("name") or plugin
        if not isinstance(name, str):
            continue
        if role != "encoder" and _is_baseline(plugin, name, registry):
            continue
        settings = part.get("settings")
        try:
            registered = registry.get(role, name)
        except PluginError as error:
            _tell_once(unknown, error)
            continue
        if isinstance(settings, dict):
            wrong += registered.problems(settings)
    return [*map(str, unknown), *wrong]


def _tell_once(told: list[PluginError], error: PluginError) -> None:
    """Add an error, unless one of another part tells of the same unusable plugin."""
    if isinstance(error, UnusablePluginError) and any(
        isinstance(one, UnusablePluginError) and one.plugin == error.plugin for one in told
    ):
        return
    told.append(error)


def _is_baseline(plugin: Any, name: str, registry: Registry) -> bool:
    """Whether a spec's ``plugin`` offers an encoder alone: a baseline that is not trained."""
    keys = (*registry.parts, *registry.contested)
    offered = {key for key in keys if key[1] == name and key[0] in ROLES}
    return plugin == name and offered == {("encoder", name)}


def prepare_encoder(
    choice: Choice, vocabulary: Vocabulary, sequences: Sequences, fit: Fit
) -> dict[str, Tensor]:
    """Run the encoder's ``prepare``, if it has one, on events before the training cut-off."""
    part = choice.parts["encoder"]
    if part.prepare is None:
        return {}
    with blamed(part.part, "prepare"):
        prepared = dict(part.prepare(choice.settings["encoder"], vocabulary, sequences, fit))
    for name, tensor in prepared.items():
        if not isinstance(tensor, Tensor):
            raise ContractError(
                f"encoder {part.name!r}: prepare returned {type(tensor).__name__} for {name!r}; "
                "wanted a dict of tensors"
            )
    return prepared


def build_encoder(
    choice: Choice, vocabulary: Vocabulary, items: ItemTable, prepared: Mapping[str, Tensor]
) -> Encoder:
    """Build the encoder, bind the item table and check what it declares."""
    part = choice.parts["encoder"]
    with blamed(part.part, "build"):
        encoder: Encoder = part.build(choice.settings["encoder"], vocabulary, dict(prepared))
    check_encoder(encoder, part.name)
    with blamed(part.part, "bind"):
        encoder.bind(items)
    return encoder


def build_trio(
    choice: Choice, vocabulary: Vocabulary, items: ItemTable, prepared: Mapping[str, Tensor]
) -> Trio:
    """Build all parts and refuse a trio whose parts do not fit, naming both."""
    trio = Trio(build_encoder(choice, vocabulary, items, prepared), identity=choice.identity())
    if choice.trains:
        objective, sampler = choice.parts["objective"], choice.parts["sampler"]
        with blamed(objective.part, "build"):
            trio.objective = objective.build(choice.settings["objective"], trio.encoder)
        with blamed(sampler.part, "build"):
            trio.sampler = sampler.build(choice.settings["sampler"])
        check_fit(trio)
    return trio


#: What each part must have: attributes with their types, and methods. Checked before any batch.
_DECLARES: dict[Role, dict[str, type]] = {
    "encoder": {
        "num_vectors": int,
        "dim": int,
        "window": Window,
        "depends_on_as_of": bool,
        "provides": Set,
    },
    "objective": {
        "requires": Set,
        "views": Set,
        "validate_with_dropout": bool,
        "trains_encoder": bool,
    },
    "sampler": {"views": Set},
}
_METHODS: dict[Role, tuple[str, ...]] = {
    "encoder": ("bind", "penalties"),
    "objective": (),
    "sampler": ("units", "sample"),
}


def check_encoder(encoder: Encoder, name: str) -> None:
    """Check what an encoder declares, before it sees a batch; see :func:`check_declared`."""
    check_declared(encoder, "encoder", name)


def check_declared(part: object, role: Role, name: str) -> None:
    """Check what a part declares of itself, before it sees a batch.

    Raises:
        ContractError: it lacks something, or declares what there is not.
    """
    who = f"{role} {name!r}"
    if role != "sampler" and not isinstance(part, nn.Module):
        raise ContractError(f"{who} is {type(part).__name__}; wanted an nn.Module")
    for attribute, kind in _DECLARES[role].items():
        found = getattr(part, attribute, None)
        fits = isinstance(found, kind)
        if kind is int:
            fits = isinstance(found, int) and not isinstance(found, bool) and found >= 1
        if not fits:
            wanted = "a number from 1 on" if kind is int else kind.__name__.lower()
            raise ContractError(f"{who}: {attribute} is {found!r}; wanted {wanted}")
    if role == "encoder":
        declared_blocks(part, part.num_vectors * part.dim, who)  # type: ignore[attr-defined]
    items = role == "encoder" and "items" in getattr(part, "provides", ())
    for method in (*_METHODS[role], *(("embed_items",) if items else ())):
        if not callable(getattr(part, method, None)):
            raise ContractError(f"{who} has no method {method}()")
    capabilities = {"encoder": "provides", "objective": "requires"}.get(role)
    unknown = set(getattr(part, capabilities)) - CAPABILITIES if capabilities else set()
    if unknown:
        raise ContractError(
            f"{who} {capabilities} unknown {', '.join(sorted(map(str, unknown)))}; "
            f"known: {', '.join(sorted(CAPABILITIES))}"
        )


def check_fit(trio: Trio) -> None:
    """Refuse parts that do not fit each other, in one line that names them and what would fit."""
    encoder, objective, sampler = trio.encoder, trio.objective, trio.sampler
    assert objective is not None and sampler is not None  # noqa: S101
    for role in ROLES:
        check_declared(getattr(trio, role), role, trio.name(role))
    lacking = objective.requires - encoder.provides
    if lacking:
        raise ContractError(
            f"objective {trio.name('objective')!r} requires {', '.join(sorted(lacking))}, which "
            f"encoder {trio.name('encoder')!r} does not provide (it provides "
            f"{', '.join(sorted(encoder.provides)) or 'nothing'}); choose an encoder that does"
        )
    if objective.views - sampler.views:
        raise ContractError(
            f"objective {trio.name('objective')!r} needs views "
            f"{', '.join(sorted(objective.views))}, but sampler {trio.name('sampler')!r} supplies "
            f"{', '.join(sorted(sampler.views)) or 'none'}; choose a sampler that supplies them"
        )
