"""Whether a sampler's views are valid batches of the past, and repeat; shared with the kit."""

from __future__ import annotations

from dataclasses import fields

import torch
from torch import Tensor

from unirep_feast.batch import MASK, PAD, SequenceBatch
from unirep_feast.blame import Part, blamed
from unirep_feast.errors import ContractError
from unirep_feast.objective import Views
from unirep_feast.sampler import Draw, Sampler, Units
from unirep_feast.sequences import Sequences

_STEP = "on the first units before the start"


def probe_sampler(
    sampler: Sampler, part: Part, sequences: Sequences, units: Units, draw: Draw
) -> None:
    """Draw the views of some units twice and refuse a sampler that breaks a promise.

    Args:
        sampler: what training will draw from.
        part: names it in errors.
        sequences: what training sees: events before the cut-off, with the encoder's window.
        units: a few of its training units.
        draw: of the first step.

    Raises:
        ContractError: a view is missing, is no valid batch, holds events from its future, or is
            another one when the draw is repeated.
        PluginError: the sampler failed.
    """

    def sample() -> Views:
        with blamed(part, "sample", _STEP):
            return sampler.sample(sequences, units, draw)

    views = sample()
    missing = sampler.views - set(views)
    if missing:
        raise ContractError(f"{part} drew no view {', '.join(sorted(missing))}, which it declares")
    for name, view in views.items():
        problem = view_problem(view, sequences)
        if problem:
            raise ContractError(f"{part}: view {name!r} {problem}")
    changed = difference(views, sample())
    if changed:
        raise ContractError(
            f"{part}: {changed} when the same step is drawn again, so that no training could be "
            "resumed; take random numbers from draw.generator() and keep no state"
        )


def view_problem(view: object, histories: Sequences) -> str:
    """Say what is wrong with a view, or nothing; names no user's data.

    Args:
        view: what a sampler drew under one name.
        histories: what it drew from.
    """
    if isinstance(view, Tensor):
        bad = view.is_floating_point() and not bool(torch.isfinite(view).all())
        return "holds NaN or infinity" if bad else ""
    if not isinstance(view, SequenceBatch):
        return f"is {type(view).__name__}; wanted a SequenceBatch or a tensor"
    return (
        _shape_problem(view) or _content_problem(view, histories) or _time_problem(view, histories)
    )


def _shape_problem(view: SequenceBatch) -> str:
    events, rows = view.codes.shape[0], len(view)
    if int(view.lengths.sum()) != events:
        return f"has lengths that sum to {int(view.lengths.sum())}, and {events} codes"
    for field, wanted in (("users", rows), ("as_of", rows), ("times", events)):
        found = tuple(getattr(view, field).shape)
        if found != (wanted,):
            return f"has {field} of shape {found}; wanted ({wanted},)"
    for column, values in view.columns.items():
        if values.shape[0] != events:
            return f"has {values.shape[0]} rows in column {column!r}, and {events} codes"
    return ""


def _content_problem(view: SequenceBatch, histories: Sequences) -> str:
    longest = int(view.lengths.max()) if len(view) else 0
    if longest > view.width:
        return f"has a row of {longest} events and is {view.width} steps wide"
    limit = histories.clip.max_events
    if limit is not None and longest > limit:
        return f"has a row of {longest} events; the encoder's window holds {limit}"
    known = len(histories.items)
    if not bool(((view.codes != PAD) & (view.codes >= MASK) & (view.codes < known)).all()):
        return f"holds codes beyond the {known} known, or PAD"
    if not bool(((view.users >= -1) & (view.users < len(histories))).all()):
        return f"names users beyond the {len(histories)} rows"
    return ""


def _time_problem(view: SequenceBatch, histories: Sequences) -> str:
    rows = view.rows
    late = int((view.times >= view.as_of[rows]).sum())
    if late:
        return (
            f"holds {late} events at or after the as_of of their row: the future leaks into the "
            "past; end a view at sequences.locate(users, as_of)"
        )
    after = int((view.as_of > histories.until).sum())
    if after:
        return f"has {after} as-of times after the cut-off; wanted at most sequences.until"
    owned = view.users >= 0
    last = histories.times[(histories.ends[view.users] - 1).clamp(min=0)]
    beyond = int(((view.times > last[rows]) & owned[rows]).sum())
    if beyond:
        return (
            f"holds {beyond} events later than the last one of their user before the cut-off: it "
            "reads past sequences.ends, where the next user's events begin"
        )
    unordered = (view.times[1:] < view.times[:-1]) & (rows[1:] == rows[:-1])
    return "holds rows whose events are not oldest first" if bool(unordered.any()) else ""


def difference(one: Views, other: Views) -> str:
    """Say in what two sets of views differ first, or nothing."""
    if one.keys() != other.keys():
        return "other views are there"
    for name, a in one.items():
        b = other[name]
        if isinstance(a, Tensor) or isinstance(b, Tensor):
            if not (isinstance(a, Tensor) and isinstance(b, Tensor) and _equal(a, b)):
                return f"view {name!r} is another"
            continue
        if a.width != b.width:
            return f"view {name!r} has another width"
        for field in fields(a):
            x, y = getattr(a, field.name), getattr(b, field.name)
            if isinstance(x, Tensor) and not _equal(x, y):
                return f"view {name!r} has other {field.name}"
        if a.columns.keys() != b.columns.keys():
            return f"view {name!r} has other columns"
        for column, values in a.columns.items():
            if not _equal(values, b.columns[column]):
                return f"view {name!r} differs in column {column!r}"
    return ""


def _equal(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if a.is_floating_point():
        return torch.allclose(a, b, rtol=0, atol=0, equal_nan=True)
    return torch.equal(a, b)
