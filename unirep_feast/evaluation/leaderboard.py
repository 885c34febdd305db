"""From rows to a leaderboard: the best probe of each representation, who leads, by how much."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from unirep_feast.evaluation.results import Cells, Row, cell_key
from unirep_feast.evaluation.significance import p_value

#: Differences with a larger p are not told apart.
SIGNIFICANT = 0.05

#: Bootstrap samples of a cell: by (representation, run, task) its cells.
AllCells = Mapping[tuple[str, str, str], Cells]


def leaderboard(rows: Sequence[Row], cells: AllCells) -> list[dict[str, Any]]:
    """Summarise rows, per task and share of labels the best representation first.

    Of each representation the probe counts that is best on ``valid``; ``test`` is only looked at
    afterwards. Mean and standard deviation are over seeds of probes and of training.

    Args:
        rows: of all representations; controls are left out.
        cells: where the bootstrap samples are.

    Returns:
        Entries as :func:`~unirep_feast.evaluation.results.document` describes them.
    """
    entries = []
    for (task, fraction), found in _by_task(rows).items():
        entries += _task(task, fraction, found, cells)
    return entries


def pairs(
    rows: Sequence[Row], cells: AllCells, entries: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Compare every two representations on every task, the better one first.

    Args:
        rows: as for :func:`leaderboard`.
        cells: as for :func:`leaderboard`.
        entries: what that returned.

    Returns:
        Entries ``task label_fraction first second difference p_value``: by how much the first
        leads, and how likely that is if they were equally good.
    """
    by_task = _by_task(rows)
    found = []
    for (task, fraction), mine in by_task.items():
        ranked = [e for e in entries if (e["task"], e["label_fraction"]) == (task, fraction)]
        samples = {
            entry["representation"]: _samples(
                [row for row in mine if _is_of(row, entry)],
                cells,
            )
            for entry in ranked
        }
        for place, first in enumerate(ranked):
            for second in ranked[place + 1 :]:
                names = first["representation"], second["representation"]
                difference = first["mean"] - second["mean"]
                p = p_value(samples[names[0]], samples[names[1]], difference)
                found.append(
                    {
                        "task": task,
                        "label_fraction": fraction,
                        "first": names[0],
                        "second": names[1],
                        "difference": abs(difference),
                        "p_value": p,
                    }
                )
    return found


def _by_task(rows: Sequence[Row]) -> dict[tuple[str, float], list[Row]]:
    """Rows of primary metrics by task and share of labels, controls left out."""
    found: dict[tuple[str, float], list[Row]] = defaultdict(list)
    for row in rows:
        if row.primary and not row.control:
            found[row.task, row.label_fraction].append(row)
    return found


def _is_of(row: Row, entry: Mapping[str, Any]) -> bool:
    named = (entry["representation"], entry["probe"], "test")
    return (row.representation, row.probe, row.split) == named


def _task(task: str, fraction: float, rows: Sequence[Row], cells: AllCells) -> list[dict[str, Any]]:
    higher = rows[0].higher_is_better
    sign = 1 if higher else -1
    entries: list[dict[str, Any]] = []
    samples: dict[str, np.ndarray] = {}
    for name in dict.fromkeys(row.representation for row in rows):
        mine = [row for row in rows if row.representation == name]
        probe, valid = _best_probe(mine, sign)
        tested = [row for row in mine if row.split == "test" and row.probe == probe]
        values = np.array([row.value for row in tested])
        samples[name] = _samples(tested, cells)
        entries.append(
            {
                "task": task,
                "representation": name,
                "probe": probe,
                "label_fraction": fraction,
                "metric": tested[0].metric,
                "mean": float(values.mean()),
                "std": float(values.std(ddof=1)) if len(values) > 1 else 0.0,
                "n": len(values),
                "valid": valid,
            }
        )
    entries.sort(key=lambda entry: -sign * entry["mean"])
    first = entries[0]
    for rank, entry in enumerate(entries, 1):
        p = None
        if entry is not first:
            pair = samples[first["representation"]], samples[entry["representation"]]
            p = p_value(*pair, first["mean"] - entry["mean"])
        entry |= {"rank": rank, "p_value": p, "best": p is None or p >= SIGNIFICANT}
    return entries


def _best_probe(rows: Sequence[Row], sign: int) -> tuple[str, float]:
    """The probe best on ``valid``, and its mean there; the index only repeats ``direct``."""
    scores: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        if row.split == "valid":
            scores[row.probe].append(row.value)
    if len(scores) > 1:
        scores.pop("index", None)
    means = {probe: float(np.mean(values)) for probe, values in scores.items()}
    best = max(means, key=lambda probe: (sign * means[probe], probe))
    return best, means[best]


def _samples(rows: Sequence[Row], cells: AllCells) -> np.ndarray:
    """The bootstrap samples of a probe, mean over seeds."""
    found = []
    for row in rows:
        key = cell_key(row.probe, row.label_fraction, row.seed, row.control)
        made = cells[row.representation, row.run, row.task]
        found.append(made.predictions[f"{key}#resampled"])
    return np.asarray(np.mean(found, axis=0))


def mean_ranks(entries: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Mean rank of every representation over all tasks with all labels, best first."""
    ranks: dict[str, list[int]] = defaultdict(list)
    most = max((entry["label_fraction"] for entry in entries), default=1.0)
    for entry in entries:
        if entry["label_fraction"] == most:
            ranks[entry["representation"]].append(entry["rank"])
    means = {name: float(np.mean(found)) for name, found in ranks.items()}
    return dict(sorted(means.items(), key=lambda pair: pair[1]))
