"""Cells wanted in, their rows and predictions out."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa

from unirep_feast.evaluation.blending import blend
from unirep_feast.evaluation.cells import Wanted
from unirep_feast.evaluation.config import EvaluationConfig
from unirep_feast.evaluation.examples import SplitExamples
from unirep_feast.evaluation.metrics import higher_is_better
from unirep_feast.evaluation.predicting import Predicted, predict
from unirep_feast.evaluation.probe_data import ProbeData
from unirep_feast.evaluation.results import Cells, Row
from unirep_feast.evaluation.scoring import score
from unirep_feast.evaluation.subject import Subject, only_block, probe_data
from unirep_feast.instants import format_instant
from unirep_feast.splits import hash_ids

#: Of the shuffle of labels in a control.
_CONTROL_SEED = 1_000_003


@dataclass(frozen=True)
class About:
    """What rows say beside figures: see :class:`~unirep_feast.evaluation.results.Row`."""

    evaluation: str
    representation: str
    run: str
    run_seed: int
    leakage_allowed: bool


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
    blended = frozenset(member.key for cell in wanted for member in cell.members)
    probing = _Probing(config, data, subject, ids, made.loaded.task.metrics, blended)
    for cell in wanted:
        started = time.perf_counter()
        predicted = probing.predicted(cell)
        scored = score(data, predicted, made.loaded.task.metrics)
        seconds = time.perf_counter() - started
        cells.rows[cell.key] = [
            _row(made, about, cell, probing.data_of(cell), split, metric, value, seconds)
            for split, values in scored.values.items()
            for metric, value in values.items()
        ]
        cells.predictions[cell.key] = scored.test
        cells.predictions[f"{cell.key}#resampled"] = scored.resampled
        yield cell


@dataclass
class _Probing:
    """Fits probes, and keeps what those said that are ``blended`` later.

    Probes are made anew for a blend that a killed evaluation left out: with the same seed they say
    the same.
    """

    config: EvaluationConfig
    data: ProbeData
    subject: Subject
    ids: pa.Array
    metrics: tuple[str, ...]
    blended: frozenset[str]
    said: dict[str, Predicted] = field(default_factory=dict)

    def data_of(self, cell: Wanted) -> ProbeData:
        """What a cell is fitted to, but for a shuffle and a block."""
        return _with_fraction(self.data, self.ids, cell)

    def predicted(self, cell: Wanted) -> Predicted:
        """Fit a cell's probe, or blend its members."""
        if cell.members:
            members = [self.said.get(m.key) or self._keep(m) for m in cell.members]
            return blend(self.data_of(cell), members, self.metrics[0])
        return self._keep(cell)

    def _keep(self, cell: Wanted) -> Predicted:
        chosen, asked = self.data_of(cell), self.subject
        if cell.control:
            chosen, asked = _shuffled(chosen, asked, cell.seed)
        if cell.block:
            chosen = only_block(chosen, asked, cell.block)
            asked = asked.only(cell.block)
        found = predict(self.config, chosen, asked, cell, self.metrics)
        if cell.key in self.blended:
            self.said[cell.key] = found
        return found


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
    beside = None if subject.published is None else subject.published[order]
    features, known = subject.features[order], subject.known[order]
    moved = replace(subject, features=features, known=known, published=beside)
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
        cell.name,
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
