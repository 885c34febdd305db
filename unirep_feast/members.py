"""Representations within a representation: registered parts fitted one after the other.

For encoders that are made of other encoders, whosoever they are: ``fit_members`` in ``prepare``,
``build_members`` in ``build``. What was fitted goes into the prepared state, which the checkpoint
keeps, so nothing is fitted again at inference.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from unirep_feast.batch import SequenceBatch
from unirep_feast.config import MemberConfig, RepresentationSpec
from unirep_feast.encoder import Encoder, Window
from unirep_feast.errors import CheckpointError, SpecError
from unirep_feast.hookspecs import Fit
from unirep_feast.instants import MICROSECONDS_PER_DAY
from unirep_feast.items import ItemTable, Vocabulary
from unirep_feast.plugins import load_plugins
from unirep_feast.sampler import seed_of
from unirep_feast.sequences import Sequences
from unirep_feast.spec_file import parse_spec
from unirep_feast.trio import Choice, build_encoder, build_trio, choose, prepare_encoder

_IDENTITY = "members.identity"

#: Keys of `training` that mean nothing for a stage within a run.
_OF_THE_RUN = (
    "until",
    "init_from",
    "checkpoint_every",
    "keep_checkpoints",
    "tensorboard",
    "mlflow",
)


@dataclass(frozen=True)
class Member:
    """A member with its parts looked up."""

    config: MemberConfig
    choice: Choice


def look_up(members: Sequence[MemberConfig]) -> list[Member]:
    """Look up the parts of all members, before any of them is fitted.

    Raises:
        SpecError: two have one name, or parts, settings or training keys of one are wrong.
        PluginError: a part is unknown or its plugin broken.
    """
    names = [member.name for member in members]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise SpecError("members", [f"two are called {', '.join(twice)}; give each its own name"])
    return [Member(member, _choose(member)) for member in members]


def fit_members(
    members: Sequence[MemberConfig], vocabulary: Vocabulary, sequences: Sequences, fit: Fit
) -> dict[str, Tensor]:
    """Prepare and train every member, one after the other, for an encoder's ``prepare``.

    A member's random numbers do not depend on which others there are. One without objective and
    sampler is prepared and not trained.

    Args:
        members: of distinct names.
        vocabulary: fitted before the training cut-off.
        sequences: events before it.
        fit: the host's loop, as ``prepare`` got it.

    Returns:
        Prepared state and weights of all members, to be kept; see :func:`build_members`.
    """
    state: dict[str, Tensor] = {}
    found = look_up(members)
    seed = torch.initial_seed()
    for member in found:
        name, choice = member.config.name, member.choice
        torch.manual_seed(seed_of(seed, "member", name, "prepare"))
        prepared = prepare_encoder(choice, vocabulary, sequences, fit)
        torch.manual_seed(seed_of(seed, "member", name, "build"))
        trio = build_trio(choice, vocabulary, sequences.items, prepared)
        if trio.objective is not None and trio.sampler is not None:
            fit(trio.encoder, trio.objective, trio.sampler, sequences, **member.config.training)
        weights = _module(trio.encoder).state_dict()
        for part, tensors in (("prepared", prepared), ("encoder", weights)):
            state.update({f"{name}.{part}.{key}": value.cpu() for key, value in tensors.items()})
    identity = {member.config.name: _identity(member) for member in found}
    state[_IDENTITY] = torch.frombuffer(
        bytearray(json.dumps(identity).encode()), dtype=torch.uint8
    ).clone()
    return state


def build_members(
    members: Sequence[MemberConfig], vocabulary: Vocabulary, prepared: Mapping[str, Tensor]
) -> dict[str, Encoder]:
    """Rebuild fitted members, frozen and in ``eval()``, for an encoder's ``build``.

    The items are for the caller to bind, as of any encoder.

    Args:
        members: those of the fit.
        vocabulary: that of the fit.
        prepared: holds what :func:`fit_members` returned.

    Raises:
        CheckpointError: a member was fitted by another version of its plugin.
    """
    fitted = json.loads(bytes(prepared[_IDENTITY].cpu().numpy().tobytes()))
    nothing = ItemTable.build(vocabulary, None)
    encoders: dict[str, Encoder] = {}
    for member in look_up(members):
        name = member.config.name
        _refuse_other_versions(name, fitted.get(name), _identity(member))
        own = _below(prepared, f"{name}.prepared.")
        encoder = build_encoder(member.choice, vocabulary, nothing, own)
        module = _module(encoder)
        module.load_state_dict(_below(prepared, f"{name}.encoder."), strict=True)
        module.requires_grad_(False).eval()
        encoders[name] = encoder
    return encoders


def widest(windows: Sequence[Window]) -> Window:
    """The window that shows whatever one of some windows shows."""
    events = [window.max_events for window in windows]
    days = [window.max_days for window in windows]
    return Window(
        None if None in events else max(n for n in events if n is not None),
        None if None in days else max(n for n in days if n is not None),
    )


def clip(batch: SequenceBatch, window: Window) -> SequenceBatch:
    """Cut the histories of a batch down to a window, as the host does before it hands them out.

    The width of the result follows from that of the batch alone, not from the lengths: a row's
    vector then has the same bits beside any others.
    """
    kept = torch.ones_like(batch.codes, dtype=torch.bool)
    width = batch.width
    if window.max_events is not None and window.max_events < width:
        width = window.max_events
        kept &= batch.steps >= (batch.lengths - width)[batch.rows]
    if window.max_days is not None:
        earliest = batch.as_of - int(window.max_days * MICROSECONDS_PER_DAY)
        kept &= batch.times >= earliest[batch.rows]
    lengths = torch.bincount(batch.rows[kept], minlength=len(batch))
    return replace(
        batch,
        codes=batch.codes[kept],
        times=batch.times[kept],
        lengths=lengths,
        width=width,
        columns={name: column[kept] for name, column in batch.columns.items()},
    )


def _choose(member: MemberConfig) -> Choice:
    try:
        return choose(_spec_of(member), load_plugins())
    except SpecError as error:
        raise SpecError(f"member {member.name}", error.problems) from None


def _spec_of(member: MemberConfig) -> RepresentationSpec:
    """The member as a spec of its own, so that all of its problems are told as a spec's are."""
    # Encoders may add fields of their own to a member; a spec knows none of them.
    raw = member.model_dump(exclude_none=True, include=set(MemberConfig.model_fields))
    spec = parse_spec({**raw, "events": {"path": "-"}}, f"member {member.name}")
    wrong = [key for key in _OF_THE_RUN if key in member.training]
    if wrong:
        raise SpecError(
            f"member {member.name}",
            [f"training.{key} is the representation's; leave it out here" for key in wrong],
        )
    return spec


def _identity(member: Member) -> dict[str, str]:
    return member.choice.identity()["encoder"]


def _refuse_other_versions(
    name: str, fitted: Mapping[str, str] | None, found: Mapping[str, str]
) -> None:
    if fitted == found:
        return
    was = "no such member" if fitted is None else f"{fitted['distribution']} {fitted['version']}"
    raise CheckpointError(
        f"member {name!r} was fitted by {was}, installed is {found['distribution']} "
        f"{found['version']}; install that version, or train anew"
    )


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)
    }


def _module(encoder: Encoder) -> nn.Module:
    assert isinstance(encoder, nn.Module)  # noqa: S101 - check_encoder has looked
    return encoder
