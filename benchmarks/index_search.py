"""The index beside brute force: recall on questions it was not tuned on, time, size.

    python benchmarks/index_search.py mixture noise
    python benchmarks/index_search.py items users --snapshot STORAGE/NAME/snapshots/RUN/T.parquet

`items` and `users` search the snapshots of a run (its items lie in `items/` beside the users'); the
other two search 200,000 seeded vectors of 128 numbers. One thread: run with OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from unirep_feast.index import Found, Index, build_index, exact_search
from unirep_feast.index.exact import unit
from unirep_feast.index.trees import SEED
from unirep_feast.index.tuning import SAMPLE, recall
from unirep_feast.snapshot import read_vectors

OWNERS, DIM, TOP, QUESTIONS = 200_000, 128, 100, 500


def mixture(count: int, seed: int) -> np.ndarray:
    """Draw from 500 flat clusters: 16 of 128 directions each, and a little noise in all."""
    shape = np.random.default_rng(0)
    centres = shape.standard_normal((500, DIM)).astype(np.float32)
    planes = shape.standard_normal((500, 16, DIM)).astype(np.float32) / 4
    draw = np.random.default_rng(seed)
    pieces = []
    for start in range(0, count, 10_000):
        rows = min(10_000, count - start)
        kind = draw.integers(0, 500, rows)
        inside = draw.standard_normal((rows, 16)).astype(np.float32)
        noise = 0.3 * draw.standard_normal((rows, DIM)).astype(np.float32)
        pieces.append(centres[kind] + np.einsum("rk,rkd->rd", inside, planes[kind]) + noise)
    return np.concatenate(pieces)[:, None]


def noise(count: int, seed: int) -> np.ndarray:
    """Draw from a normal distribution, the same in all directions: the worst case."""
    draw = np.random.default_rng(seed)
    return draw.standard_normal((count, 1, DIM)).astype(np.float32)


def others(vectors: np.ndarray) -> np.ndarray:
    """Questions that the index was not tuned on."""
    rows = np.random.default_rng(SEED).permutation(len(vectors))[SAMPLE:]
    return vectors[rows[:QUESTIONS]]


def cases(
    names: list[str], snapshot: Path | None
) -> Iterator[tuple[str, np.ndarray, np.ndarray | None, np.ndarray]]:
    """Yield a name, vectors, questions to tune with (None: the vectors), questions to measure."""
    for name in names:
        if name in ("mixture", "noise"):
            make = mixture if name == "mixture" else noise
            yield f"{name}, {OWNERS:,} x {DIM}", make(OWNERS, 1), None, make(QUESTIONS, 2)
            continue
        if snapshot is None:
            raise SystemExit(f"{name} needs --snapshot")
        users = read_vectors(snapshot)[1]
        items = read_vectors(snapshot.parent / "items" / snapshot.name, "item_id")[1]
        users, items = users.reshape(len(users), -1, items.shape[1]), items[:, None]
        if name == "users":
            yield f"users, {len(users):,} x {users[0].size}", users, None, others(users)
        else:
            told = f"{len(items):,} x {items[0].size}"
            yield f"items like an item, {told}", items, None, others(items)
            yield f"items for a user, {told}", items, users, others(users)


def milliseconds(call: Callable[[np.ndarray], object], questions: np.ndarray) -> float:
    """Median per question."""
    taken = []
    for question in questions:
        start = time.perf_counter()
        call(question)
        taken.append(time.perf_counter() - start)
    return float(np.median(taken)) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("case", nargs="+", choices=["items", "users", "mixture", "noise"])
    parser.add_argument("--snapshot", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(
        "| vectors | recall@100, built | recall@100, others | trees | search_k | build s | MB "
        "| index ms | numpy ms | torch ms |\n|---|---|---|---|---|---|---|---|---|---|"
    )
    for name, vectors, tune_with, questions in cases(arguments.case, arguments.snapshot):
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            built = build_index(Path(folder) / "index.ann", vectors, queries=tune_with)
            seconds = time.perf_counter() - start
            tuning, (owners, k, dim) = built.tuning, vectors.shape
            index = Index.open(built.path, owners, k, dim, "cosine", tuning.search_k)
            # Nobody is left out of his own list here: both sides find him.
            truth = exact_search(vectors, questions, TOP)
            found: list[Found] = [index.search(question, TOP) for question in questions]
            flat = unit(vectors.reshape(-1, dim))
            same = torch.from_numpy(flat)

            def by_numpy(question: np.ndarray, flat: np.ndarray = flat) -> np.ndarray:
                scores = flat @ question[0]
                best = np.argpartition(scores, -TOP)[-TOP:]
                return best[np.argsort(-scores[best])]

            def by_torch(question: np.ndarray, same: torch.Tensor = same) -> torch.Tensor:
                return torch.topk(same @ torch.from_numpy(question[0]), TOP).indices

            times = [
                milliseconds(lambda question: index.search(question, TOP), questions),  # noqa: B023
                milliseconds(by_numpy, unit(questions)),
                milliseconds(by_torch, unit(questions)),
            ]
        print(
            f"| {name} | {tuning.recall:.3f} | {recall(truth, found):.3f} | {tuning.n_trees} "
            f"| {tuning.search_k:,} | {seconds:.1f} | {built.size / 1e6:.0f} | "
            + " | ".join(f"{one:.2f}" for one in times)
            + " |",
            flush=True,
        )


if __name__ == "__main__":
    main()
