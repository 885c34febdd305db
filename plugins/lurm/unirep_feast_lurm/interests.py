"""The interest vocabulary: fitted once, kept in the checkpoint, applied to unseen items."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from unirep_feast.batch import FIRST_ITEM
from unirep_feast.errors import EventsError
from unirep_feast.hookspecs import Fit
from unirep_feast.item_vectors import cooccurrence_vectors
from unirep_feast.item_words import fit_words, load_words
from unirep_feast.items import ItemTable
from unirep_feast.sequences import Sequences
from unirep_feast.text import joined, tokenize, word_limit
from unirep_feast_lurm.clustering import assign, hdsc, kmeans
from unirep_feast_lurm.config import (
    InterestSettings,
    ItemSettings,
    PairObjectiveSettings,
    PairSettings,
)
from unirep_feast_lurm.items import BY_ID, UNTRAINED, WEIGHTS, ItemEncoder
from unirep_feast_lurm.pairs import PairObjective, PairSampler
from unirep_feast_lurm.word2vec import fit_word2vec

_log = logging.getLogger(__name__)

#: The spec's ``training`` section is of the users' network: nothing of how it ends applies here.
_STAGE: dict[str, Any] = {
    "epochs": None,
    "max_minutes": None,
    "validation": 0.0,
    "test": 0.0,
    "init_from": None,
    "compile": False,
}


def prepare_words(settings: ItemSettings, sequences: Sequences) -> dict[str, Tensor]:
    """Fit the words of titles and the word limit; nothing where items are their ids.

    Raises:
        EventsError: titles are wanted and there is not one word.
    """
    if settings.items in BY_ID:
        return {}
    items = sequences.items
    prepared = fit_words(items, settings.text)
    if not len(prepared["words.lengths"]):
        raise EventsError(
            "lurm reads item titles, but none of the items seen before the training cut-off has a "
            f"word that occurs {settings.text.min_count} times; name a table with titles under "
            "`items`, or set encoder.settings.items: id"
        )
    limit = settings.text.max_words or word_limit(_titles(settings, items), settings.covered)
    return {**prepared, "words.limit": torch.tensor(limit)}


def prepare_untrained(settings: ItemSettings, sequences: Sequences) -> dict[str, Tensor]:
    """Fit words, and vectors that are not learnt by contrast; see :func:`prepare_words`."""
    if settings.items == "cooccurrence":
        return {WEIGHTS + "table.items.weight": cooccurrence_vectors(sequences, settings.item_dim)}
    seed = torch.initial_seed()
    prepared = prepare_words(settings, sequences)
    if settings.items != "word2vec":
        return prepared
    tokens = _titles(settings, sequences.items)
    words, dim = load_words(prepared), settings.item_dim
    vectors = fit_word2vec(tokens, words, dim, settings.word2vec_epochs, seed)
    return {**prepared, WEIGHTS + "table.words.weight": vectors}


def prepare_items(settings: InterestSettings, sequences: Sequences, fit: Fit) -> dict[str, Tensor]:
    """Fit words and item vectors (section 3.1.1), those of words or items with the host's loop."""
    prepared = prepare_untrained(settings, sequences)
    if settings.items in UNTRAINED:
        return prepared
    encoder = ItemEncoder(len(sequences.vocabulary), settings, prepared)
    encoder.bind(sequences.items)
    fit(
        encoder,
        PairObjective(PairObjectiveSettings(temperature=settings.item_temperature)),
        PairSampler(PairSettings(beta_days=settings.beta_days)),
        sequences,
        **_STAGE,
        max_steps=settings.item_steps,
        batch_size=settings.item_batch,
        learning_rate=settings.item_learning_rate,
    )
    state = {WEIGHTS + key: value for key, value in encoder.state_dict().items()}
    return {**prepared, **{key: value.detach().cpu().clone() for key, value in state.items()}}


def prepare_interests(
    settings: InterestSettings, sequences: Sequences, fit: Fit
) -> dict[str, Tensor]:
    """Fit item vectors, centres and assignments, for an encoder's ``prepare``.

    Returns:
        Beside what :func:`prepare_items` gives: ``items.vectors`` (V, d), ``interests.centres``
        (D, d), ``interests.places`` (V, S) int64 and ``interests.shares`` (V, S), zero where an
        item has no vector. No centre is without an item.
    """
    generator = torch.Generator().manual_seed(torch.initial_seed() % 2**63)
    prepared = prepare_items(settings, sequences, fit)
    items, codes = sequences.items, torch.arange(len(sequences.vocabulary))
    encoder = ItemEncoder(len(codes), settings, prepared).eval()
    encoder.bind(items)
    with torch.no_grad():
        vectors = encoder.embed_items(codes)
        there = torch.nonzero((vectors != 0).any(1)).flatten()
        if not len(there):
            raise EventsError(
                "lurm: no item has a vector, so there is nothing to cluster; give items titles, "
                "or set encoder.settings.items: id"
            )
        x = vectors[there].to("cuda" if torch.cuda.is_available() else "cpu")
        centres = _centres(settings, x, generator)
        nearest, _ = assign(x, centres, 1, 1.0)
        centres = centres[torch.unique(nearest)]
        found = assign(x, centres, *_sharing(settings))
    places = torch.zeros(len(codes), found[0].shape[1], dtype=torch.int64)
    shares = torch.zeros(places.shape)
    places[there], shares[there] = found[0].cpu(), found[1].cpu()
    return {
        **prepared,
        "items.vectors": vectors,
        "interests.centres": centres.cpu(),
        "interests.places": places,
        "interests.shares": shares,
    }


class Interests:
    """Which interests an item code belongs to.

    Items of the vocabulary keep what was fitted. Items that the run-time catalogue appends go to
    the centres nearest to their vectors, computed on the CPU when first asked for after a
    :meth:`bind`; items without a vector, and the codes PAD, MASK and UNK, belong to none. Nothing
    here is a parameter or a buffer: it is no state of a network, and ranks need not exchange it.

    Attributes:
        count: D.

    Args:
        codes: V, number of codes in the vocabulary.
        settings: see :class:`InterestSettings`.
        prepared: from :func:`prepare_interests`.
    """

    def __init__(
        self, codes: int, settings: InterestSettings, prepared: Mapping[str, Tensor]
    ) -> None:
        self.settings = settings
        self.centres = prepared["interests.centres"]
        self.count = len(self.centres)
        self._fitted = (prepared["interests.places"], prepared["interests.shares"])
        self._table = self._fitted
        self._encoder = ItemEncoder(codes, settings, prepared).eval().requires_grad_(False)
        self._appended = codes

    def bind(self, items: ItemTable) -> None:
        """Take in a catalogue."""
        self._encoder.bind(items)
        self._appended = len(items)
        self._table = self._fitted

    def of(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Return (n, S) int64 interests and (n, S) shares, 0 for none, of (n,) codes."""
        self._complete(codes.device)
        places, shares = self._table
        return places[codes], shares[codes]

    @torch.no_grad()
    def _complete(self, device: torch.device) -> None:
        """Assign appended items, and bring the table to a device."""
        places, shares = self._table
        if len(places) < self._appended:
            codes = torch.arange(len(places), self._appended)
            vectors = self._encoder.embed_items(codes)
            new, part = assign(vectors, self.centres, *_sharing(self.settings))
            part = part * self._encoder.known(codes)[:, None]
            places = torch.cat((places.cpu(), new))
            shares = torch.cat((shares.cpu(), part))
        if places.device != device or places is not self._table[0]:
            self._table = (places.to(device), shares.to(device))


def _centres(settings: InterestSettings, x: Tensor, generator: torch.Generator) -> Tensor:
    """Cluster (n, d) item vectors into at most ``interests`` centres."""
    if len(x) <= settings.interests:
        distinct: Tensor = torch.unique(x, dim=0)
        _log.warning(
            "lurm: %s distinct item vectors for %s interests; each is an interest of its own",
            f"{len(distinct):,}",
            f"{settings.interests:,}",
        )
        return distinct
    sample = torch.randperm(len(x), generator=generator)[: settings.sample]
    x = x[sample.sort().values.to(x.device)]
    clusters = min(settings.interests, len(x))
    if settings.clustering == "kmeans":
        return kmeans(x, clusters, settings.passes, generator)
    return hdsc(x, clusters, settings.sparsity, generator)


def _sharing(settings: InterestSettings) -> tuple[int, float]:
    """S and the temperature of soft assignment; hard assignment is S = 1."""
    return (settings.nearest, settings.softness) if settings.assignment == "soft" else (1, 1.0)


def _titles(settings: ItemSettings, items: ItemTable) -> Any:
    """The words of the known items' texts, (V - 3,) list<string>."""
    columns = (items.titles, items.categories) if settings.text.categories else (items.titles,)
    return tokenize(joined(*columns).slice(0, items.known - FIRST_ITEM), settings.text.language)
