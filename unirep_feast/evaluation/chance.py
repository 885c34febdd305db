"""What knowing nothing of a user comes to: the line every representation must pass."""

from __future__ import annotations

import numpy as np

from unirep_feast.evaluation.examples import SplitExamples
from unirep_feast.evaluation.metrics import ranked_values
from unirep_feast.evaluation.ranking import by_popularity, offsets_of, ranks_of


def chance(made: SplitExamples, metric: str) -> float:
    """The test figure of one answer for all users, fitted on the training labels.

    For rankings that is the list of what was popular before the cut-off, for classes the most
    frequent one, for numbers their mean (median for ``mae``).
    """
    task, examples = made.loaded.task, made.examples
    if task.problem == "ranking":
        ranks = ranks_of(by_popularity(examples), examples, made.test)
        return float(ranked_values(metric, ranks, offsets_of(examples, made.test)).mean())
    train, test = examples.targets[made.train], examples.targets[made.test]
    if metric == "ap":
        return float(test.mean())
    if metric == "accuracy":
        return float((test == np.bincount(train.astype(np.int64)).argmax()).mean())
    if metric == "mae":
        return float(np.abs(test - np.median(train)).mean())
    if metric == "ndcg@10_per_group":
        return _random_ndcg(made)
    return 0.5 if metric.startswith("auc") else 0.0


def _random_ndcg(made: SplitExamples) -> float:
    """Expected nDCG@10 of a random order, the mean over impressions with and without clicks."""
    examples = made.examples
    assert examples.groups is not None  # noqa: S101
    _, place = np.unique(examples.groups[made.test], return_inverse=True)
    size = np.bincount(place)
    clicks = np.bincount(place, examples.targets[made.test] > 0).astype(np.int64)
    usable = (clicks > 0) & (clicks < size)
    total = np.concatenate(([0], np.cumsum(1 / np.log2(np.arange(10) + 2))))
    shown, hits = size[usable], clicks[usable]
    gain = total[np.minimum(shown, 10)] * hits / shown
    return float((gain / total[np.minimum(hits, 10)]).mean()) if usable.any() else 0.0
