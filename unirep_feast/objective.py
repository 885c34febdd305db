"""The objective contract: an encoder and some views in, loss terms out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol, runtime_checkable

from torch import Tensor

from unirep_feast.batch import SequenceBatch
from unirep_feast.encoder import Encoder

#: What a sampler hands to an objective: named batches of histories and named tensors.
Views = Mapping[str, SequenceBatch | Tensor]


class Losses(NamedTuple):
    """What an objective returns.

    Attributes:
        terms: named () tensors; their sum is the loss.
        metrics: named () tensors that are only logged.
    """

    terms: dict[str, Tensor]
    metrics: dict[str, Tensor]

    def total(self) -> Tensor:
        """The loss: the sum of all terms."""
        first, *rest = self.terms.values()
        for term in rest:
            first = first + term
        return first


@runtime_checkable
class Objective(Protocol):
    """A ``torch.nn.Module`` that scores an encoder on views; training-only heads live in it.

    Attributes:
        requires: capabilities the encoder must provide.
        views: names the sampler must supply.
        validate_with_dropout: True where dropout makes the views, so that a loss without it would
            mean nothing; validation then runs with dropout on and a random generator of its own.
        trains_encoder: False for a frozen probe: the host keeps the encoder in ``eval()`` and gives
            it no gradient.
    """

    requires: frozenset[str]
    views: frozenset[str]
    validate_with_dropout: bool
    trains_encoder: bool

    def __call__(self, encoder: Encoder, views: Views) -> Losses:
        """Score a batch of views.

        Args:
            encoder: call it like the encoder itself; the host may run a batch in chunks behind it.
            views: at least the names in ``self.views``.
        """
        ...
