"""CLUE's encoder: item embeddings, a [UR] token behind the last event, and a backbone."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unirep_feast.batch import PAD, UNK, SequenceBatch
from unirep_feast.encoder import Encoded
from unirep_feast.item_vectors import begin_items
from unirep_feast.items import ItemTable
from unirep_feast.sequences import Window
from unirep_feast_clue.backbone import SHARED_STD, Backbone
from unirep_feast_clue.caser import Caser
from unirep_feast_clue.config import EncoderSettings
from unirep_feast_clue.gru import GRU
from unirep_feast_clue.nextitnet import NextItNet
from unirep_feast_clue.sasrec import SASRec

_BACKBONES: dict[str, type[Backbone]] = {
    "sasrec": SASRec,
    "gru": GRU,
    "nextitnet": NextItNet,
    "caser": Caser,
}


class ClueEncoder(nn.Module):
    """One vector per user: the hidden state of the [UR] token behind the latest event.

    Implements section IV-A.1 of Cheng et al. (2021). Rows are padded on the right and every
    backbone looks back only, so padding changes nothing. Shapes are (B, T + 1) throughout,
    whatever the lengths, so a row's vector is the same to the last bit beside other rows.

    Args:
        codes: V, number of codes in the vocabulary, PAD, MASK and UNK included.
        settings: see :class:`EncoderSettings`.
        prepared: from ``prepare_start``.
    """

    num_vectors = 1
    depends_on_as_of = False

    def __init__(
        self,
        codes: int,
        settings: EncoderSettings,
        prepared: Mapping[str, Tensor] = MappingProxyType({}),
    ) -> None:
        super().__init__()
        self.codes = codes
        self.dim = settings.dim
        self.window = Window(max_events=settings.max_events)
        # [UR] is the row behind the items: no code of an event can ever stand for it.
        self.tokens = nn.Embedding(codes + 1, settings.dim, padding_idx=PAD)
        nn.init.normal_(self.tokens.weight, std=settings.dim**-0.5)
        begin_items(self.tokens.weight, prepared)
        with torch.no_grad():
            self.tokens.weight[PAD] = 0
            self.tokens.weight[codes].normal_(std=SHARED_STD)
        self.backbone = _BACKBONES[settings.backbone](settings)
        steps = {"steps"} if self.backbone.gives_steps else set()
        self.provides = frozenset({"items", "batch_independent"} | steps)

    def bind(self, items: ItemTable) -> None:
        """Accept an item table; only ids are read, and those it appends are UNK."""

    def forward(self, batch: SequenceBatch, *, steps: bool = False) -> Encoded:
        """Encode a batch; without ``steps`` the last block computes the [UR] place only."""
        codes = batch.pad(self._known(batch.codes))  # (B, T)
        place = torch.arange(batch.width + 1, device=batch.device)
        user_token = place == batch.lengths[:, None]
        tokens = F.pad(codes, (0, 1)).masked_fill_(user_token, self.codes)
        users, hidden = self.backbone(self.tokens(tokens), batch.lengths, steps)
        packed = None if hidden is None else batch.unpad(hidden)
        return Encoded(users[:, None], packed)  # (B, 1, D), (N, D)

    def embed_items(self, codes: Tensor) -> Tensor:
        """Return (n, D) embedding rows of (n,) codes; UNK's for codes without one."""
        rows: Tensor = self.tokens(self._known(codes))
        return rows

    def penalties(self, extras: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """CLUE's loss has no whole-batch terms."""
        return {}

    def _known(self, codes: Tensor) -> Tensor:
        return codes.masked_fill(codes >= self.codes, UNK)
