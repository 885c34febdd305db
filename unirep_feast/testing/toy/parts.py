"""Encoder, objective and sampler of the toy plugin."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unirep_feast.batch import PAD, UNK, SequenceBatch
from unirep_feast.encoder import Encoded, Encoder
from unirep_feast.errors import ContractError
from unirep_feast.items import ItemTable
from unirep_feast.objective import Losses, Views
from unirep_feast.sampler import Draw, Units
from unirep_feast.sequences import Sequences, Window
from unirep_feast.testing.toy.hooks import (
    ToyEncoderSettings,
    ToyObjectiveSettings,
    ToySamplerSettings,
)


class ToyEncoder(nn.Module):
    """The mean of a history's item embeddings, turned by one linear layer.

    Args:
        codes: V, number of codes in the vocabulary.
        settings: see :class:`ToyEncoderSettings`.
    """

    num_vectors = 1
    depends_on_as_of = False
    provides = frozenset({"steps", "items", "batch_independent"})

    def __init__(self, codes: int, settings: ToyEncoderSettings) -> None:
        super().__init__()
        self.codes = codes
        self.dim = settings.dim
        self.window = Window(max_events=settings.max_events)
        self.items = nn.Embedding(codes, settings.dim, padding_idx=PAD)
        self.turn = nn.Linear(settings.dim, settings.dim)

    def bind(self, items: ItemTable) -> None:
        """Accept the item table; items behind the vocabulary are UNK."""

    def forward(self, batch: SequenceBatch, *, steps: bool = False) -> Encoded:
        """Encode a batch; the hidden state of an event is the mean up to it, turned."""
        items = self.embed_items(batch.pad(batch.codes))  # (B, T, D), zero where there is none
        count = batch.lengths.clamp(min=1)[:, None]
        users = self.turn(items.sum(1) / count)  # (B, D)
        if not steps:
            return Encoded(users[:, None])
        place = torch.arange(1, batch.width + 1, device=batch.device)[:, None]
        return Encoded(users[:, None], batch.unpad(self.turn(items.cumsum(1) / place)))

    def embed_items(self, codes: Tensor) -> Tensor:
        """Return (..., D) embeddings of (...) codes."""
        embedded: Tensor = self.items(codes.masked_fill(codes >= self.codes, UNK))
        return embedded

    def penalties(self, extras: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """There are none."""
        return {}


class ToyObjective(nn.Module):
    """Softmax over the batch: which later events follow this user's earlier ones?

    Args:
        numbers: per user, K · D of the encoder.
        settings: see :class:`ToyObjectiveSettings`.
    """

    requires: frozenset[str] = frozenset()
    views = frozenset({"earlier", "later"})
    validate_with_dropout = False
    trains_encoder = True

    def __init__(self, numbers: int, settings: ToyObjectiveSettings) -> None:
        super().__init__()
        self.temperature = settings.temperature
        self.head = nn.Linear(numbers, numbers)

    def forward(self, encoder: Encoder, views: Views) -> Losses:
        """Score a batch; the term is ``contrast``, in nats."""
        earlier, later = views["earlier"], views["later"]
        if not (isinstance(earlier, SequenceBatch) and isinstance(later, SequenceBatch)):
            raise ContractError("toy: the views earlier and later must be batches of histories")
        a = F.normalize(self.head(encoder(earlier).users.flatten(1)), dim=-1)  # (B, W)
        b = F.normalize(encoder(later).users.flatten(1), dim=-1)
        scores = a @ b.T / self.temperature  # (B, B), the diagonal belongs together
        own = torch.arange(len(scores), device=scores.device)
        hits = (scores.argmax(1) == own).float().mean()
        return Losses({"contrast": F.cross_entropy(scores, own)}, {"accuracy": hits.detach()})


class ToySampler:
    """Views ``earlier`` and ``later``: a history cut at the time of one of its events.

    Args:
        settings: see :class:`ToySamplerSettings`.
    """

    views = frozenset({"earlier", "later"})

    def __init__(self, settings: ToySamplerSettings) -> None:
        self.settings = settings

    def units(self, sequences: Sequences) -> Tensor:
        """Return (n,) int64 rows of the users with enough events at more than one time."""
        users = sequences.all_users()
        lo, hi = self._inside(sequences, users)
        enough = hi - lo >= self.settings.min_events
        users, lo, hi = users[enough], lo[enough], hi[enough]
        return users[sequences.times[lo] < sequences.times[hi - 1]]

    def sample(self, sequences: Sequences, units: Units, draw: Draw) -> Views:
        """Cut at a drawn event: what is before its time, and the rest."""
        users = units.users
        lo, hi = self._inside(sequences, users)
        # Past everything that shares the first event's time, so that no view is empty.
        second = sequences.locate(users, sequences.times[lo] + 1)
        generator = draw.generator("cut")
        lot = torch.rand(users.shape, generator=generator, device=sequences.device)
        chosen = second + (lot * (hi - second)).long().clamp(max=hi - second - 1)
        when = sequences.times[chosen]
        cut = sequences.locate(users, when)
        until = torch.full_like(users, sequences.until)
        return {
            "earlier": sequences.window(users, lo, cut, when),
            "later": sequences.window(users, cut, hi, until),
        }

    def _inside(self, sequences: Sequences, users: Tensor) -> tuple[Tensor, Tensor]:
        """(n,) and (n,) int64 bounds of the histories within the encoder's window."""
        hi = sequences.ends[users]
        until = torch.full_like(hi, sequences.until)
        return sequences.bounds(users, hi, until), hi
