"""Linear and MLP probes on frozen vectors."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unirep_feast.evaluation.config import LogisticConfig, MlpConfig
from unirep_feast.evaluation.probe_data import ProbeData

_CHUNK = 4096

#: From (b, C) outputs and the b rows to a mean loss.
Loss = Callable[[Tensor, np.ndarray], Tensor]


def loss_of(data: ProbeData) -> Loss:
    """The loss of a problem, as a mean over rows.

    Cross-entropy where classes or labels are predicted, squared error of the standardised number
    for regression, for ranking the cross-entropy to a uniform distribution over the positives.
    """
    if data.problem == "ranking":
        return _ranking_loss(data)
    if data.problem == "multiclass":
        classes = torch.from_numpy(data.targets.astype(np.int64))
        return lambda outputs, rows: F.cross_entropy(outputs, classes[rows])
    targets = torch.from_numpy(np.ascontiguousarray(data.targets, np.float32))
    targets = targets if targets.ndim == 2 else targets[:, None]
    if data.problem == "regression":
        mean, spread = target_scale(data)
        targets = (targets - mean) / spread
        return lambda outputs, rows: F.mse_loss(outputs, targets[rows])
    return lambda outputs, rows: F.binary_cross_entropy_with_logits(outputs, targets[rows])


def target_scale(data: ProbeData) -> tuple[float, float]:
    """Mean and spread of a regression's training targets."""
    known = data.targets[data.train]
    return float(known.mean()), float(known.std()) or 1.0


def fit_logistic(data: ProbeData, config: LogisticConfig) -> np.ndarray:
    """Fit linear models from strong to weak regularisation; the best on ``valid`` predicts.

    Logistic regression for labels and classes, ridge regression for numbers, minimised by L-BFGS
    from zero weights: there is nothing random in it.

    Returns:
        (n, C) float32 outputs of all rows: logits, or numbers.
    """
    features = torch.from_numpy(data.scaled)
    linear = nn.Linear(features.shape[1], data.outputs)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    loss = loss_of(data)
    best, outputs = math.inf, torch.zeros(len(features), data.outputs)
    for penalty in sorted(config.penalties, reverse=True):
        optimizer = torch.optim.LBFGS(
            linear.parameters(), max_iter=config.iterations, line_search_fn="strong_wolfe"
        )

        def objective(weight: float = penalty, step: torch.optim.Optimizer = optimizer) -> Tensor:
            step.zero_grad()
            value = loss(linear(features[data.train]), data.train)
            value = value + weight * linear.weight.square().sum() / data.outputs
            value.backward()  # type: ignore[no-untyped-call]
            return value

        optimizer.step(objective)  # type: ignore[no-untyped-call]
        with torch.no_grad():
            found = linear(features)
            score = float(loss(found[data.valid], data.valid))
        if score < best:
            best, outputs = score, found
    return finish(outputs, data)


def fit_mlp(data: ProbeData, config: MlpConfig, seed: int) -> np.ndarray:
    """Fit the papers' probe, keeping the weights that are best on ``valid``.

    Returns:
        (n, C) float32 outputs of all rows.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        features = torch.from_numpy(data.scaled)
        network = _network(features.shape[1], data.outputs, config)
        loss = loss_of(data)
        optimizer = torch.optim.Adam(
            network.parameters(), config.learning_rate, weight_decay=config.weight_decay, fused=True
        )
        best, waited = math.inf, 0
        state = {name: value.clone() for name, value in network.state_dict().items()}
        for _ in range(config.epochs):
            network.train()
            order = data.train[torch.randperm(len(data.train), generator=generator).numpy()]
            for start in range(0, len(order), config.batch_size):
                rows = order[start : start + config.batch_size]
                optimizer.zero_grad()
                loss(network(features[rows]), rows).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            score = _score(network, features, loss, data.valid)
            waited = 0 if score < best else waited + 1
            if score < best:
                best = score
                state = {name: value.clone() for name, value in network.state_dict().items()}
            elif waited >= config.patience:
                break
        network.load_state_dict(state)
        network.eval()
        with torch.inference_mode():
            outputs = torch.cat([network(chunk) for chunk in features.split(_CHUNK)])  # type: ignore[no-untyped-call]
    return finish(outputs, data)


def _network(width: int, outputs: int, config: MlpConfig) -> nn.Sequential:
    layers: list[nn.Module] = []
    for hidden in config.hidden:
        layers += [nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(config.dropout)]
        width = hidden
    return nn.Sequential(*layers, nn.Linear(width, outputs))


def _score(network: nn.Module, features: Tensor, loss: Loss, rows: np.ndarray) -> float:
    """The mean loss over rows, in chunks: a ranking has thousands of outputs per row."""
    network.eval()
    total = 0.0
    with torch.inference_mode():
        for start in range(0, len(rows), _CHUNK):
            some = rows[start : start + _CHUNK]
            total += float(loss(network(features[some]), some)) * len(some)
    return total / max(len(rows), 1)


def _ranking_loss(data: ProbeData) -> Loss:
    offsets, positives = data.examples.offsets, data.examples.positives
    assert offsets is not None and positives is not None  # noqa: S101

    def loss(outputs: Tensor, rows: np.ndarray) -> Tensor:
        sizes = (offsets[rows + 1] - offsets[rows]).astype(np.int64)
        row = np.repeat(np.arange(len(rows)), sizes)
        first = np.repeat(np.cumsum(sizes) - sizes, sizes)
        place = np.arange(len(row)) - first + np.repeat(offsets[rows], sizes)
        found = F.log_softmax(outputs, dim=1)[torch.from_numpy(row), positives[place]]
        weights = torch.from_numpy((1 / np.repeat(sizes, sizes)).astype(np.float32))
        return -(found * weights).sum() / len(rows)

    return loss


def finish(outputs: Tensor, data: ProbeData) -> np.ndarray:
    """Outputs as numpy: numbers back on their scale, a single column flat."""
    found = outputs.detach().numpy()
    if data.problem == "regression":
        mean, spread = target_scale(data)
        found = found * spread + mean
    if data.problem == "multiclass":
        found = torch.softmax(outputs.detach(), dim=1).numpy()
    single = data.problem in ("binary", "regression", "impressions")
    return np.asarray(found[:, 0] if single else found, np.float32)
