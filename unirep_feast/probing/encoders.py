"""Whether an encoder keeps its contract on a few users: shape, padding, company, time, repeats."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import pyarrow as pa
import torch
from torch import Tensor, nn

from unirep_feast.batch import FIRST_ITEM, UNK, SequenceBatch, bucket_width
from unirep_feast.blame import Part, blamed
from unirep_feast.encoder import Encoded, Encoder
from unirep_feast.errors import ContractError
from unirep_feast.instants import MICROSECONDS_PER_DAY
from unirep_feast.sequences import Sequences

#: So many users, and so many of each one's latest events: enough to see a broken promise.
_USERS, _EVENTS = 8, 8

#: Vectors that should be equal up to rounding may differ by this share of their largest number.
#: Choices among many, such as the top K interests, move more than rounding does.
_TOLERANCE = 1e-3
#: On a GPU recurrent networks and convolutions round to TF32, with another kernel per shape.
_TOLERANCE_GPU = 1e-2

_LATER = 30 * MICROSECONDS_PER_DAY


def probe_encoder(
    encoder: Encoder, part: Part, sequences: Sequences, as_of: int, steps: bool = False
) -> None:
    """Encode a few users in several ways and refuse an encoder that breaks a promise.

    Runs about eight batches of at most nine short histories; weights, buffers, mode and random
    numbers are as they were afterwards, unless the encoder itself changes them in ``eval()``.

    Args:
        encoder: with items bound; on the device it will run on.
        part: names it in errors.
        sequences: events; those at or after ``as_of`` are cut off here.
        as_of: T, microseconds, exclusive.
        steps: hidden states per event will be asked for.

    Raises:
        ContractError: a promise is broken; says which, and what to look at.
        PluginError: the encoder failed.
    """
    probe = _Probe(encoder, part, sequences.users)
    past = sequences.before(as_of).limit(encoder.window)
    users = torch.nonzero(past.lengths).flatten()
    users = users[:: max(len(users) // _USERS, 1)][:_USERS]
    if not len(users):
        return
    batch = _with_nobody(_latest(past, users, past.ends[users], as_of))
    earlier = _with_nobody(_earlier(past, users))
    with _evaluating(encoder):
        before = probe.run(earlier)  # first: nothing later has been seen yet
        vectors = probe.run(batch)
        probe.same(
            vectors,
            probe.run(batch),
            "gives other vectors when it encodes the same histories again in eval(); switch off "
            "what is random there, and change no state in forward",
        )
        probe.same(
            before,
            probe.run(earlier),
            "gives other vectors of the past once it has encoded later events: the future leaks "
            "into the past; keep no histories and no state of users between calls",
        )
        _try_padding(probe, batch, vectors)
        _try_company(probe, batch, vectors)
        if not encoder.depends_on_as_of:
            probe.same(
                vectors,
                probe.run(replace(batch, as_of=batch.as_of + _LATER)),
                "changes vectors with the as-of time alone, and declares that it does not; set "
                "depends_on_as_of = True, or leave batch.as_of alone",
            )
        if steps:
            probe.steps(batch)
        if "items" in encoder.provides:
            probe.items(past)


def _try_padding(probe: _Probe, batch: SequenceBatch, vectors: Tensor) -> None:
    limit = probe.encoder.window.max_events
    wide = bucket_width(batch.width + 1, limit)
    if wide > batch.width:
        probe.close(
            vectors,
            probe.run(replace(batch, width=wide)),
            f"gives other vectors in a batch {wide} instead of {batch.width} steps wide: they "
            "depend on padding; mask what is no event (batch.mask)",
        )


def _try_company(probe: _Probe, batch: SequenceBatch, vectors: Tensor) -> None:
    rows = torch.arange(len(batch), device=batch.device)[::2].flip(0)
    probe.close(
        vectors[rows],
        probe.run(batch.take(rows)),
        "gives other vectors beside other users, or in another row: they depend on the rest of "
        "the batch; compute every row from its own events",
    )


@dataclass(frozen=True)
class _Probe:
    encoder: Encoder
    part: Part
    ids: pa.Array

    def run(self, batch: SequenceBatch) -> Tensor:
        """(B, K, D) vectors, of the declared shape and finite; zero in rows without events."""
        users = self._encode(batch, steps=False).users.float()
        return users.masked_fill((batch.lengths == 0).to(users.device)[:, None, None], 0.0)

    def _encode(self, batch: SequenceBatch, steps: bool) -> Encoded:
        with blamed(self.part, "forward", "on a few users before the start"):
            encoded = self.encoder(_on_device(self.encoder, batch), steps=steps)
        check_encoded(encoded, self.encoder, str(self.part), len(batch))
        bad = ~torch.isfinite(encoded.users).flatten(1).all(1)
        if bool(bad.any()):
            rows = torch.nonzero(bad).flatten().tolist()
            users = [int(batch.users[row]) for row in rows if int(batch.lengths[row])]
            named = ", ".join(map(str, self.ids.take(pa.array(users, pa.int64())).to_pylist()))
            whose = f"vectors of {len(users)} users" if users else "vectors of rows without events"
            raise ContractError(
                f"{self.part}: the {whose} hold NaN or infinity{f' ({named})' if users else ''}; "
                "look for a division by a count of zero or a softmax over nothing; if the model "
                "diverged, train with a lower training.learning_rate"
            )
        return encoded

    def same(self, one: Tensor, other: Tensor, what: str) -> None:
        """Equal to the bit on a CPU; elsewhere sums may run in another order."""
        if one.device.type == "cpu":
            unequal = (one != other).flatten(1).any(1)
            if bool(unequal.any()):
                raise ContractError(f"{self.part} {what} (by up to {_gap(one, other):.2g})")
        else:
            self.close(one, other, what)

    def close(self, one: Tensor, other: Tensor, what: str) -> None:
        """Equal up to rounding; a single row may fall on the other side of a choice."""
        share = _TOLERANCE if one.device.type == "cpu" else _TOLERANCE_GPU
        apart = (one - other).abs().flatten(1).amax(1) > share * max(float(one.abs().max()), 1e-12)
        if int(apart.sum()) > len(one) // 4:
            raise ContractError(f"{self.part} {what} (by up to {_gap(one, other):.2g})")

    def steps(self, batch: SequenceBatch) -> None:
        """Hidden states are (N, D), one per event."""
        hidden = self._encode(batch, steps=True).steps
        wanted = (batch.codes.shape[0], self.encoder.dim)
        if hidden is None or tuple(hidden.shape) != wanted:
            found = "None" if hidden is None else str(tuple(hidden.shape))
            raise ContractError(
                f"{self.part} declares steps and returned {found}; wanted (N, D) = {wanted}, a "
                "hidden state of each event"
            )

    def items(self, past: Sequences) -> None:
        """Item vectors are (n, D) and finite."""
        codes = torch.tensor([UNK, *range(FIRST_ITEM, min(len(past.items), FIRST_ITEM + 4))])
        with blamed(self.part, "embed_items", "on a few items before the start"):
            found = self.encoder.embed_items(codes.to(_device_of(self.encoder)))
        wanted = (len(codes), self.encoder.dim)
        if tuple(found.shape) != wanted:
            raise ContractError(
                f"{self.part}: embed_items returned {tuple(found.shape)}; wanted (n, D) = {wanted}"
            )
        if not bool(torch.isfinite(found).all()):
            raise ContractError(f"{self.part}: embed_items returned NaN or infinity")


def check_encoded(encoded: object, encoder: Encoder, who: str, rows: int) -> None:
    """Check the shapes of what an encoder returned against what it declares.

    Args:
        encoded: what ``forward`` returned.
        encoder: the encoder.
        who: names it in errors.
        rows: B, of the batch it was given.

    Raises:
        ContractError: it is no ``Encoded``, or has other shapes than declared.
    """
    if not isinstance(encoded, Encoded):
        raise ContractError(f"{who} returned {type(encoded).__name__}; wanted Encoded")
    _check_shape(who, "users", encoded.users, (rows, encoder.num_vectors, encoder.dim))
    given, declared = "slots" in encoded.extras, "slots" in encoder.provides
    if given:
        _check_shape(who, "slots", encoded.extras["slots"], (rows, encoder.num_vectors))
    if given != declared:
        raise ContractError(
            f"{who} {'declares' if declared else 'does not declare'} slots in "
            f"`provides` and returns {'some' if given else 'none'} in its extras; "
            "declare what is returned"
        )


def _check_shape(who: str, name: str, found: Tensor, wanted: tuple[int, ...]) -> None:
    if tuple(found.shape) != wanted:
        axes = "(B, K, D)" if name == "users" else "(B, K)"
        raise ContractError(
            f"{who} returned {name} {tuple(found.shape)}; it declares {axes} = {wanted}"
        )


def _latest(past: Sequences, users: Tensor, hi: Tensor, as_of: int | Tensor) -> SequenceBatch:
    """The latest few events of each user before a position."""
    limit = past.clip.max_events
    few = _EVENTS if limit is None else min(_EVENTS, max(limit // 2, 1))
    if not isinstance(as_of, Tensor):
        as_of = torch.full_like(hi, as_of)
    lo = torch.maximum(past.bounds(users, hi, as_of), hi - few)
    batch = past.window(users, lo, hi, as_of)
    # As narrow as the host ever makes it, so that there is a wider one to compare with.
    return replace(batch, width=bucket_width(few, None if limit is None else max(limit // 2, 1)))


def _earlier(past: Sequences, users: Tensor) -> SequenceBatch:
    """The same users as of the time of an event in the middle of their histories."""
    when = past.times[(past.starts[users] + past.ends[users]) // 2]
    return _latest(past, users, past.locate(users, when), when)


def _with_nobody(batch: SequenceBatch) -> SequenceBatch:
    """Append a filler row, as the host does to fill a batch up."""
    return replace(
        batch,
        lengths=torch.cat((batch.lengths, batch.lengths.new_zeros(1))),
        users=torch.cat((batch.users, batch.users.new_full((1,), -1))),
        as_of=torch.cat((batch.as_of, batch.as_of[-1:])),
    )


@contextmanager
def _evaluating(encoder: Encoder) -> Iterator[None]:
    """In ``eval()``, without gradients, leaving mode and random numbers as they were."""
    assert isinstance(encoder, nn.Module)  # noqa: S101
    modes = [(module, module.training) for module in encoder.modules()]
    device = _device_of(encoder)
    cuda = [device.index or 0] if device.type == "cuda" else []
    encoder.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(cuda):
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def _device_of(encoder: Encoder) -> torch.device:
    assert isinstance(encoder, nn.Module)  # noqa: S101
    tensors = [*encoder.parameters(), *encoder.buffers()]
    return tensors[0].device if tensors else torch.device("cpu")


def _on_device(encoder: Encoder, batch: SequenceBatch) -> SequenceBatch:
    return batch.to(_device_of(encoder))


def _gap(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max())
