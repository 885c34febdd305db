"""What an evaluation comes to: one row per figure, kept per representation, run and task.

A cell is one probe on one share of the labels with one seed. A killed evaluation goes on behind the
last cell, and another task, probe or seed costs what it costs alone. The folder of an evaluation::

    results/<representation>/<run>/<task>.json   cells: their rows, and the key they were made under
    results/<representation>/<run>/<task>.npz    what was predicted for the test rows, per cell
    intrinsic/<representation>/<run>.json        measures that need no label
    results.csv                                  all rows, one line each
    leaderboard.json                             all of it in one document, see ``document``
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from unirep_feast.errors import EvaluationError, one_line
from unirep_feast.files import atomic_path

#: Of the files below; raised when a field changes its meaning.
FORMAT = 1


@dataclass(frozen=True)
class Row:
    """One figure.

    Attributes:
        evaluation: name of the task file.
        representation: name of the spec.
        run: id of the run whose vectors were probed.
        run_seed: seed that the run was trained with.
        task: name in the task file.
        kind: of the task, such as ``churn``.
        cut_off: ISO time; features are as of it, labels come after it (where there are several
            as-of times, the first).
        probe: ``logistic``, ``mlp``, ``boosting``, ``direct`` (no probe: nearest item vectors),
            ``index`` (the same through Annoy), ``fine_tune``, ``blend`` (the others, weighed on
            ``valid``); ``constant`` is what knowing nothing of a user comes to.
            ``logistic:rhythm`` saw the vector's block ``rhythm`` alone.
        label_fraction: share of the training labels the probe saw, (0, 1].
        seed: of probe and label subset.
        split: ``valid`` (probes are chosen by it) or ``test``.
        metric: such as ``auc``.
        value: of the metric.
        higher_is_better: of the metric.
        primary: whether the leaderboard goes by it; one metric per task.
        train, valid, test: rows of each split that the cell used.
        control: whether training labels were shuffled, so that the figure should sit at chance.
        leakage_allowed: whether the run had seen events at or after the cut-off, and that was
            accepted.
        seconds: that the probe took to fit and to predict.
    """

    evaluation: str
    representation: str
    run: str
    run_seed: int
    task: str
    kind: str
    cut_off: str
    probe: str
    label_fraction: float
    seed: int
    split: str
    metric: str
    value: float
    higher_is_better: bool
    primary: bool
    train: int
    valid: int
    test: int
    control: bool = False
    leakage_allowed: bool = False
    seconds: float = 0.0


COLUMNS = tuple(one.name for one in fields(Row))


def cell_key(probe: str, fraction: float, seed: int, control: bool) -> str:
    """Name of a cell within a task's file."""
    return f"{probe}|{fraction:g}|{seed}" + ("|control" if control else "")


@dataclass
class Cells:
    """The cells of one representation, run and task that are done.

    Attributes:
        key: hash of what decides them: the task, the events, the splits, the run.
        rows: by cell.
        predictions: by cell, (n_test, …) float32; rows as in ``ids``.
        ids: (n_test,) text of the user of each test row; what pairs two representations.
        targets: (n_test, …) float32, the truth of the test rows, where metrics read it again.
    """

    key: str
    rows: dict[str, list[Row]] = field(default_factory=dict)
    predictions: dict[str, np.ndarray] = field(default_factory=dict)
    ids: np.ndarray = field(default_factory=lambda: np.empty(0, "U1"))
    targets: np.ndarray = field(default_factory=lambda: np.empty(0, np.float32))


class ResultFolder:
    """The files of one evaluation; every write appears whole or not at all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def cells(self, representation: str, run: str, task: str, key: str) -> Cells:
        """Return what is there for a task; nothing of it if it was made under another key.

        Raises:
            EvaluationError: the file is damaged.
        """
        path = self._cells(representation, run, task)
        if not path.exists():
            return Cells(key)
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
            if raw["format"] != FORMAT or raw["key"] != key:
                return Cells(key)
            rows = {cell: [Row(**row) for row in found] for cell, found in raw["cells"].items()}
            with np.load(path.with_suffix(".npz"), allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
        except FileNotFoundError:
            return Cells(key)  # killed between the two: they are made again
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise EvaluationError(
                f"{path} cannot be read: {one_line(error)}; remove it, and evaluate again"
            ) from None
        ids, targets = arrays.pop("ids"), arrays.pop("targets")
        known = {cell: found for cell, found in rows.items() if cell in arrays}
        return Cells(key, known, arrays, ids, targets)

    def save(self, representation: str, run: str, task: str, cells: Cells) -> None:
        """Write the cells of a task, predictions first: a cell with rows has predictions."""
        path = self._cells(representation, run, task)
        try:
            with atomic_path(path.with_suffix(".npz")) as temporary, temporary.open("wb") as file:
                arrays: dict[str, Any] = {"ids": cells.ids, "targets": cells.targets}
                np.savez(file, allow_pickle=False, **arrays, **cells.predictions)
            with atomic_path(path) as temporary:
                raw = {
                    "format": FORMAT,
                    "key": cells.key,
                    "cells": {cell: [asdict(r) for r in rows] for cell, rows in cells.rows.items()},
                }
                temporary.write_text(json.dumps(raw, indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise EvaluationError(
                f"{path.parent} cannot be written: {error.strerror or one_line(error)}; free "
                "space, or name another folder with --work"
            ) from None

    def read_json(self, name: str) -> dict[str, Any] | None:
        """Read a document of this folder; None if there is none, or it is torn."""
        try:
            found = json.loads((self.folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) else None

    def write_json(self, name: str, found: dict[str, Any]) -> Path:
        """Write a document of this folder; a number that is not finite becomes null."""
        return self.write_text(name, json.dumps(finite(found), indent=1, allow_nan=False) + "\n")

    def write_text(self, name: str, text: str) -> Path:
        """Write a file of this folder."""
        path = self.folder / name
        try:
            with atomic_path(path) as temporary:
                temporary.write_text(text, encoding="utf-8")
        except OSError as error:
            raise EvaluationError(
                f"{path} cannot be written: {error.strerror or one_line(error)}; free space, or "
                "name another folder with --work"
            ) from None
        return path

    def _cells(self, representation: str, run: str, task: str) -> Path:
        return self.folder / "results" / representation / run / f"{task}.json"


def finite(found: Any) -> Any:
    """The same with None for every number that JSON has no word for."""
    if isinstance(found, dict):
        return {key: finite(value) for key, value in found.items()}
    if isinstance(found, list | tuple):
        return [finite(value) for value in found]
    if isinstance(found, float) and not math.isfinite(found):
        return None
    return found


def to_csv(rows: Iterable[Row]) -> str:
    """All rows as CSV, columns in the order of :class:`Row`."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    return text.getvalue()


def read_csv(text: str) -> list[Row]:
    """Undo :func:`to_csv`."""
    kinds = {one.name: one.type for one in fields(Row)}
    read = {"float": float, "int": int, "bool": lambda word: word == "True", "str": str}
    return [
        Row(**{name: read[str(kinds[name])](word) for name, word in line.items()})  # type: ignore[operator]
        for line in csv.DictReader(io.StringIO(text))
    ]


def document(
    name: str,
    tasks: Sequence[dict[str, Any]],
    representations: Sequence[dict[str, Any]],
    rows: Sequence[Row],
    leaderboard: Sequence[dict[str, Any]],
    intrinsic: Sequence[dict[str, Any]],
    about: dict[str, Any],
) -> dict[str, Any]:
    """Put an evaluation together to one JSON document, what ``--json`` prints and reports read.

    Args:
        name: of the evaluation.
        tasks: one per task: ``name kind cut_off as_of metric higher_is_better description rows
            users chance``.
        representations: one per representation and run: ``name spec run run_seed encoder
            num_vectors dim trained_until snapshot item_snapshot train_seconds encode_seconds
            leakage_allowed events items``.
        rows: all of them.
        leaderboard: one per task, representation and label fraction: ``task representation probe
            label_fraction metric mean std n valid rank p_value best``; ``valid`` is the probe's
            mean on the validation split, ``p_value`` is of the paired difference to the best of the
            task, null for the best itself.
        intrinsic: one per figure: ``representation run as_of measure value``.
        about: ``created seconds command version control published failures pairs``; ``pairs``
            compares every two representations: ``task label_fraction first second difference
            p_value``.
    """
    return {
        "format": FORMAT,
        "name": name,
        **about,
        "tasks": list(tasks),
        "representations": list(representations),
        "leaderboard": list(leaderboard),
        "intrinsic": list(intrinsic),
        "rows": [asdict(row) for row in rows],
    }
