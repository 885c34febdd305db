"""Every hook a plugin can implement, documented in full.

A plugin is a distribution with one entry point in the group ``unirep_feast`` whose value is a
module; functions of that module marked with :data:`unirep_feast.hookimpl` implement hooks. The
module must not import torch: import it inside the builders. Hooks are called once, when the host
first needs a registered name; the builders later, only for the names a spec asks for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import pluggy
from pydantic import BaseModel

if TYPE_CHECKING:
    from torch import Tensor

    from unirep_feast.encoder import Encoder
    from unirep_feast.objective import Objective
    from unirep_feast.sampler import Sampler
    from unirep_feast.sequences import Sequences, Vocabulary
    from unirep_feast.task import Task

hookspec = pluggy.HookspecMarker("unirep")


class Fit(Protocol):
    """The host's own fit loop, lent to ``prepare`` for a stage that itself must be trained."""

    def __call__(
        self,
        encoder: Encoder,
        objective: Objective,
        sampler: Sampler,
        sequences: Sequences,
        **training: Any,
    ) -> Encoder:
        """Train a trio; ``training`` overrides keys of the spec's ``training`` section."""
        ...


Prepare = Callable[[BaseModel, "Vocabulary", "Sequences", Fit], Mapping[str, "Tensor"]]
BuildEncoder = Callable[[BaseModel, "Vocabulary", Mapping[str, "Tensor"]], "Encoder"]
BuildObjective = Callable[[BaseModel, "Encoder"], "Objective"]
BuildSampler = Callable[[BaseModel], "Sampler"]
BuildTask = Callable[[BaseModel], "Task"]


class RegisterEncoder(Protocol):
    """Called by a plugin for every encoder it offers."""

    def __call__(
        self,
        name: str,
        build: Callable[[Any, Vocabulary, Mapping[str, Tensor]], Encoder],
        settings: type[BaseModel],
        prepare: Callable[[Any, Vocabulary, Sequences, Fit], Mapping[str, Tensor]] | None = None,
    ) -> None:
        """Offer ``build`` under ``name``; ``settings`` is a pydantic model with defaults."""
        ...


class RegisterObjective(Protocol):
    """Called by a plugin for every objective it offers."""

    def __call__(
        self, name: str, build: Callable[[Any, Encoder], Objective], settings: type[BaseModel]
    ) -> None:
        """Offer ``build`` under ``name``; ``settings`` is a pydantic model with defaults."""
        ...


class RegisterSampler(Protocol):
    """Called by a plugin for every sampler it offers."""

    def __call__(
        self, name: str, build: Callable[[Any], Sampler], settings: type[BaseModel]
    ) -> None:
        """Offer ``build`` under ``name``; ``settings`` is a pydantic model with defaults."""
        ...


class RegisterTask(Protocol):
    """Called by a plugin for every kind of task it offers."""

    def __call__(self, name: str, build: Callable[[Any], Task], settings: type[BaseModel]) -> None:
        """Offer ``build`` under ``name``; ``settings`` is a pydantic model with defaults."""
        ...


@hookspec
def unirep_register_encoders(register: RegisterEncoder) -> None:
    """Offer encoders under names of your own.

    **When**: once per process, when a command first needs plugins; never at ``unirep --help``.

    **Order**: by the name of the entry point; it does not matter, since a name that two
    distributions register is an error that names both.

    Args:
        register: ``register(name, build, settings, prepare=None)``.

            - ``name``: ``"<plugin>"`` for the main encoder, ``"<plugin>.<thing>"`` for others;
              ``<plugin>`` is the name of the entry point.
            - ``build(settings, vocabulary, prepared) -> Encoder``: called after the vocabulary was
              fitted on events before ``training.until``, or when a checkpoint is loaded.
            - ``settings``: a pydantic model, ``extra="forbid"``, every field with a default.
            - ``prepare(settings, vocabulary, sequences, fit) -> dict of tensors``: fitted once,
              before ``build``, on events before ``training.until`` only; stored in the checkpoint
              and never fitted again. ``fit`` is the host's own loop, for a stage that is trained.

    Returns:
        Nothing.

    The host checks when it registers: the name's prefix, that ``settings`` forbids unknown keys and
    has defaults; when it builds: what the encoder declares; when it encodes: that vectors are
    (B, K, D) and finite, and whether batch mates change their bits. A failure is one line that
    names the part. ``unirep plugins check`` tries the whole contract.

    Example:
        ::

            @hookimpl
            def unirep_register_encoders(register):
                def build(settings, vocabulary, prepared):
                    from unirep_feast_acme.encoder import AcmeEncoder
                    return AcmeEncoder(len(vocabulary), settings)
                register("acme", build, AcmeSettings)
    """


@hookspec
def unirep_register_objectives(register: RegisterObjective) -> None:
    """Offer objectives (losses with their training-only heads) under names of your own.

    **When** and **order**: as for :func:`unirep_register_encoders`.

    Args:
        register: ``register(name, build, settings)`` with
            ``build(settings, encoder) -> Objective``; the encoder is given so that heads can take
            its ``num_vectors`` and ``dim``.

    Returns:
        Nothing.

    The host checks before training that the encoder provides what the objective requires and the
    sampler supplies its views, and refuses a mismatch in one line that names the parts.

    Example:
        ::

            @hookimpl
            def unirep_register_objectives(register):
                def build(settings, encoder):
                    from unirep_feast_acme.objective import AcmeLoss
                    return AcmeLoss(encoder.dim, settings)
                register("acme", build, LossSettings)
    """


@hookspec
def unirep_register_samplers(register: RegisterSampler) -> None:
    """Offer samplers (which pieces of a history make a training example) under names of your own.

    **When** and **order**: as for :func:`unirep_register_encoders`.

    Args:
        register: ``register(name, build, settings)`` with ``build(settings) -> Sampler``.

    Returns:
        Nothing.

    The host checks that the sampler supplies the views it declares; no view can reach
    ``training.until``, since it only ever holds ``sequences.before(training.until)``.
    ``unirep plugins check`` tries whether the same draw gives the same views.

    Example:
        ::

            @hookimpl
            def unirep_register_samplers(register):
                def build(settings):
                    from unirep_feast_acme.sampler import HalvesSampler
                    return HalvesSampler(settings)
                register("acme", build, HalvesSettings)
    """


@hookspec
def unirep_register_tasks(register: RegisterTask) -> None:
    """Offer kinds of tasks that `unirep evaluate` can put to any representation.

    **When** and **order**: as for :func:`unirep_register_encoders`.

    Args:
        register: ``register(name, build, settings)`` with ``build(settings) -> Task``. A task file
            names it as ``kind``, with the cut-off beside it, which is no setting: the host hands it
            to the task.

    Returns:
        Nothing.

    The host checks when a task is evaluated: that its problem and metrics are known, its as-of
    times are not before the cut-off, the log reaches its horizon, examples have the shapes that
    ``unirep_feast.task`` states, and that every split has some; and before that, that no run under
    test was trained on events at or after an as-of time. A failure is one line that names the task.

    Example:
        ::

            @hookimpl
            def unirep_register_tasks(register):
                def build(settings):
                    from unirep_feast_acme.tasks import ReturnsTask
                    return ReturnsTask(settings)
                register("acme.returns", build, ReturnsSettings)
    """
