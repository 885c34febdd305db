"""The trio a spec asks for: encoder, objective and sampler, built and checked to fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel
from torch import Tensor, nn

from unirep_feast.config import RepresentationSpec
from unirep_feast.encoder import CAPABILITIES, Encoder
from unirep_feast.errors import ContractError, SpecError
from unirep_feast.hookspecs import Fit
from unirep_feast.items import ItemTable, Vocabulary
from unirep_feast.objective import Objective
from unirep_feast.plugins import ROLES, Registered, Registry, Role, blamed
from unirep_feast.sampler import Sampler
from unirep_feast.sequences import Sequences


@dataclass(frozen=True)
class Choice:
    """The registered parts a spec names, with their parsed settings; nothing is built yet."""

    parts: Mapping[Role, Registered]
    settings: Mapping[Role, BaseModel]

    def identity(self) -> dict[str, dict[str, str]]:
        """Which part came from where: name, plugin, distribution and version by role."""
        return {
            role: {
                "name": part.name,
                "plugin": part.plugin.name,
                "distribution": part.plugin.distribution,
                "version": part.plugin.version,
            }
            for role, part in self.parts.items()
        }

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


def choose(spec: RepresentationSpec, registry: Registry) -> Choice:
    """Look up the parts of a spec and validate their settings, all problems at once.

    Raises:
        PluginError: a part is unknown or its plugin broken.
        SpecError: settings are wrong; every problem is listed.
    """
    parts: dict[Role, Registered] = {}
    settings: dict[Role, BaseModel] = {}
    wrong: list[str] = []
    for role in ROLES:
        wanted = spec.part(role)
        if wanted is None or wanted.name is None:
            continue
        if role != "encoder" and _is_baseline(spec, wanted.name, registry):
            continue
        part = registry.get(role, wanted.name)
        parts[role] = part
        found = part.problems(wanted.settings)
        wrong.extend(found)
        if not found:
            settings[role] = part.settings.model_validate(wanted.settings)
    if ("objective" in parts) != ("sampler" in parts):
        wrong.append("objective and sampler go together: both, or neither")
    if wrong:
        raise SpecError(f"spec {spec.name}", wrong)
    return Choice(parts, settings)


def _is_baseline(spec: RepresentationSpec, name: str, registry: Registry) -> bool:
    """Whether a spec's ``plugin`` offers an encoder alone: a baseline that is not trained."""
    offered = {key for key in (*registry.parts, *registry.contested) if key[1] == name}
    return spec.plugin == name and offered == {("encoder", name)}


def prepare_encoder(
    choice: Choice, vocabulary: Vocabulary, sequences: Sequences, fit: Fit
) -> dict[str, Tensor]:
    """Run the encoder's ``prepare``, if it has one, on events before the training cut-off."""
    part = choice.parts["encoder"]
    if part.prepare is None:
        return {}
    with blamed(part, "prepare"):
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
    with blamed(part, "build"):
        encoder: Encoder = part.build(choice.settings["encoder"], vocabulary, dict(prepared))
    check_encoder(encoder, part.name)
    with blamed(part, "bind items to"):
        encoder.bind(items)
    return encoder


def build_trio(
    choice: Choice, vocabulary: Vocabulary, items: ItemTable, prepared: Mapping[str, Tensor]
) -> Trio:
    """Build all parts and refuse a trio whose parts do not fit, naming both."""
    trio = Trio(build_encoder(choice, vocabulary, items, prepared), identity=choice.identity())
    if choice.trains:
        objective, sampler = choice.parts["objective"], choice.parts["sampler"]
        with blamed(objective, "build"):
            trio.objective = objective.build(choice.settings["objective"], trio.encoder)
        with blamed(sampler, "build"):
            trio.sampler = sampler.build(choice.settings["sampler"])
        check_fit(trio)
    return trio


def check_encoder(encoder: Encoder, name: str) -> None:
    """Check what an encoder declares, before it sees a batch."""
    if not isinstance(encoder, nn.Module):
        raise ContractError(f"encoder {name!r} is {type(encoder).__name__}; wanted an nn.Module")
    declared: dict[str, Any] = {"num_vectors": int, "dim": int, "depends_on_as_of": bool}
    for attribute, kind in declared.items():
        found = getattr(encoder, attribute, None)
        if not isinstance(found, kind) or (kind is int and found < 1):
            raise ContractError(
                f"encoder {name!r}: {attribute} is {found!r}; wanted {kind.__name__}"
            )
    unknown = set(getattr(encoder, "provides", ())) - CAPABILITIES
    if unknown:
        raise ContractError(
            f"encoder {name!r} provides unknown {', '.join(sorted(unknown))}; "
            f"known: {', '.join(sorted(CAPABILITIES))}"
        )


def check_fit(trio: Trio) -> None:
    """Refuse parts that do not fit each other, in one line that names them and what would fit."""
    assert trio.objective is not None and trio.sampler is not None  # noqa: S101
    names = {role: who["name"] for role, who in trio.identity.items()}
    lacking = trio.objective.requires - trio.encoder.provides
    if lacking:
        raise ContractError(
            f"objective {names['objective']!r} requires {', '.join(sorted(lacking))}, which "
            f"encoder {names['encoder']!r} does not provide (it provides "
            f"{', '.join(sorted(trio.encoder.provides)) or 'nothing'}); choose an encoder that does"
        )
    missing = trio.objective.views - trio.sampler.views
    if missing:
        raise ContractError(
            f"objective {names['objective']!r} needs views "
            f"{', '.join(sorted(trio.objective.views))}, but sampler {names['sampler']!r} supplies "
            f"{', '.join(sorted(trio.sampler.views))}; choose a sampler that supplies them"
        )
