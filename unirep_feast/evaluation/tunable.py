"""Fine-tuning: the encoder itself goes on training, with a linear head, on a task's labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc
import torch
from torch import Tensor, nn

from unirep_feast.config import TrainingConfig
from unirep_feast.encoder import Encoder
from unirep_feast.evaluation.candidates import ReaderOf, Trained
from unirep_feast.evaluation.config import EvaluationConfig
from unirep_feast.evaluation.examples import SplitExamples
from unirep_feast.evaluation.heads import finish, loss_of
from unirep_feast.evaluation.probe_data import ProbeData
from unirep_feast.evaluation.subject import FineTune
from unirep_feast.objective import Losses, Views
from unirep_feast.pipeline.loading import open_catalog
from unirep_feast.pipeline.restoring import final_checkpoint, load_encoder
from unirep_feast.sampler import Draw, Units
from unirep_feast.sequences import Sequences
from unirep_feast.task import TaskLog
from unirep_feast.trainer import Trainer
from unirep_feast.trio import Trio

_BATCH = 256


def can_fine_tune(run: Trained, made: SplitExamples) -> bool:
    """Whether a run's encoder was trained by gradient, and the task asks as of one time."""
    return "objective" in run.manifest.identity and len(made.loaded.times) == 1


def fine_tuner(
    config: EvaluationConfig,
    run: Trained,
    made: SplitExamples,
    log: TaskLog,
    reader_of: ReaderOf,
) -> FineTune:
    """Return what fine-tunes a run's encoder to a task, each time from the run's own weights."""

    def tune(data: ProbeData, seed: int) -> np.ndarray:
        spec, as_of = run.spec, made.loaded.times[0]
        checkpoint = final_checkpoint(open_catalog(spec, create=False), spec, run.run)
        inference, sequences = load_encoder(
            spec, checkpoint, as_of, lambda line: None, reader_of(spec)
        )
        past = sequences.before(as_of).limit(inference.encoder.window)
        ids = log.users.take(made.examples.users)
        place = pc.fill_null(pc.index_in(ids, value_set=past.users), -1)
        rows = np.array(place.to_numpy(zero_copy_only=False), np.int64)
        empty = past.lengths.numpy()[rows.clip(min=0)] == 0
        rows[empty] = -1
        tuning = _Tuning(config, inference.encoder, past, rows, data)
        return tuning.run(seed)

    return tune


@dataclass
class _Tuning:
    """One fine-tuning.

    Attributes:
        config: the file.
        encoder: with the run's weights; they are changed.
        past: histories before the cut-off.
        rows: (n,) int64 row in ``past`` of each example's user; -1 without a history.
        data: targets and splits.
    """

    config: EvaluationConfig
    encoder: Encoder
    past: Sequences
    rows: np.ndarray
    data: ProbeData

    def run(self, seed: int) -> np.ndarray:
        """Train, and return the outputs of all examples, (n,) or (n, C) float32.

        Users without a history get what the head says of a vector of zeros.
        """
        settings, splits = self.config.fine_tune, self.config.splits
        assert isinstance(self.encoder, nn.Module)  # noqa: S101
        torch.manual_seed(seed)
        head = _Head(self.encoder.num_vectors * self.encoder.dim, self.data)
        used = np.concatenate([self.data.train, self.data.valid])
        sampler = _LabelRows(self.rows, np.sort(used[self.rows[used] >= 0]))
        training = TrainingConfig(
            # Its shares by hash of the user are those of the file: the same seed, no test rows.
            seed=splits.seed,
            validation=splits.valid,
            test=splits.test,
            max_steps=settings.max_steps,
            batch_size=settings.batch_size,
            learning_rate=settings.learning_rate,
            validate_every=settings.validate_every,
            patience=settings.patience,
            device="cpu",
        )
        for _ in Trainer(Trio(self.encoder, head, sampler), self.past, training).run():
            pass
        return finish(self._outputs(head), self.data)

    def _outputs(self, head: _Head) -> Tensor:
        assert isinstance(self.encoder, nn.Module)  # noqa: S101
        self.encoder.eval()
        vectors = torch.zeros(len(self.rows), self.encoder.num_vectors * self.encoder.dim)
        known = np.flatnonzero(self.rows >= 0)
        lengths = self.past.lengths.numpy()[self.rows[known]]
        known = known[np.argsort(lengths, kind="stable")]  # equal lengths together: less padding
        with torch.inference_mode():
            for start in range(0, len(known), _BATCH):
                some = known[start : start + _BATCH]
                batch = self.past.histories(torch.from_numpy(self.rows[some]))
                vectors[torch.from_numpy(some)] = self.encoder(batch).users.flatten(1)
            outputs: Tensor = head.linear(vectors)
        return outputs


class _Head(nn.Module):
    """A linear head on the user vector, with the loss of the task's problem."""

    requires: frozenset[str] = frozenset()
    views = frozenset({"history", "example"})
    validate_with_dropout = False
    trains_encoder = True

    def __init__(self, width: int, data: ProbeData) -> None:
        super().__init__()
        self.linear = nn.Linear(width, data.outputs)
        self._loss = loss_of(data)

    def forward(self, encoder: Any, views: Views) -> Losses:
        outputs = self.linear(encoder(views["history"]).users.flatten(1))
        examples = views["example"]
        assert isinstance(examples, Tensor)  # noqa: S101
        loss = self._loss(outputs, examples.cpu().numpy())
        return Losses({"task": loss}, {})


class _LabelRows:
    """Examples as training units: a user's history, and which example it is."""

    views = frozenset({"history", "example"})

    def __init__(self, rows: np.ndarray, chosen: np.ndarray) -> None:
        self._examples = torch.from_numpy(chosen)
        self._users = torch.from_numpy(rows[chosen])

    def units(self, sequences: Sequences) -> Tensor:
        return self._users

    def sample(self, sequences: Sequences, units: Units, draw: Draw) -> Mapping[str, Any]:
        history = sequences.histories(units.users)
        return {"history": history, "example": self._examples[units.index]}
