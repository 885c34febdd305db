"""LURM's encoder: bags of interests per period, anchors, a GRU over time, a gate over scales."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from unirep_feast.batch import SequenceBatch
from unirep_feast.encoder import Encoded
from unirep_feast.errors import ContractError
from unirep_feast.items import ItemTable
from unirep_feast.sequences import Window
from unirep_feast_lurm.aggregation import PeriodGRU
from unirep_feast_lurm.anchors import MultiAnchor
from unirep_feast_lurm.bag import Bag
from unirep_feast_lurm.config import MONTHS, BagSettings, EncoderSettings
from unirep_feast_lurm.interests import Interests

_NO_ITEMS = "lurm: items have no vectors in the space of users; the encoder lurm.items has some"


class ScaleGate(nn.Module):
    """Fuse two scales anchor by anchor, Eq 7.

    The switch of each anchor is a fully connected layer of its own with a sigmoid, one number per
    number of the vector.

    Args:
        anchors: M.
        dim: H.
    """

    def __init__(self, anchors: int, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(anchors, 2 * dim, dim) * (2 * dim) ** -0.5)
        self.bias = nn.Parameter(torch.zeros(anchors, 1, dim))

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        """Fuse (B, M, H) and (B, M, H) to (B, M, H)."""
        both = torch.cat((fine, coarse), -1).transpose(0, 1)  # (M, B, 2H)
        switch = torch.baddbmm(self.bias, both, self.weight).sigmoid().transpose(0, 1)
        return switch * fine + (1 - switch) * coarse


class LurmEncoder(nn.Module):
    """M vectors per user out of a lifetime, by the self-supervised multi-anchor network.

    Sections 3.1 and 3.2. Events are counted once, into a sparse bag of interests per month; from
    there on cost follows periods and non-zero counts. Periods are absolute UTC calendar periods
    from the first event to the last, so a later as-of time alone changes nothing.

    Args:
        codes: V, number of codes in the vocabulary, PAD, MASK and UNK included.
        settings: see :class:`EncoderSettings`.
        prepared: from :func:`~unirep_feast_lurm.interests.prepare_interests`.
    """

    depends_on_as_of = False
    provides = frozenset({"batch_independent"})

    def __init__(
        self, codes: int, settings: EncoderSettings, prepared: Mapping[str, Tensor]
    ) -> None:
        super().__init__()
        self.num_vectors, self.dim = settings.anchors, settings.dim
        self.window = Window(max_days=settings.max_days)
        self.scales = [MONTHS[scale] for scale in settings.scales]
        self.interests = Interests(codes, settings, prepared)
        self.anchors = MultiAnchor(self.interests.count, settings.anchors, settings.dim)
        if settings.start == "centres":
            with torch.no_grad():
                self.anchors.interests.copy_(prepared["interests.centres"])
        self.grus_per_scale = 1 if settings.share_anchors else settings.anchors
        self.share_scales = settings.share_scales
        count = self.grus_per_scale * (1 if settings.share_scales else len(self.scales))
        self.grus = nn.ModuleList(PeriodGRU(settings.dim) for _ in range(count))
        self.gate = ScaleGate(settings.anchors, settings.dim) if len(self.scales) == 2 else None

    def bind(self, items: ItemTable) -> None:
        """Take in the catalogue: appended items get their nearest interests."""
        self.interests.bind(items)

    def forward(self, batch: SequenceBatch, *, steps: bool = False) -> Encoded:
        """Encode a batch."""
        count = self.interests.count
        months = Bag.monthly(batch, self.interests.of, count)
        scales = [
            self._aggregate(months.at(length, count), number)
            for number, length in enumerate(self.scales)
        ]
        if self.gate is None:
            return Encoded(scales[0])
        return Encoded(self.gate(*scales))

    def embed_items(self, codes: Tensor) -> Tensor:
        """Refuse: items have no vectors in the space of users."""
        raise ContractError(_NO_ITEMS)

    def penalties(self, extras: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """LURM's loss has no whole-batch terms."""
        return {}

    def _aggregate(self, bag: Bag, scale: int) -> Tensor:
        """Read the periods of a bag: (B, M, H)."""
        B, M, H = len(bag.steps), self.num_vectors, self.dim
        periods = self.anchors(bag)  # (P, M, H)
        first = 0 if self.share_scales else scale * self.grus_per_scale
        if self.grus_per_scale == 1:
            # One sequence per anchor and row, all through one GRU.
            flat = periods.transpose(0, 1).reshape(-1, H)
            states: Tensor = self.grus[first](flat, bag.steps.repeat(M))
            return states.view(M, B, H).transpose(0, 1)
        each = [self.grus[first + m](periods[:, m], bag.steps) for m in range(M)]
        return torch.stack(each, 1)


class BagEncoder(nn.Module):
    """The bag of interests of a whole history as the user's vector, the baseline of Tables 2-4.

    Nothing is trained on top of the interests. The vector is dense, since that is what is stored.

    Args:
        codes: V, number of codes in the vocabulary.
        settings: see :class:`BagSettings`.
        prepared: from :func:`~unirep_feast_lurm.interests.prepare_interests`.
    """

    num_vectors = 1
    depends_on_as_of = False
    provides = frozenset({"batch_independent"})

    def __init__(self, codes: int, settings: BagSettings, prepared: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.window = Window(max_days=settings.max_days)
        self.interests = Interests(codes, settings, prepared)
        self.dim = self.interests.count

    def bind(self, items: ItemTable) -> None:
        """Take in the catalogue: appended items get their nearest interests."""
        self.interests.bind(items)

    def forward(self, batch: SequenceBatch, *, steps: bool = False) -> Encoded:
        """Encode a batch to (B, 1, D)."""
        bag = Bag.monthly(batch, self.interests.of, self.dim).whole(self.dim)
        users = torch.zeros(len(batch), self.dim, device=batch.device)
        users[bag.rows, bag.interests] = bag.values.to(users.dtype)
        return Encoded(users[:, None])

    def embed_items(self, codes: Tensor) -> Tensor:
        """Refuse: items have no vectors in the space of users."""
        raise ContractError(_NO_ITEMS)

    def penalties(self, extras: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Nothing is trained."""
        return {}
