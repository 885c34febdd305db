from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from unirep_feast.batch import SequenceBatch
from unirep_feast.errors import ContractError, TrainingError
from unirep_feast.objective import Objective
from unirep_feast_clue.classify import ClassifyObjective
from unirep_feast_clue.config import ClassifySettings
from unirep_feast_clue.encoder import ClueEncoder

Batches = Callable[..., SequenceBatch]
Rows = Callable[..., list[list[int]]]
Encoders = Callable[..., ClueEncoder]


def test_equals_plain_loops(encoder: Encoders, batch_of: Batches, random_rows: Rows) -> None:
    """Cross-entropy of W v + b, written from the definition in float64."""
    model = encoder().double()
    objective = ClassifyObjective(8, ClassifySettings(classes=3)).double()
    batch = batch_of(random_rows(4))
    label = torch.tensor([0, 2, 1, 2])
    total = 0.0
    for user, true in zip(model(batch).users[:, 0], label.tolist(), strict=True):
        scores = [
            sum(w * x for w, x in zip(row, user.tolist(), strict=True)) + bias
            for row, bias in zip(
                objective.classifier.weight.tolist(),
                objective.classifier.bias.tolist(),
                strict=True,
            )
        ]
        total -= math.log(math.exp(scores[true]) / sum(math.exp(s) for s in scores))

    losses = objective(model, {"history": batch, "label": label})
    assert list(losses.terms) == ["classify"]
    assert losses.total().item() == pytest.approx(total / 4)
    assert isinstance(objective, Objective)


def test_gradients_are_right(encoder: Encoders, batch_of: Batches) -> None:
    """Analytic and numerical gradients of the classifier agree."""
    model = encoder().double()
    objective = ClassifyObjective(8, ClassifySettings(classes=3, label_smoothing=0.1)).double()
    views = {"history": batch_of([[3], [4, 5]]), "label": torch.tensor([0, 2])}
    names = ["classifier.weight", "classifier.bias"]

    def loss(*values: torch.Tensor) -> torch.Tensor:
        changed = dict(zip(names, values, strict=True))
        losses = torch.func.functional_call(objective, changed, (model, views))
        total: torch.Tensor = losses.total()
        return total

    parameters = tuple(dict(objective.named_parameters())[name] for name in names)
    assert torch.autograd.gradcheck(loss, parameters)


def test_frozen_trains_the_classifier_alone(
    encoder: Encoders, batch_of: Batches, random_rows: Rows
) -> None:
    """The probe tells the host not to train the encoder, and gives it no gradient itself."""
    views = {"history": batch_of(random_rows(4)), "label": torch.tensor([0, 1, 1, 0])}
    for frozen in (True, False):
        model = encoder()
        objective = ClassifyObjective(8, ClassifySettings(frozen=frozen))
        objective(model, views).total().backward()

        assert objective.trains_encoder is not frozen
        assert objective.classifier.weight.grad is not None
        assert all((p.grad is None) == frozen for p in model.parameters())


def test_metrics_rank_all_classes(encoder: Encoders, batch_of: Batches) -> None:
    """Scores set by hand give accuracy, MRR@10 and recall@10 worked by hand."""
    objective = ClassifyObjective(8, ClassifySettings(classes=12))
    with torch.no_grad():
        objective.classifier.weight.zero_()
        objective.classifier.bias.copy_(-torch.arange(12.0))
    views = {"history": batch_of([[3]] * 4), "label": torch.tensor([0, 1, 4, 11])}
    metrics = {k: v.item() for k, v in objective(encoder(), views).metrics.items()}

    assert metrics == {
        "accuracy": 0.25,
        "mrr_at_10": pytest.approx((1 + 1 / 2 + 1 / 5) / 4),
        "recall_at_10": 0.75,
        "n": 4.0,
    }


def test_a_label_beyond_the_classes_is_one_clear_line(encoder: Encoders, batch_of: Batches) -> None:
    """The message names the code found, the limit, and the setting to change."""
    objective = ClassifyObjective(8, ClassifySettings(classes=3))
    views = {"history": batch_of([[3], [4]]), "label": torch.tensor([0, 5])}
    with pytest.raises(TrainingError) as caught:
        objective(encoder(), views)

    message = str(caught.value)
    assert "code 5" in message and "below 3" in message and "classes to at least 6" in message
    assert "\n" not in message


def test_empty_batches_and_wrong_views(encoder: Encoders, batch_of: Batches) -> None:
    """No rows give a zero loss; views of another sampler are refused."""
    objective = ClassifyObjective(8, ClassifySettings())
    none = {"history": batch_of([]), "label": torch.zeros(0, dtype=torch.int64)}

    assert objective(encoder(), none).total().item() == 0
    with pytest.raises(ContractError, match=r"clue\.classify"):
        objective(encoder(), {"history": torch.zeros(1), "label": torch.zeros(1)})
