"""Measures of a vector space that need no label."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from unirep_feast.evaluation.candidates import ReaderOf, Trained
from unirep_feast.evaluation.results import ResultFolder
from unirep_feast.index.exact import unit
from unirep_feast.instants import MICROSECONDS_PER_DAY, format_instant
from unirep_feast.snapshot import read_vectors
from unirep_feast.task import TaskLog

#: Users that quadratic measures look at, drawn once by place.
SAMPLE = 2_000

#: Neighbors whose overlap is the stability.
NEIGHBORS = 10

#: Days between the two snapshots that are compared.
DAYS_BETWEEN = 30


@dataclass(frozen=True)
class Measured:
    """A run, and as of when it is measured."""

    run: Trained
    as_of: int


def uniformity(vectors: np.ndarray) -> float:
    """Log of the mean Gaussian potential of unit vectors; lower is more evenly spread.

    Wang and Isola (2020), arXiv:2005.10242, Eq 6 with t = 2. 0 if all are one point; about -4 on a
    high-dimensional sphere.

    Args:
        vectors: (n, D); at most :data:`SAMPLE` of them are compared.
    """
    some = unit(_sample(vectors)).astype(np.float64)
    squared = (2 - 2 * some @ some.T).clip(min=0)
    pairs = ~np.eye(len(some), dtype=bool)
    return float(np.log(np.exp(-2 * squared[pairs]).mean()))


def alignment(first: np.ndarray, second: np.ndarray) -> float:
    """Mean squared distance of unit vectors that should be close; lower is closer.

    Wang and Isola (2020), Eq 5 with alpha = 2; the pairs here are a user's vector as of two times.

    Args:
        first: (n, D) vectors.
        second: (n, D) vectors of the same users.
    """
    return float(((unit(first) - unit(second)) ** 2).sum(1, dtype=np.float64).mean())


def effective_rank(vectors: np.ndarray) -> float:
    """Exp of the entropy of the spectrum: how many directions are really used.

    Roy and Vetterli (2007): singular values of the centred vectors, normalised to sum to 1.
    """
    values = np.linalg.svd(_centred(vectors), compute_uv=False)
    share = values / values.sum() if values.sum() > 0 else np.ones(1)
    share = share[share > 0]
    return float(np.exp(-(share * np.log(share)).sum()))


def dead_dimensions(vectors: np.ndarray) -> int:
    """How many of the numbers are (nearly) the same for all: spread below 1e-6 of the largest."""
    spread = vectors.std(0, dtype=np.float64)
    return int((spread <= 1e-6 * max(spread.max(initial=0), 1e-30)).sum())


def neighbor_overlap(first: np.ndarray, second: np.ndarray, seed: int = 0) -> float:
    """Mean share of a user's ten nearest (cosine) that two spaces agree on.

    Neighbors do not turn with the space, so two runs can be compared.

    Args:
        first: (n, D) vectors.
        second: (n, E) vectors of the same users.
        seed: of the users whose neighbors are looked up.
    """
    rows = np.random.default_rng(seed).permutation(len(first))[:SAMPLE]
    first, second = first[rows], second[rows]
    number = min(NEIGHBORS, len(rows) - 1)
    if number < 1:
        return float("nan")
    near = np.zeros((2, len(rows), len(rows)), bool)
    for place, space in enumerate((unit(first), unit(second))):
        cosine = space @ space.T
        np.fill_diagonal(cosine, -np.inf)
        nearest = np.argpartition(-cosine, number - 1, axis=1)[:, :number]
        np.put_along_axis(near[place], nearest, True, axis=1)
    return float((near[0] & near[1]).sum() / (number * len(rows)))


@dataclass(frozen=True)
class Moments:
    """All that drift needs to know of a population.

    Attributes:
        mean: (D,) float64.
        variance: of all numbers together.
        covariance: (D, D) float64.
    """

    mean: np.ndarray
    variance: float
    covariance: np.ndarray


def moments(vectors: np.ndarray) -> Moments:
    """Take the moments of (n, D) vectors."""
    return Moments(
        vectors.mean(0, dtype=np.float64),
        float(vectors.var(0, dtype=np.float64).sum()),
        np.cov(vectors, rowvar=False, dtype=np.float64).reshape(vectors.shape[1], -1),
    )


def mean_shift(before: Moments, after: Moments) -> float:
    """How far the population's mean has moved, in units of its spread before."""
    spread = np.sqrt(before.variance)
    moved = np.linalg.norm(after.mean - before.mean)
    return float(moved / spread) if spread > 0 else 0.0


def frechet_drift(before: Moments, after: Moments) -> float:
    """Fréchet distance of two populations as Gaussians, relative to the spread before.

    Dowson and Landau (1982); what FID is made of: moved mean and changed covariance alike.
    """
    first, second = before.covariance, after.covariance
    values, turn = np.linalg.eigh(first)
    root = (turn * np.sqrt(values.clip(min=0))) @ turn.T
    inner = np.linalg.eigvalsh(root @ second @ root).clip(min=0)
    moved = after.mean - before.mean
    squared = moved @ moved + np.trace(first) + np.trace(second) - 2 * np.sqrt(inner).sum()
    total = float(np.trace(first))
    return float(max(squared, 0) / total) if total > 0 else 0.0


def measure_all(
    measured: Sequence[Measured],
    folder: ResultFolder,
    log: TaskLog,
    allow_leakage: bool,
    notify: Callable[[str], None],
    reader_of: ReaderOf,
) -> list[dict[str, Any]]:
    """Measure runs, and pairs of runs of one representation that differ in their seed.

    A second snapshot, :data:`DAYS_BETWEEN` days after the first (or at the log's end), is encoded
    where there is none; both are of one model. Finished measures are read back.

    Returns:
        Entries ``representation run as_of measure value``.
    """
    entries: list[dict[str, Any]] = []
    for one in measured:
        name = f"intrinsic/{one.run.name}/{one.run.run.id}.json"
        later = min(one.as_of + DAYS_BETWEEN * MICROSECONDS_PER_DAY, log.until)
        known = folder.read_json(name)
        key = f"1 {one.as_of} {later}"
        if known is None or known.get("key") != key:
            times = [one.as_of, later]
            one.run.encode(times, allow_leakage, None, notify, reader_of(one.run.spec))
            known = {"key": key, "values": _measure(one, later, log)}
            folder.write_json(name, known)
        entries += [_entry(one, measure, value) for measure, value in known["values"].items()]
    by_name: dict[tuple[str, int], list[Measured]] = {}
    for one in measured:
        by_name.setdefault((one.run.name, one.as_of), []).append(one)
    for (_, as_of), runs in by_name.items():
        for other in runs[1:]:
            first, second = in_both(_read(runs[0].run, as_of), _read(other.run, as_of))
            value = neighbor_overlap(first, second)
            entries.append(_entry(other, "neighbor_stability_runs", value))
    return entries


def in_both(
    first: tuple[pa.Array, np.ndarray], second: tuple[pa.Array, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of the users that are in both, in the same order."""
    place = pc.index_in(first[0], value_set=second[0])
    shared = place.is_valid().to_numpy(zero_copy_only=False)
    return first[1][shared], second[1][place.drop_null().to_numpy().astype(np.int64)]


def _measure(one: Measured, later: int, log: TaskLog) -> dict[str, float]:
    ids, vectors = _read(one.run, one.as_of)
    known = np.unique(log.before(one.as_of).users)
    covered = pc.is_in(log.users.take(known), value_set=ids)
    found: dict[str, float] = {
        "users": float(len(ids)),
        "coverage": float(np.mean(covered.to_numpy(zero_copy_only=False))),
        "uniformity": uniformity(vectors),
        "effective_rank": effective_rank(vectors),
        "dead_dimensions": float(dead_dimensions(vectors)),
        "mean_norm": float(np.linalg.norm(vectors, axis=1).mean()),
    }
    if later > one.as_of:
        after_ids, after = _read(one.run, later)
        first, second = in_both((ids, vectors), (after_ids, after))
        population, moved = moments(vectors), moments(after)
        found |= {
            "alignment": alignment(first, second),
            "neighbor_stability_snapshots": neighbor_overlap(first, second),
            "drift_mean_shift": mean_shift(population, moved),
            "drift_frechet": frechet_drift(population, moved),
        }
    return found


def _read(run: Trained, as_of: int) -> tuple[pa.Array, np.ndarray]:
    return read_vectors(run.snapshot(as_of), run.spec.view.join_key)


def _entry(one: Measured, measure: str, value: float) -> dict[str, Any]:
    return {
        "representation": one.run.name,
        "run": one.run.run.id,
        "as_of": format_instant(one.as_of),
        "measure": measure,
        "value": value,
    }


def _sample(vectors: np.ndarray) -> np.ndarray:
    if len(vectors) <= SAMPLE:
        return vectors
    return vectors[np.random.default_rng(0).permutation(len(vectors))[:SAMPLE]]


def _centred(vectors: np.ndarray) -> np.ndarray:
    some = _sample(vectors).astype(np.float64)
    return np.asarray(some - some.mean(0))
