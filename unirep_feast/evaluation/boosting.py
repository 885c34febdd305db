"""Gradient boosting on frozen vectors, by LightGBM."""

from __future__ import annotations

from typing import Any

import numpy as np

from unirep_feast.errors import EvaluationError
from unirep_feast.evaluation.config import BoostingConfig
from unirep_feast.evaluation.probe_data import ProbeData

_OBJECTIVES = {
    "binary": "binary",
    "impressions": "binary",
    "multilabel": "binary",
    "multiclass": "multiclass",
    "regression": "regression",
}


#: Columns that a tree looks at, at most: of a thousand a few hundred do, at a part of the cost.
_COLUMNS = 256


def load_lightgbm() -> Any:
    """Import LightGBM.

    Raises:
        EvaluationError: it is not installed.
    """
    try:
        import lightgbm
    except (ImportError, OSError) as error:  # OSError: libgomp is missing
        raise EvaluationError(
            f"the boosting probe needs LightGBM ({error}); pip install 'unirep-feast[evaluation]', "
            "or leave it out of `probes`"
        ) from None
    return lightgbm


def fit_boosting(data: ProbeData, config: BoostingConfig, seed: int) -> np.ndarray:
    """Fit trees, as many as are best on ``valid``; one model per label.

    Returns:
        (n,) or (n, C) float32 outputs of all rows.
    """
    lightgbm, parameters = load_lightgbm(), _parameters(data, config, seed)
    # Once for all columns: sorting thousands of numbers into bins costs as much as the trees.
    train = lightgbm.Dataset(data.features[data.train], params=parameters, free_raw_data=False)
    valid = lightgbm.Dataset(data.features[data.valid], reference=train, params=parameters)

    def fit(targets: np.ndarray) -> np.ndarray:
        known = targets[data.train]
        if data.problem == "multilabel" and known.min() == known.max():
            return np.full(len(targets), float(known[0]), np.float32)  # nothing to tell apart
        train.set_label(known)
        valid.set_label(targets[data.valid])
        stop = lightgbm.early_stopping(config.patience, verbose=False)
        model = lightgbm.train(
            parameters, train, config.rounds, valid_sets=[valid], callbacks=[stop]
        )
        return np.asarray(model.predict(data.features), np.float32)

    if data.problem != "multilabel":
        return fit(data.targets)
    return np.column_stack([fit(column) for column in data.targets.T])


def _parameters(data: ProbeData, config: BoostingConfig, seed: int) -> dict[str, Any]:
    parameters = {
        "objective": _OBJECTIVES[data.problem],
        "learning_rate": config.learning_rate,
        "num_leaves": config.leaves,
        "min_data_in_leaf": min(config.min_rows, max(len(data.train) // 10, 1)),
        "feature_fraction": min(config.columns, _COLUMNS / data.features.shape[1]),
        "bagging_fraction": config.rows,
        "bagging_freq": 1,
        "max_bin": 63,
        "seed": seed,
        "deterministic": True,
        "force_row_wise": True,
        "verbose": -1,
        "num_threads": 1,
    }
    if data.problem == "multiclass":
        parameters["num_class"] = data.outputs
    return parameters
