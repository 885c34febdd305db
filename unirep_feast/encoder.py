"""The encoder contract: histories in, user vectors out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

from torch import Tensor

from unirep_feast.batch import SequenceBatch
from unirep_feast.items import ItemTable
from unirep_feast.sequences import Window

__all__ = ["CAPABILITIES", "Encoded", "Encoder", "Window"]

#: What an encoder may declare in ``provides``.
CAPABILITIES = frozenset({"steps", "items", "slots", "batch_independent", "packed"})


#: Whether hidden states per event are asked for, and of which events.
Steps = bool | Literal["masked"]


@dataclass(frozen=True)
class Encoded:
    """What an encoder returns; every tensor is aligned with rows or events of the batch.

    Attributes:
        users: (B, K, D) float, the user vectors. Rows without events are finite and ignored.
        steps: (N, D) float, contextual hidden state of each packed event, or of the masked ones,
            if asked for.
        extras: (B, ...) tensors for ``penalties`` or publication; ``slots`` (B, K) int64 gives the
            interest id of each vector and is published beside the vectors.
    """

    users: Tensor
    steps: Tensor | None = None
    extras: Mapping[str, Tensor] = field(default_factory=dict)


@runtime_checkable
class Encoder(Protocol):
    """A ``torch.nn.Module`` that turns a batch of histories into user vectors.

    Attributes:
        num_vectors: K, vectors per user.
        dim: D, numbers per vector.
        window: what the encoder looks at.
        depends_on_as_of: True if a vector changes with the as-of time alone; such vectors are never
            carried over to a later as-of time.
        provides: capabilities, declared and never guessed: ``steps`` (hidden states per event),
            ``items`` (:meth:`embed_items` works), ``slots`` (``extras["slots"]`` tells the interest
            of each vector, always, distinct within a row), ``batch_independent`` (a row's vector
            does not depend on the other rows, so the host may run a batch in chunks), ``packed``
            (nothing is computed for padding, so the host never chunks: each chunk would only repeat
            what is computed once per batch).

    One attribute more is optional: ``blocks``, a mapping of names to (start, stop), for encoders
    that put several things side by side: which of a user's K · D numbers are whose. It is published
    in the footers of snapshots and the tags of the feature view, and read by ``take_block``.
    """

    num_vectors: int
    dim: int
    window: Window
    depends_on_as_of: bool
    provides: frozenset[str]

    def bind(self, items: ItemTable) -> None:
        """Take in the item table: at start, at load, and when the catalogue has grown.

        Known codes never change their meaning; items that the vocabulary does not know are appended
        behind it.
        """
        ...

    def __call__(self, batch: SequenceBatch, *, steps: Steps = False) -> Encoded:
        """Encode a batch.

        Args:
            batch: packed histories.
            steps: also return hidden states per event; asked for only where ``steps`` is provided
                and the objective requires it, so that an encoder may skip the work otherwise.
                ``"masked"`` asks for those of events whose code is MASK; the others' rows may hold
                any finite numbers then. An encoder may take it as True.
        """
        ...

    def embed_items(self, codes: Tensor) -> Tensor:
        """Return (n, D) item vectors for (n,) item codes; only if ``items`` is provided."""
        ...

    def penalties(self, extras: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return loss terms over everything encoded in a step, from the gathered ``extras``.

        The host calls it once per step with the extras of all encoded rows (over all chunks, and
        over all ranks in a training step under DDP), and adds the terms to the loss.
        """
        ...
