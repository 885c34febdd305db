"""SUMN: multi-hop aggregation, trained so that one period of a user tells another."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unirep_feast.batch import FIRST_ITEM, PAD, UNK, SequenceBatch
from unirep_feast.encoder import Encoded, Encoder
from unirep_feast.errors import ContractError, EventsError
from unirep_feast.item_words import MeanWords, fit_words
from unirep_feast.items import ItemTable
from unirep_feast.objective import Losses, Views
from unirep_feast.sequences import Sequences, Window
from unirep_feast_baselines.config import SumnObjectiveSettings, SumnSettings
from unirep_feast_baselines.counting import count_items


class SumnEncoder(nn.Module):
    """One vector per user by attention that is refined hop by hop.

    Gu et al. (2021), *Exploiting Behavioral Consistence for Universal User Representation*: the
    first hop asks with a learnt query, every further one with what the hop before found; the hops
    are joined and projected.

    Args:
        codes: V, number of codes in the vocabulary.
        settings: see :class:`SumnSettings`.
        prepared: from :func:`prepare_sumn`.
    """

    num_vectors = 1
    depends_on_as_of = False
    provides = frozenset({"items", "batch_independent"})

    def __init__(self, codes: int, settings: SumnSettings, prepared: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.dim = d = settings.dim
        self.codes = codes
        self.window = Window(max_events=settings.max_events)
        self.words: MeanWords | None = None
        if settings.behavior == "text":
            self.words = MeanWords(prepared, settings.text, d)
        self.items = nn.Embedding(FIRST_ITEM if self.words else codes, d, padding_idx=PAD)
        nn.init.normal_(self.items.weight, std=d**-0.5)
        with torch.no_grad():
            self.items.weight[PAD] = 0
        self.query = nn.Parameter(torch.randn(d) * d**-0.5)
        self.keys = nn.ModuleList(nn.Linear(d, d) for _ in range(settings.hops))
        self.asks = nn.ModuleList(nn.Linear(d, d, bias=False) for _ in range(settings.hops))
        self.scores = nn.ModuleList(nn.Linear(d, 1, bias=False) for _ in range(settings.hops))
        self.join = nn.Linear(settings.hops * d, d)

    def bind(self, items: ItemTable) -> None:
        """Take in titles, where they are read."""
        if self.words is not None:
            self.words.bind(items)

    def forward(self, batch: SequenceBatch, *, steps: bool = False) -> Encoded:
        """Encode a batch to (B, 1, D)."""
        behaviors = self.embed_items(batch.pad(batch.codes).flatten())
        behaviors = behaviors.view(len(batch), batch.width, self.dim)  # (B, T, D)
        absent = ~batch.mask
        asked = self.query.expand(len(batch), self.dim)
        hops = []
        for key, ask, score in zip(self.keys, self.asks, self.scores, strict=True):
            hidden = torch.tanh(key(behaviors) + ask(asked)[:, None])
            logits = score(hidden).squeeze(-1).masked_fill(absent, torch.finfo(hidden.dtype).min)
            weights = logits.softmax(-1) * batch.mask  # rows without events: zeros
            asked = (weights[..., None] * behaviors).sum(1)  # (B, D)
            hops.append(asked)
        return Encoded(torch.tanh(self.join(torch.cat(hops, 1)))[:, None])

    def embed_items(self, codes: Tensor) -> Tensor:
        """Return the (n, D) behavior vectors of (n,) codes."""
        if self.words is None:
            rows: Tensor = self.items(codes.masked_fill(codes >= self.codes, UNK))
            return rows
        means: Tensor = self.words(codes)
        return torch.where(
            self.words.known(codes)[:, None], means, self.items(codes.clamp(max=UNK))
        )

    def penalties(self, extras: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """There are no whole-batch terms."""
        return {}


class ConsistencyObjective(nn.Module):
    """Behavioral consistency: from one period of a user, what occurs in another.

    Cross-entropy between a softmax over items and how often the user has each of them in the other
    period. Candidates are the items of all other periods of the batch; an item is scored by the
    product of its vector, projected, with the user's (of several vectors, their mean).

    Args:
        dim: D of the encoder.
        settings: see :class:`SumnObjectiveSettings`.
    """

    requires = frozenset({"items"})
    views = frozenset({"first", "second"})
    validate_with_dropout = False
    trains_encoder = True

    def __init__(self, dim: int, settings: SumnObjectiveSettings) -> None:
        super().__init__()
        self.project = nn.Linear(dim, dim, bias=False)
        self.dampened = settings.dampened

    def forward(self, encoder: Encoder, views: Views) -> Losses:
        """Score a batch; the term is ``consistency``, in nats per user."""
        first, second = views["first"], views["second"]
        if not (isinstance(first, SequenceBatch) and isinstance(second, SequenceBatch)):
            raise ContractError("baselines.sumn: the views first and second must be histories")
        users = encoder(first).users.float().mean(1)  # (B, D)
        largest = int(second.codes.max()) + 1 if len(second.codes) else FIRST_ITEM
        counts = count_items(second, largest)
        kept = (counts.lengths > 0) & (first.lengths > 0)
        if not bool(kept.any()):
            return Losses({"consistency": self.project(users).sum() * 0}, {})
        candidates, place = torch.unique(counts.terms, return_inverse=True)
        items = self.project(encoder.embed_items(candidates).float())  # (C, D)
        logs = F.log_softmax(users @ items.T, -1)  # (B, C)
        weights = counts.counts.float()
        weights = weights.log1p() if self.dampened else weights
        weights = weights / counts.sums(weights)[counts.rows] * kept[counts.rows]
        loss = -(weights * logs[counts.rows, place]).sum() / kept.sum()
        with torch.no_grad():
            hit = torch.zeros_like(logs, dtype=torch.bool)
            hit[counts.rows, place] = True
            best = hit.gather(1, logs.argmax(1, keepdim=True)).squeeze(1)[kept]
        return Losses({"consistency": loss}, {"best_occurs": best.float().mean()})


def prepare_sumn(settings: SumnSettings, sequences: Sequences) -> dict[str, Tensor]:
    """Fit the words of titles, where they are read.

    Raises:
        EventsError: titles are wanted and there is not one word.
    """
    if settings.behavior == "id":
        return {}
    prepared = fit_words(sequences.items, settings.text)
    if not len(prepared["words.lengths"]):
        raise EventsError(
            "baselines.sumn reads item titles, but none of the items seen before the training "
            "cut-off has a word; name a table with titles under `items`, or set "
            "encoder.settings.behavior: id"
        )
    return prepared
