"""GUIM's loss: which item was masked, and which items come after T, both by InfoNCE."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unirep_feast.batch import FIRST_ITEM, MASK, SequenceBatch
from unirep_feast.encoder import Encoder, Steps
from unirep_feast.errors import ContractError
from unirep_feast.gathering import gather_rows
from unirep_feast.objective import Losses, Views
from unirep_feast_guim.bert import one_layer
from unirep_feast_guim.config import ObjectiveSettings
from unirep_feast_guim.pool import ItemPool
from unirep_feast_guim.scores import attended_vectors, closest_vector, cosines, cosines_at


@dataclass(frozen=True)
class Pairs:
    """Positives of a task: the item of each is told from items of other users.

    Attributes:
        rows: (n,) int64 row of the user.
        codes: (n,) int64 item code, in the pool.
    """

    rows: Tensor
    codes: Tensor


class GuimObjective(nn.Module):
    """Masked items and matching (sections 3.2 and 3.3), summed.

    Both tasks find the positive among K negatives by a softmax over scores (Eq 4). A masked item is
    scored by ``alpha * cos(o_n, v_j)`` with ``o_n = f_o(h_n)`` (nothing else needs f_o, so it lives
    here), an item after T by Eq 3 or Eq 2. ``v_j`` is the item's own vector, without time and never
    masked. The paper's loss is a sum over users and items; here it is that sum divided by the users
    of the batch, so that learning rate and gradient clipping do not depend on their number.

    Items that nothing is known of (UNK) are neither positives nor negatives, and a positive that no
    other user's item is there to be told from is left out; ``left_out`` counts both.

    Args:
        dim: D of the encoder.
        settings: see :class:`ObjectiveSettings`.
    """

    views = frozenset({"history", "items", "masked", "future"})
    validate_with_dropout = False
    trains_encoder = True

    def __init__(self, dim: int, settings: ObjectiveSettings) -> None:
        super().__init__()
        self.settings = settings
        self.requires = frozenset({"items", "steps"} if settings.mlm else {"items"})
        if settings.mlm:
            self.f_o = one_layer(dim, dim, settings.activation)

    def forward(self, encoder: Encoder, views: Views) -> Losses:
        """Score a batch; the terms are ``mlm`` and ``matching``, in nats per user."""
        history, items, masked, future = _checked(views)
        encoded = encoder(history, steps=self._steps_of(history, masked))
        pool = _pool(history, items, future)
        vectors = _full(encoder.embed_items(pool.codes))  # (P, D)
        terms: dict[str, Tensor] = {}
        metrics: dict[str, Tensor] = {}
        left_out = items.new_zeros(())
        if self.settings.mlm:
            kept = self._usable(pool, history.rows[masked], items[masked])
            left_out = left_out + (~kept).sum()
            place = masked[kept]
            hidden = _steps(encoded.steps)[place]
            pairs = Pairs(history.rows[place], items[place])
            logits = self._masked(_full(self.f_o(hidden)), vectors, pairs, pool)
            self._add("mlm", logits, len(history), terms, metrics)
        if self.settings.matching:
            kept = self._usable(pool, future.rows, future.codes)
            left_out = left_out + (~kept).sum()
            pairs = Pairs(future.rows[kept], future.codes[kept])
            cosine = cosines(_full(encoded.users), vectors)  # (B, C, P)
            logits = self._matched(self._score(cosine), pairs, pool)
            self._add("matching", logits, len(history), terms, metrics)
            metrics["vectors_used"] = vectors_used(cosine.detach(), pairs, pool)
        metrics["left_out"] = left_out.float()
        return Losses(terms, metrics)

    def _steps_of(self, history: SequenceBatch, masked: Tensor) -> Steps:
        """Which hidden states are needed; a sampler may have left some masked items in sight."""
        if not self.settings.mlm:
            return False
        return "masked" if bool((history.codes[masked] == MASK).all()) else True

    def _usable(self, pool: ItemPool, rows: Tensor, codes: Tensor) -> Tensor:
        """(n,) bool: positives that are items and have something to be told from."""
        return (codes >= FIRST_ITEM) & (pool.foreign() > 0)[rows]

    def _score(self, cosine: Tensor) -> Tensor:
        """(B, C, P) cosines to (B, P), before alpha."""
        if self.settings.score == "max":
            return closest_vector(cosine)
        return attended_vectors(cosine, self.settings.attention_scale)

    def _masked(self, hidden: Tensor, vectors: Tensor, pairs: Pairs, pool: ItemPool) -> Tensor:
        """Score masked items by their hidden states (n, D): (n, 1 + K), the positive first."""
        if self.settings.negatives is None:
            each = torch.arange(len(hidden), device=hidden.device)
            return self._against_all(cosines(hidden, vectors), each, pairs, pool)
        # A hidden state meets 1 + K of the P items: a product with all would be P / K as much.
        places = self._drawn(pairs, pool, self.settings.negatives)
        return self.settings.alpha * cosines_at(hidden, vectors, places)

    def _matched(self, scores: Tensor, pairs: Pairs, pool: ItemPool) -> Tensor:
        """Score items after T by scores (B, P) of their users: (n, 1 + K), the positive first."""
        if self.settings.negatives is None:
            return self._against_all(scores, pairs.rows, pairs, pool)
        places = self._drawn(pairs, pool, self.settings.negatives)
        # One flat index: its gradient costs a third of that of a pair of indices on a CPU.
        cells = pairs.rows[:, None] * scores.shape[1] + places
        chosen = scores.flatten().gather(0, cells.flatten()).view(cells.shape)
        return self.settings.alpha * chosen

    def _drawn(self, pairs: Pairs, pool: ItemPool, count: int) -> Tensor:
        """(n, 1 + K) int64 places in the pool: each positive's, and its negatives'."""
        positive = pool.places(pairs.codes)[:, None]
        return torch.cat((positive, pool.draw(pairs.rows, count)), 1)

    def _against_all(self, scores: Tensor, at: Tensor, pairs: Pairs, pool: ItemPool) -> Tensor:
        """Tell each positive from every foreign item of the pool.

        Args:
            scores: (S, P) of every item in the pool, before alpha.
            at: (n,) int64 the row of ``scores`` that each positive is scored in.
            pairs: the n positives.
            pool: the P items.

        Returns:
            (n, 1 + P) scores times alpha, the positive's first, -inf for the user's own items.
        """
        positive = pool.places(pairs.codes)[:, None]  # (n, 1)
        rest = scores[at].masked_fill(pool.own[pairs.rows], -torch.inf)
        return self.settings.alpha * torch.cat((scores[at[:, None], positive], rest), 1)

    def _add(
        self,
        name: str,
        logits: Tensor,
        users: int,
        terms: dict[str, Tensor],
        metrics: dict[str, Tensor],
    ) -> None:
        """Eq 4: the negative log likelihood of the positives, in column 0, summed."""
        first = torch.zeros(len(logits), dtype=torch.int64, device=logits.device)
        total = F.cross_entropy(logits, first, reduction="sum")
        terms[name] = total / max(users, 1)
        with torch.no_grad():
            count = max(len(logits), 1)
            metrics[f"{name}_per_item"] = total / count
            # A tie is no hit: a model that scores everything alike finds nothing.
            hits = (logits[:, :1] > logits[:, 1:]).all(1)
            metrics[f"{name}_accuracy"] = hits.sum() / count


def vectors_used(cosine: Tensor, pairs: Pairs, pool: ItemPool) -> Tensor:
    """How many of the C vectors win positives: exp of the entropy of who wins, 1 to C.

    Shape:
        cosine: (B, C, P) float.
        returns: () float.
    """
    winners = cosine[pairs.rows, :, pool.places(pairs.codes)].argmax(1)  # (n,)
    share = torch.bincount(winners, minlength=cosine.shape[1]) / max(len(winners), 1)
    used: Tensor = torch.special.entr(share).sum().exp()
    return used


def _pool(history: SequenceBatch, items: Tensor, future: SequenceBatch) -> ItemPool:
    """The items of the mini-batch; under DDP those of the other ranks' users too.

    Codes are all that ranks must exchange: each embeds the whole pool itself.
    """
    codes = torch.cat((items, future.codes))
    (everywhere,), start, _ = gather_rows(codes)
    others = torch.cat((everywhere[:start], everywhere[start + len(codes) :]))
    return ItemPool.of(torch.cat((history.rows, future.rows)), codes, len(history), others)


def _checked(views: Views) -> tuple[SequenceBatch, Tensor, Tensor, SequenceBatch]:
    history, items, masked, future = (
        views[name] for name in ("history", "items", "masked", "future")
    )
    if not (
        isinstance(history, SequenceBatch)
        and isinstance(items, Tensor)
        and isinstance(masked, Tensor)
        and isinstance(future, SequenceBatch)
    ):
        raise ContractError(
            "guim: wanted batches of histories as views history and future, and tensors of codes "
            "and positions as views items and masked"
        )
    return history, items, masked, future


def _steps(steps: Tensor | None) -> Tensor:
    if steps is None:
        raise ContractError(
            "guim: the encoder returned no hidden states per event, which masked items need; set "
            "objective.settings.mlm to false, or choose an encoder that provides steps"
        )
    return steps


def _full(x: Tensor) -> Tensor:
    """Half-precision numbers (autocast) as float32, others untouched."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
