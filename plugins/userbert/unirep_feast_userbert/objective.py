"""UserBERT's loss: masked behaviors and matching sequences, against medium-hard negatives."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unirep_feast.batch import SequenceBatch
from unirep_feast.encoder import Encoder
from unirep_feast.errors import ContractError, TrainingError
from unirep_feast.objective import Losses, Views
from unirep_feast_userbert.config import ObjectiveSettings
from unirep_feast_userbert.negatives import (
    Chosen,
    at_random,
    full,
    most_similar,
    own_or_overlapping,
    same_content,
    without_training,
)

#: Candidate sequences that are encoded together where only their vectors are wanted.
_ROWS = 512


class UserBertObjective(nn.Module):
    """MBP (Eq 1) plus BSM (Eq 2), summed (Eq 3); NBP of PTUM on request.

    "We used dot product to implement the matchers." Each task is a sum over what it predicts,
    divided by the B sequences of the batch. Users without two pieces stay in MBP only. Where a pool
    holds too few valid negatives the softmax has fewer; ``bsm_short`` and ``mbp_short`` count the
    missing ones.

    The vectors of the sequence pool are computed when a period begins and are kept in the state, so
    a run that is killed within a period goes on with the same negatives.

    Args:
        numbers: per user, K x D of the encoder.
        settings: see :class:`ObjectiveSettings`.
    """

    validate_with_dropout = False
    trains_encoder = True
    pool_vectors: Tensor
    pool_period: Tensor

    def __init__(self, numbers: int, settings: ObjectiveSettings) -> None:
        super().__init__()
        self.settings = settings
        requires: set[str] = set()
        views = {"history"}
        if settings.mbp:
            requires |= {"steps", "items"}
            views |= {"masked", "targets", "behaviors"}
        if settings.bsm:
            views |= {"first", "second", "candidates", "period"}
        if settings.nbp:
            requires |= {"items"}
            views |= {"first", "following", "behaviors"}
        self.requires = frozenset(requires)
        self.views = frozenset(views)
        if settings.bsm and settings.negatives == "similar":
            self.register_buffer("pool_vectors", torch.zeros(settings.sequence_pool, numbers))
            self.register_buffer("pool_period", torch.tensor(-1))

    def forward(self, encoder: Encoder, views: Views) -> Losses:
        """Score a batch; the terms are ``mbp``, ``bsm`` and ``nbp``, in nats per sequence."""
        terms: dict[str, Tensor] = {}
        metrics: dict[str, Tensor] = {}
        history = _batch(views, "history")
        if self.settings.mbp:
            logits = self._mbp(encoder, views, history)
            self._add("mbp", logits, len(history), terms, metrics)
        if self.settings.bsm or self.settings.nbp:
            first = _batch(views, "first")
            if len(first):
                A = full(encoder(first, steps=False).users)  # (b, K, D)
                if self.settings.bsm:
                    logits = self._bsm(encoder, views, first, A.flatten(1))
                    self._add("bsm", logits, len(history), terms, metrics)
                if self.settings.nbp:
                    logits = self._nbp(encoder, views, A)
                    self._add("nbp", logits, len(history), terms, metrics)
            else:
                # Every parameter must stay in the graph, or other processes wait for it.
                name = "bsm" if self.settings.bsm else "nbp"
                terms[name] = encoder(history, steps=False).users.sum() * 0
            metrics["without_pieces"] = history.lengths.new_tensor(
                len(history) - len(first), dtype=torch.float32
            )
        return Losses(terms, metrics)

    def _mbp(self, encoder: Encoder, views: Views, history: SequenceBatch) -> Tensor:
        """(M, 1 + K) scores of Eq 1: hidden states at masked places by candidates."""
        masked, targets = _tensor(views, "masked"), _tensor(views, "targets")
        steps = encoder(history, steps=True).steps
        if steps is None:
            raise ContractError(
                "userbert: the encoder returned no hidden states per behavior, which masked "
                "behaviors need; set objective.settings.mbp to false, or choose another encoder"
            )
        hidden = full(steps[masked])[:, None]  # (M, 1, D)
        return self._candidates(encoder, hidden, targets, _tensor(views, "behaviors"))

    def _nbp(self, encoder: Encoder, views: Views, A: Tensor) -> Tensor:
        """(F, 1 + K) scores of what follows ``first`` by its user vectors, the best of several."""
        following = _tensor(views, "following")
        users = A[following[:, 0]]
        return self._candidates(encoder, users, following[:, 1:], _tensor(views, "behaviors"))

    def _candidates(self, encoder: Encoder, query: Tensor, targets: Tensor, pool: Tensor) -> Tensor:
        """Score targets and their negatives by queries (n, Q, D): (n, 1 + K), positive first."""
        codes = targets[:, 0]
        barred = same_content(targets, pool)
        if self.settings.negatives == "random":
            chosen = at_random(barred, self.settings.behaviors)
        else:
            with without_training(encoder):
                distinct, place = torch.unique(codes, return_inverse=True)
                both = encoder.embed_items(torch.cat((distinct, pool[:, 0])))
            near, far = both[: len(distinct)][place], both[len(distinct) :]
            chosen = most_similar(near, far, barred, self.settings.behaviors)
        negative = codes[:, None].expand_as(chosen.columns)
        if len(pool):
            negative = pool[chosen.columns, 0]
        ids, place = torch.unique(torch.cat((codes[:, None], negative), 1), return_inverse=True)
        # The chosen are encoded again, now with gradient.
        vectors = full(encoder.embed_items(ids))
        with torch.autocast(query.device.type, enabled=False):  # bfloat16 has two digits
            dots = torch.einsum("nqd,nkd->nqk", query, F.embedding(place, vectors))
        return _masked(dots.amax(1), chosen)

    def _bsm(self, encoder: Encoder, views: Views, first: SequenceBatch, A: Tensor) -> Tensor:
        """(b, 1 + P) scores of Eq 2: sequence A by candidate sequences, B first."""
        second, pool = _batch(views, "second"), _batch(views, "candidates")
        barred = own_or_overlapping(first, pool)
        if self.settings.negatives == "random":
            chosen = at_random(barred, self.settings.sequences)
        else:
            stale = self._stale(encoder, pool, _tensor(views, "period"))
            chosen = most_similar(A.detach(), stale, barred, self.settings.sequences)
        # What several A have chosen is encoded once, by the model of now.
        rows, place = torch.unique(chosen.columns[chosen.valid], return_inverse=True)
        B = full(encoder(second, steps=False).users).flatten(1)
        positive = (A * B).sum(1, keepdim=True)
        negative = A.new_zeros(chosen.columns.shape)
        if len(rows):
            others = full(encoder(pool.take(rows), steps=False).users).flatten(1)
            at = torch.nonzero(chosen.valid)
            dots = (A[at[:, 0]] * F.embedding(place, others)).sum(1)
            negative = negative.index_put((at[:, 0], at[:, 1]), dots)
        return _masked(torch.cat((positive, negative), 1), chosen)

    def _stale(self, encoder: Encoder, pool: SequenceBatch, period: Tensor) -> Tensor:
        """(u, K * D) the pool as the model saw it when the period began."""
        if len(pool) > len(self.pool_vectors):
            raise TrainingError(
                f"userbert: found a pool of {len(pool)} candidate sequences, wanted at most "
                f"{len(self.pool_vectors)}; set objective.settings.sequence_pool to {len(pool)}"
            )
        if not torch.equal(self.pool_period, period.to(self.pool_period.device)):
            with without_training(encoder):
                for start in range(0, len(pool), _ROWS):
                    rows = torch.arange(start, min(start + _ROWS, len(pool)), device=pool.device)
                    users = encoder(pool.take(rows), steps=False).users.flatten(1)
                    self.pool_vectors[start : start + len(rows)] = users
            self.pool_period.copy_(period)
        return self.pool_vectors[: len(pool)]

    def _add(
        self,
        name: str,
        logits: Tensor,
        sequences: int,
        terms: dict[str, Tensor],
        metrics: dict[str, Tensor],
    ) -> None:
        """Cross-entropy of the positives, in column 0: summed, then divided by B."""
        target = torch.zeros(len(logits), dtype=torch.int64, device=logits.device)
        terms[name] = F.cross_entropy(logits, target, reduction="sum") / max(sequences, 1)
        with torch.no_grad():
            told = torch.isfinite(logits[:, 1:]).any(1)  # something to be told from
            # A tie is no hit: a model that scores everything alike finds nothing.
            hits = (logits[:, :1] > logits[:, 1:]).all(1) & told
            metrics[f"{name}_accuracy"] = hits.sum() / told.sum().clamp(min=1)
            metrics[f"{name}_short"] = torch.isneginf(logits).sum().float()


def _masked(scores: Tensor, chosen: Chosen) -> Tensor:
    """Take negatives that are not valid out of the softmax; the positive stays."""
    valid = F.pad(chosen.valid, (1, 0), value=True)
    return scores.masked_fill(~valid, -torch.inf)


def _batch(views: Views, name: str) -> SequenceBatch:
    view = views[name]
    if not isinstance(view, SequenceBatch):
        raise ContractError(f"userbert: the view {name} must be a batch of histories")
    return view


def _tensor(views: Views, name: str) -> Tensor:
    view = views[name]
    if not isinstance(view, Tensor):
        raise ContractError(f"userbert: the view {name} must be a tensor")
    return view
