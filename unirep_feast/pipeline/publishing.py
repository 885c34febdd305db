"""What of a run is published: which kinds of snapshots, and whether the run can make them."""

from __future__ import annotations

from unirep_feast.checkpoint import Manifest
from unirep_feast.config import RepresentationSpec
from unirep_feast.encoder import Encoder
from unirep_feast.errors import PluginError, SpecError
from unirep_feast.snapshot import Kind


def published_kinds(spec: RepresentationSpec, manifest: Manifest) -> tuple[Kind, ...]:
    """Which snapshots a run gets as of every time, users first.

    Raises:
        PluginError: the spec asks for items, and the run's encoder has none.
        SpecError: the run makes vectors of another D than the spec declares.
    """
    name = manifest.identity["encoder"]["name"]
    _check(spec, name, manifest.provides_items, manifest.dim, f"run {manifest.run}")
    kinds: list[Kind] = ["user"]
    if spec.view.items is not False and manifest.provides_items:
        kinds.append("item")
    if spec.view.per_interest:
        kinds.append("interest")
    return tuple(kinds)


def check_publishable(spec: RepresentationSpec, encoder: Encoder, name: str) -> None:
    """Refuse to train what could not be published; raises as :func:`published_kinds` does."""
    _check(spec, name, "items" in encoder.provides, encoder.dim, f"encoder {name!r}")


def entity_of(spec: RepresentationSpec, kind: Kind) -> str:
    """What the catalog calls the rows of a kind of snapshot: the Feast entity they belong to."""
    names: dict[Kind, str] = {
        "user": spec.view.entity,
        "item": spec.view.item_entity,
        "interest": spec.view.interest_key,
    }
    return names[kind]


def keys_of(spec: RepresentationSpec, kind: Kind) -> list[str]:
    """Names of the id columns of a kind of snapshot."""
    keys: dict[Kind, list[str]] = {
        "user": [spec.view.join_key],
        "item": [spec.view.item_key],
        "interest": [spec.view.join_key, spec.view.interest_key],
    }
    return keys[kind]


def _check(spec: RepresentationSpec, name: str, items: bool, dim: int, who: str) -> None:
    if spec.view.items is True and not items:
        raise PluginError(
            f"the spec asks for view.items: true, encoder {name!r} provides no item vectors; set "
            "view.items: auto or false, or take another encoder"
        )
    if spec.view.dim is not None and spec.view.dim != dim:
        raise SpecError(
            f"spec {spec.name}",
            [
                f"view.dim: readers count on vectors of D={spec.view.dim}, {who} makes D={dim}; "
                "set the encoder's dimension, or view.dim once its readers expect the other"
            ],
        )
