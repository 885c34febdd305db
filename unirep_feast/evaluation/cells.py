"""The cells of a task: each probe, on each share of the labels, with each seed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from unirep_feast.config import format_instant
from unirep_feast.evaluation.boosting import fit_boosting
from unirep_feast.evaluation.config import EvaluationConfig, Probe
from unirep_feast.evaluation.examples import SplitExamples
from unirep_feast.evaluation.heads import fit_logistic, fit_mlp
from unirep_feast.evaluation.metrics import (
    higher_is_better,
    is_per_row,
    per_row,
    ranked_values,
    whole,
)
from unirep_feast.evaluation.probe_data import ProbeData
from unirep_feast.evaluation.ranking import (
    NEIGHBORS,
    ItemSpace,
    by_items,
    by_neighbors,
    by_outputs,
    offsets_of,
    ranks_by_index,
    ranks_of,
)
from unirep_feast.evaluation.results import Cells, Row, cell_key
from unirep_feast.evaluation.significance import resampled
from unirep_feast.splits import hash_ids

#: Probes without randomness: with all labels, every seed would give the same.
DETERMINISTIC: frozenset[Probe] = frozenset({"logistic", "neighbors", "direct", "index"})
_UNTRAINED: frozenset[Probe] = frozenset({"direct", "index"})

_APPLY: dict[str, frozenset[Probe]] = {
    "ranking": frozenset({"mlp", "neighbors", "direct", "index"}),
    "impressions": frozenset({"logistic", "mlp", "boosting", "direct"}),
}
_APPLY_ELSE: frozenset[Probe] = frozenset({"logistic", "mlp", "boosting", "fine_tune"})

#: Of the shuffle of labels in a control.
_CONTROL_SEED = 1_000_003

#: Fits the encoder itself to a task; None where it cannot be.
FineTune = Callable[[ProbeData, int], np.ndarray]


@dataclass(frozen=True)
class About:
    """What rows say beside figures: see :class:`~unirep_feast.evaluation.results.Row`."""

    evaluation: str
    representation: str
    run: str
    run_seed: int
    leakage_allowed: bool


@dataclass(frozen=True)
class Wanted:
    """One cell."""

    probe: Probe
    fraction: float
    seed: int
    control: bool = False

    @property
    def key(self) -> str:
        """Its name in the result file."""
        return cell_key(self.probe, self.fraction, self.seed, self.control)


@dataclass(frozen=True)
class Subject:
    """A representation as a task sees it.

    Attributes:
        features: (n, K · D) float32 vectors of the examples; zeros where there is none.
        known: (n,) bool.
        items: its item vectors, if it has any.
        fine_tune: trains the encoder itself.
    """

    features: np.ndarray
    known: np.ndarray
    items: ItemSpace | None
    fine_tune: FineTune | None


def wanted_cells(
    config: EvaluationConfig,
    made: SplitExamples,
    items: bool = True,
    tunable: bool = False,
    control: bool = False,
) -> list[Wanted]:
    """All cells of a task, those with all labels and the first seed first.

    Args:
        config: the file.
        made: the task.
        items: whether the representation has item vectors.
        tunable: whether its encoder can be fine-tuned to the task.
        control: also with shuffled labels.
    """
    task, problem = made.loaded.config, made.loaded.task.problem
    asked = task.probes or config.probes
    can = _APPLY.get(problem, _APPLY_ELSE)
    if not items:
        can -= _UNTRAINED
    if not tunable:
        can -= {"fine_tune"}
    probes = [probe for probe in asked if probe in can]
    fractions = sorted(task.label_fractions or config.label_fractions, reverse=True)
    cells = []
    for fraction in fractions:
        for probe in probes:
            fixed = probe in _UNTRAINED or (probe in DETERMINISTIC and fraction == 1)
            if probe in _UNTRAINED and fraction < 1:
                continue
            cells += [Wanted(probe, fraction, seed) for seed in range(1 if fixed else config.seeds)]
    cells.sort(key=lambda cell: (-cell.fraction, cell.seed))
    if control:
        kept = [probe for probe in probes if probe != "fine_tune"]
        # Of every probe several: one shuffle may by chance look like the labels.
        cells += [Wanted(probe, 1.0, seed, True) for seed in range(config.seeds) for probe in kept]
    return cells


def missing_cells(cells: Cells, wanted: list[Wanted]) -> list[Wanted]:
    """Those that are not done."""
    return [cell for cell in wanted if cell.key not in cells.rows]


def compute(
    config: EvaluationConfig,
    made: SplitExamples,
    subject: Subject,
    users: pa.Array,
    wanted: list[Wanted],
    cells: Cells,
    about: About,
) -> Iterator[Wanted]:
    """Compute cells and put them into ``cells``; yields each when it is done.

    Args:
        config: the file.
        made: examples and splits.
        subject: vectors of the examples.
        users: ids of the log's users.
        wanted: what to compute.
        cells: where it goes; the caller writes it down.
        about: what rows say of the representation.
    """
    data = probe_data(made, subject)
    ids = users.take(pa.array(made.examples.users))
    cells.ids = np.array(ids.take(pa.array(made.test)).cast(pa.string()).to_pylist())
    for cell in wanted:
        started = time.perf_counter()
        chosen, asked = _with_fraction(data, ids, cell), subject
        if cell.control:
            chosen, asked = _shuffled(chosen, subject, cell.seed)
        scored = _score(config, chosen, asked, cell, made.loaded.task.metrics)
        seconds = time.perf_counter() - started
        cells.rows[cell.key] = [
            _row(made, about, cell, chosen, split, metric, value, seconds)
            for split, values in scored.values.items()
            for metric, value in values.items()
        ]
        cells.predictions[cell.key] = scored.test
        cells.predictions[f"{cell.key}#resampled"] = scored.resampled
        yield cell


def probe_data(made: SplitExamples, subject: Subject) -> ProbeData:
    """Features and targets; a column says who has no vector, where somebody has none."""
    parts = [subject.features]
    if not subject.known.all():
        parts.append((~subject.known)[:, None].astype(np.float32))
    examples, problem = made.examples, made.loaded.task.problem
    if problem == "impressions":
        if examples.context is not None:
            parts.append(examples.context)
        if subject.items is not None:
            parts.append(_item_scores(subject, examples.items)[:, None])
    features = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
    return ProbeData(problem, features, examples, made.train, made.valid, made.test)


@dataclass(frozen=True)
class _Scored:
    values: dict[str, dict[str, float]]  # split → metric → value
    test: np.ndarray
    resampled: np.ndarray


def _score(
    config: EvaluationConfig,
    data: ProbeData,
    subject: Subject,
    cell: Wanted,
    metrics: tuple[str, ...],
) -> _Scored:
    users = data.examples.users[data.test]
    if data.problem == "ranking":
        return _score_ranking(config, data, subject, cell, metrics)
    outputs = _outputs(config, data, subject, cell)
    values = {
        split: {
            metric: _measure(data, metric, getattr(data, split), outputs)(None)
            for metric in metrics
        }
        for split in ("valid", "test")
    }
    sampled = resampled(users, _measure(data, metrics[0], data.test, outputs))
    return _Scored(values, outputs[data.test].astype(np.float32), sampled.astype(np.float32))


def _measure(
    data: ProbeData, metric: str, rows: np.ndarray, outputs: np.ndarray
) -> Callable[[np.ndarray | None], float]:
    """From some of the rows (None: all of them) to a metric of their outputs."""
    truth, found = data.examples.targets[rows], outputs[rows]
    if not is_per_row(data.problem, metric):
        return lambda some: whole(
            data.problem, metric, *((truth, found) if some is None else (truth[some], found[some]))
        )
    assert data.examples.groups is not None  # noqa: S101
    each = per_row(metric, truth, found, data.examples.groups[rows])

    def mean(some: np.ndarray | None) -> float:
        chosen = each if some is None else each[some]
        return float(np.nanmean(chosen)) if np.isfinite(chosen).any() else float("nan")

    return mean


def _score_ranking(
    config: EvaluationConfig,
    data: ProbeData,
    subject: Subject,
    cell: Wanted,
    metrics: tuple[str, ...],
) -> _Scored:
    top = max(int(metric.rpartition("@")[2]) for metric in metrics)
    values: dict[str, dict[str, float]] = {}
    each = np.empty((0, len(metrics)))
    for split in ("valid", "test"):
        rows = getattr(data, split)
        ranks = _ranks(config, data, subject, cell, rows, top)
        offsets = offsets_of(data.examples, rows)
        each = np.column_stack([ranked_values(metric, ranks, offsets) for metric in metrics])
        values[split] = dict(zip(metrics, each.mean(0).tolist(), strict=True))
    users = data.examples.users[data.test]
    sampled = resampled(users, lambda some: float(each[some, 0].mean()))
    return _Scored(values, each.astype(np.float32), sampled.astype(np.float32))


def _ranks(
    config: EvaluationConfig,
    data: ProbeData,
    subject: Subject,
    cell: Wanted,
    rows: np.ndarray,
    top: int,
) -> np.ndarray:
    examples = data.examples
    if cell.probe in _UNTRAINED:
        assert subject.items is not None  # noqa: S101  # else the cell is not wanted
        if cell.probe == "index":
            return ranks_by_index(subject.features, subject.items, examples, rows, top)
        return ranks_of(by_items(subject.features, subject.items), examples, rows)
    if cell.probe == "neighbors":
        return ranks_of(by_neighbors(data, _neighbors(data)), examples, rows)
    outputs = fit_mlp(data, config.mlp, cell.seed)
    return ranks_of(by_outputs(outputs), examples, rows)


def _neighbors(data: ProbeData) -> int:
    """The number of neighbors that is best on ``valid``, by the mean reciprocal rank."""
    best, chosen = -1.0, NEIGHBORS[0]
    for number in NEIGHBORS:
        ranks = ranks_of(by_neighbors(data, number), data.examples, data.valid)
        score = float((1 / (ranks + 1.0)).mean())
        if score > best:
            best, chosen = score, number
    return chosen


def _outputs(
    config: EvaluationConfig, data: ProbeData, subject: Subject, cell: Wanted
) -> np.ndarray:
    if cell.probe == "logistic":
        return fit_logistic(data, config.logistic)
    if cell.probe == "mlp":
        return fit_mlp(data, config.mlp, cell.seed)
    if cell.probe == "boosting":
        return fit_boosting(data, config.boosting, cell.seed)
    if cell.probe == "direct":
        return _item_scores(subject, data.examples.items)
    assert subject.fine_tune is not None  # noqa: S101
    return subject.fine_tune(data, cell.seed)


def _item_scores(subject: Subject, items: np.ndarray | None) -> np.ndarray:
    """(n,) how near the item that was shown is to the user; 0 where either has no vector."""
    space = subject.items
    assert space is not None and items is not None  # noqa: S101
    known = subject.known & space.known[items]
    scores = np.zeros(len(items), np.float32)
    shown = replace(space, vectors=space.vectors, known=np.ones(len(space.known), bool))
    rows = np.flatnonzero(known)
    for start in range(0, len(rows), 1024):
        some = rows[start : start + 1024]
        distinct, place = np.unique(items[some], return_inverse=True)
        part = replace(shown, vectors=space.vectors[distinct], known=np.ones(len(distinct), bool))
        scores[some] = part.score(subject.features[some])[np.arange(len(some)), place]
    return scores


def _with_fraction(data: ProbeData, ids: pa.Array, cell: Wanted) -> ProbeData:
    """A share of the training users; a larger share of the same seed holds a smaller one."""
    if cell.fraction == 1:
        return data
    point = hash_ids(ids, 101 + cell.seed)[data.train] / np.float64(2**64)
    kept = data.train[point < cell.fraction]
    if len(kept) < 2:
        kept = data.train[np.argsort(point, kind="stable")[:2]]
    return data.with_train(np.sort(kept))


def _shuffled(data: ProbeData, subject: Subject, seed: int) -> tuple[ProbeData, Subject]:
    """Deal the labels of every split out anew among its rows, so that there is nothing to learn.

    What moves are the vectors, which comes to the same and serves every problem alike.
    """
    shuffle = np.random.default_rng(_CONTROL_SEED + seed)
    order = np.arange(len(data.features))
    for rows in (data.train, data.valid, data.test):
        order[rows] = shuffle.permutation(rows)
    moved = replace(subject, features=subject.features[order], known=subject.known[order])
    return replace(data, features=data.features[order]), moved


def _row(
    made: SplitExamples,
    about: About,
    cell: Wanted,
    data: ProbeData,
    split: str,
    metric: str,
    value: float,
    seconds: float,
) -> Row:
    loaded = made.loaded
    return Row(
        about.evaluation,
        about.representation,
        about.run,
        about.run_seed,
        loaded.config.name,
        loaded.config.kind,
        format_instant(loaded.cut_off),
        cell.probe,
        cell.fraction,
        cell.seed,
        split,
        metric,
        float(value),
        higher_is_better(metric),
        metric == loaded.task.metrics[0],
        len(data.train),
        len(data.valid),
        len(data.test),
        cell.control,
        about.leakage_allowed,
        round(seconds, 3),
    )
