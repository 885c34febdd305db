"""How to build the parts under test, and how the host drives them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from unirep_feast.batch import SequenceBatch
from unirep_feast.config import EncodeConfig, TrainingConfig
from unirep_feast.encoder import Encoder
from unirep_feast.inference import Inference
from unirep_feast.objective import Objective, Views
from unirep_feast.plugins import build_registry, load_plugins
from unirep_feast.registry import Registry
from unirep_feast.sampler import Draw, Sampler, Units
from unirep_feast.sequences import Sequences
from unirep_feast.spec_file import parse_spec
from unirep_feast.testing.toy.hooks import ENTRY_POINT as TOY
from unirep_feast.trainer import Trainer
from unirep_feast.trio import Trio, choose, prepare_encoder


@dataclass(frozen=True)
class Recipe:
    """Builds fresh parts, as often as a check needs them.

    Most authors get one from :func:`registered`, which goes through the plugin's own hooks.

    Attributes:
        encoder: from histories before the training cut-off (with vocabulary and items) and what
            ``prepare`` gave to an encoder; the kit binds the items afterwards.
        objective: from an encoder to its objective; None for a baseline that is not trained.
        sampler: builds the sampler; None for a baseline.
        prepare: fits what is stored beside the weights; None: there is nothing to fit.
        identity: names by role, for messages.
    """

    encoder: Callable[[Sequences, Mapping[str, Tensor]], Encoder]
    objective: Callable[[Encoder], Objective] | None = None
    sampler: Callable[[], Sampler] | None = None
    prepare: Callable[[Sequences], Mapping[str, Tensor]] | None = None
    identity: Mapping[str, dict[str, str]] = field(default_factory=dict)

    def prepared(self, sequences: Sequences, seed: int = 0) -> Mapping[str, Tensor]:
        """Fit what is fitted once, before anything is built."""
        torch.manual_seed(seed)
        return {} if self.prepare is None else self.prepare(sequences)

    def build(
        self, sequences: Sequences, prepared: Mapping[str, Tensor] | None = None, seed: int = 0
    ) -> Trio:
        """Build all parts with random weights of a seed, in ``train()``.

        Args:
            sequences: histories before the training cut-off.
            prepared: from :meth:`prepared`; None fits it first.
            seed: of the weights.
        """
        if prepared is None:
            prepared = self.prepared(sequences, seed)
        torch.manual_seed(seed)
        encoder = self.encoder(sequences, prepared)
        encoder.bind(sequences.items)
        trio = Trio(encoder, identity=dict(self.identity))
        if self.objective is not None and self.sampler is not None:
            trio.objective, trio.sampler = self.objective(encoder), self.sampler()
        return trio


def registered(
    plugin: str,
    *,
    encoder: str | None = None,
    objective: str | None = None,
    sampler: str | None = None,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    registry: Registry | None = None,
) -> Recipe:
    """Return a recipe that builds what plugins registered, as the host does.

    Args:
        plugin: gives every part that is not named.
        encoder: registered name, such as ``acme.gru``; ``toy`` is a partner of the kit's own.
        objective: registered name; the ``toy`` one scores views ``earlier`` and ``later``.
        sampler: registered name; the ``toy`` one supplies these two.
        settings: by role; what is left out has the plugin's defaults. Small sizes keep tests fast.
        registry: None: the installed plugins; see :func:`registry_of` for one that is not.

    Raises:
        UnirepError: a part is unknown or its settings are wrong.
    """
    names = {"encoder": encoder, "objective": objective, "sampler": sampler}
    given = settings or {}
    parts = {
        role: {"name": name, "settings": dict(given.get(role, {}))}
        for role, name in names.items()
        if name is not None or role in given
    }
    spec = parse_spec(
        {"name": "kit", "events": {"path": "made"}, "plugin": plugin, **parts}, "of the kit"
    )
    choice = choose(spec, _with_toy(registry or load_plugins()))

    parts_of = choice.parts

    def prepare(sequences: Sequences) -> Mapping[str, Tensor]:
        return prepare_encoder(choice, sequences.vocabulary, sequences, fit)

    def build(sequences: Sequences, prepared: Mapping[str, Tensor]) -> Encoder:
        built: Encoder = parts_of["encoder"].build(
            choice.settings["encoder"], sequences.vocabulary, dict(prepared)
        )
        return built

    if not choice.trains:
        return Recipe(build, prepare=prepare, identity=choice.identity())
    return Recipe(
        build,
        lambda built: parts_of["objective"].build(choice.settings["objective"], built),
        lambda: parts_of["sampler"].build(choice.settings["sampler"]),
        prepare,
        choice.identity(),
    )


def _with_toy(registry: Registry) -> Registry:
    """The same plugins, and the toy: a partner for parts that come alone."""
    toy = registry_of(TOY)
    plugins = [*registry.plugins, *(p for p in toy.plugins if p not in registry.plugins)]
    return Registry(plugins, {**toy.parts, **registry.parts}, registry.contested)


def registry_of(entry_point: EntryPoint) -> Registry:
    """Return a registry with one plugin, installed or not."""
    return build_registry([entry_point])


# -- driving the parts as the host does -----------------------------------------------------------


def train(
    trio: Trio, sequences: Sequences, steps: int, learning_rate: float = 0.01, batch_size: int = 16
) -> list[float]:
    """Fit a trio with the host's own loop; returns the loss of each step, leaves it in ``eval()``.

    Args:
        trio: all three parts.
        sequences: histories before the training cut-off.
        steps: optimizer steps.
        learning_rate: of Adam.
        batch_size: units per step.
    """
    config = TrainingConfig(
        max_steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        validation=0,
        log_every=1,
        device="cpu",
    )
    records = Trainer(trio, sequences, config).run()
    return [record.values["loss"] for record in records if record.kind == "step"]


def fit(
    encoder: Encoder, objective: Objective, sampler: Sampler, sequences: Sequences, **training: Any
) -> Encoder:
    """Lend ``prepare`` the host's loop, cut down to a few steps."""
    steps = min(int(training.get("max_steps") or 5), 5)
    train(Trio(encoder, objective, sampler), sequences, steps)
    return encoder


def draw_views(
    trio: Trio, sequences: Sequences, step: int = 0, at_most: int = 32, seed: int = 0
) -> Views:
    """Draw the views of a step for the first units, clipped to the encoder's window."""
    assert trio.sampler is not None
    limited = sequences.limit(trio.encoder.window)
    rows = trio.sampler.units(limited)
    index = torch.arange(min(len(rows), at_most))
    return trio.sampler.sample(limited, Units(index, rows[index]), Draw(seed, step))


def encode(encoder: Encoder, sequences: Sequences, as_of: int) -> tuple[pa.Array, np.ndarray]:
    """Encode with the host's own inference: (n,) user ids and (n, K · D) float32."""
    config = EncodeConfig(cells=256, device="cpu")
    blocks = list(Inference(encoder, config).encode(sequences, as_of))
    if not blocks:
        width = encoder.num_vectors * encoder.dim
        return sequences.users.slice(0, 0), np.zeros((0, width), np.float32)
    users = pa.concat_arrays([block.users for block in blocks])
    return users, np.concatenate([block.vectors for block in blocks])


@torch.inference_mode()
def vectors(encoder: Encoder, batch: SequenceBatch) -> Tensor:
    """Encode one batch without gradients: (B, K, D)."""
    return encoder(batch).users


def module_of(part: object) -> nn.Module:
    """A part as the ``nn.Module`` that its contract says it is."""
    assert isinstance(part, nn.Module), f"wanted an nn.Module, found {type(part).__name__}"
    return part


def state_of(part: object) -> dict[str, Tensor]:
    """A copy of a part's state dict."""
    return {name: value.clone() for name, value in module_of(part).state_dict().items()}
