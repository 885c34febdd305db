"""A representation as a task sees it: the vectors of its examples, its items, its encoder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from unirep_feast.blocks import Blocks
from unirep_feast.errors import EvaluationError
from unirep_feast.evaluation.candidates import Trained
from unirep_feast.evaluation.config import EvaluationConfig
from unirep_feast.evaluation.examples import SplitExamples
from unirep_feast.evaluation.probe_data import ProbeData
from unirep_feast.evaluation.ranking import ItemSpace
from unirep_feast.snapshot import read_vectors
from unirep_feast.task import TaskLog

#: Fits the encoder itself to a task; None where it cannot be.
FineTune = Callable[[ProbeData, int], np.ndarray]


@dataclass(frozen=True)
class Subject:
    """A representation as a task sees it.

    Attributes:
        features: (n, K · D) float32 vectors of the examples; zeros where there is none.
        known: (n,) bool.
        items: its item vectors, if it has any.
        fine_tune: trains the encoder itself.
        blocks: where each named part of the K · D numbers begins and ends; mostly none.
        published: (n, 2) what the view publishes beside the vectors, see
            :meth:`~unirep_feast.feature_store.private_repo.PrivateRepo.fetch_published`.
    """

    features: np.ndarray
    known: np.ndarray
    items: ItemSpace | None
    fine_tune: FineTune | None
    blocks: Blocks = field(default_factory=dict)
    published: np.ndarray | None = None

    def item_scores(self, items: np.ndarray | None) -> np.ndarray:
        """(n,) how near the item that was shown is to the user; 0 where either has no vector."""
        space = self.items
        assert space is not None and items is not None  # noqa: S101
        known = self.known & space.known[items]
        scores = np.zeros(len(items), np.float32)
        rows = np.flatnonzero(known)
        for start in range(0, len(rows), 1024):
            some = rows[start : start + 1024]
            distinct, place = np.unique(items[some], return_inverse=True)
            part = replace(
                space, vectors=space.vectors[distinct], known=np.ones(len(distinct), bool)
            )
            scores[some] = part.score(self.features[some])[np.arange(len(some)), place]
        return scores

    def only(self, block: str) -> Subject:
        """Its one block, of users and of items."""
        start, stop = self.blocks[block]
        space = self.items
        if space is not None:
            part = space.vectors[:, start:stop]
            space = replace(space, vectors=part, known=space.known & part.any(1))
        return replace(self, features=self.features[:, start:stop], items=space, blocks={})


def item_space(run: Trained, made: SplitExamples, log: TaskLog) -> ItemSpace | None:
    """Item vectors of a run lined up with a task's candidates; None where it has none."""
    problem = made.loaded.task.problem
    path = run.item_snapshot(min(made.loaded.times))
    if problem not in ("ranking", "impressions") or path is None:
        return None
    ids, vectors = read_vectors(path, run.spec.view.item_key)
    if ids.type != log.items.type:
        raise EvaluationError(
            f"{run.name}: item ids of its events are {ids.type}, those of the tasks' "
            f"{log.items.type}; write both logs alike"
        )
    wanted = log.items
    if problem == "ranking":
        wanted = wanted.take(pa.array(made.examples.candidates))
    place = pc.index_in(wanted, value_set=ids)
    known = place.is_valid().to_numpy(zero_copy_only=False)
    rows = pc.fill_null(place, 0).to_numpy(zero_copy_only=False)
    lined = vectors[rows] * known[:, None]
    return ItemSpace(
        lined.astype(np.float32), known, run.spec.view.metric, run.manifest.num_vectors
    )


def item_blocks(space: ItemSpace | None, blocks: Blocks) -> tuple[str, ...]:
    """The blocks that item vectors have numbers in; none where a user has several vectors."""
    if space is None or space.num_vectors > 1:
        return ()
    return tuple(n for n, (start, stop) in blocks.items() if space.vectors[:, start:stop].any())


#: What the view publishes beside the vectors, probed alone like a block of them.
PUBLISHED = "published"


def takes_published(config: EvaluationConfig, made: SplitExamples) -> bool:
    """Whether a task's probes are given what a view publishes beside the vectors.

    A model that fetches the vectors has it in the same call. Rankings compare users or items by
    their vectors alone, and within an impression it is the same for all that was shown.
    """
    return config.published and made.loaded.task.problem not in ("ranking", "impressions")


def only_block(data: ProbeData, subject: Subject, name: str) -> ProbeData:
    """One block of the vectors, beside what a probe is given that is no part of them."""
    start, stop = subject.blocks[name]
    beside = data.features[:, subject.features.shape[1] :]
    return replace(data, features=np.concatenate((data.features[:, start:stop], beside), axis=1))


def probe_data(made: SplitExamples, subject: Subject) -> ProbeData:
    """Features and targets; a column says who has no vector, where somebody has none."""
    parts = [subject.features]
    if subject.published is not None:
        parts.append(subject.published)
    if not subject.known.all():
        parts.append((~subject.known)[:, None].astype(np.float32))
    examples, problem = made.examples, made.loaded.task.problem
    if problem == "impressions":
        if examples.context is not None:
            parts.append(examples.context)
        if subject.items is not None:
            parts.append(subject.item_scores(examples.items)[:, None])
    features = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
    return ProbeData(problem, features, examples, made.train, made.valid, made.test)
