"""A softmax classifier on the user vector: fine-tuning and the frozen probe."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unirep_feast.batch import SequenceBatch
from unirep_feast.encoder import Encoder
from unirep_feast.errors import ContractError, TrainingError
from unirep_feast.objective import Losses, Views
from unirep_feast_clue.config import ClassifySettings
from unirep_feast_clue.heads import full_precision
from unirep_feast_clue.metrics import ranking


class ClassifyObjective(nn.Module):
    """Cross-entropy of one linear layer on the user vector (section IV-C).

    "We consistently employ softmax cross-entropy loss", for profiles and cold-start items alike.
    Metrics: ``accuracy``, ``mrr_at_10``, ``recall_at_10`` over all classes, and ``n``.

    Args:
        numbers: per user, K x D of the encoder.
        settings: see :class:`ClassifySettings`; ``frozen`` trains the layer alone.
    """

    requires: frozenset[str] = frozenset()
    views = frozenset({"history", "label"})
    validate_with_dropout = False

    def __init__(self, numbers: int, settings: ClassifySettings) -> None:
        super().__init__()
        self.classifier = nn.Linear(numbers, settings.classes)
        self.label_smoothing = settings.label_smoothing
        self.trains_encoder = not settings.frozen

    def forward(self, encoder: Encoder, views: Views) -> Losses:
        """Score a batch; the term is ``classify``, in nats.

        Raises:
            TrainingError: a label code is not below the number of classes.
        """
        history, label = views["history"], views["label"]
        if not (isinstance(history, SequenceBatch) and isinstance(label, Tensor)):
            raise ContractError("clue.classify: wanted a batch of histories and (B,) label codes")
        classes = self.classifier.out_features
        highest = int(label.max()) if len(label) else 0
        if highest >= classes:
            raise TrainingError(
                f"clue.classify: found label code {highest}, wanted codes below {classes}; "
                f"set objective.settings.classes to at least {highest + 1}"
            )
        with torch.set_grad_enabled(self.trains_encoder and torch.is_grad_enabled()):
            users = encoder(history).users.flatten(1)  # (B, K * D)
        scores = full_precision(self.classifier(users))  # (B, classes)
        if len(label) == 0:
            return Losses({"classify": scores.sum()}, {})
        loss = F.cross_entropy(scores, label, label_smoothing=self.label_smoothing)
        with torch.no_grad():
            return Losses({"classify": loss}, ranking(scores, label))
