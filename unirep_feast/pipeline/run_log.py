"""What a run tells of itself: one JSON line per record; TensorBoard and MLflow on request."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from unirep_feast.errors import TrainingError
from unirep_feast.pipeline.tracking import MlflowRun
from unirep_feast.trainer import Record


def load_tensorboard() -> Any:
    """Import torch's TensorBoard writer.

    Raises:
        TrainingError: TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise TrainingError(
            "training.tensorboard needs tensorboard; pip install 'unirep-feast[tensorboard]'"
        ) from None
    return SummaryWriter


class RunLog:
    """Writes records to ``log.jsonl`` and, where asked for, to TensorBoard files and MLflow.

    A resumed run goes on in the same file; what its first session wrote after the checkpoint it
    resumes from stands there twice.
    """

    def __init__(self, folder: Path, tensorboard: bool, tracker: MlflowRun | None = None) -> None:
        """Open the files of a run.

        Args:
            folder: of the run.
            tensorboard: write event files to ``<folder>/tensorboard``.
            tracker: the same run in MLflow.
        """
        writer = load_tensorboard() if tensorboard else None
        folder.mkdir(parents=True, exist_ok=True)
        self._file = (folder / "log.jsonl").open("a", encoding="utf-8")
        self._writer = writer and writer(str(folder / "tensorboard"))
        self._tracker = tracker

    def __enter__(self) -> RunLog:
        """Return itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Close the files."""
        self._file.close()
        if self._writer is not None:
            self._writer.close()
        if self._tracker is not None:
            self._tracker.close(failed=kind is not None)

    def write(self, record: Record) -> None:
        """Write one record; a number that is not finite becomes null."""
        values = {k: v if math.isfinite(v) else None for k, v in record.values.items()}
        line = {
            "kind": record.kind,
            "step": record.step,
            "epoch": round(record.epoch, 4),
            "seconds": round(record.seconds, 3),
        }
        self._file.write(json.dumps({**line, **values, **line}) + "\n")
        self._file.flush()
        if self._writer is not None:
            for name, value in record.values.items():
                self._writer.add_scalar(f"{record.kind}/{name}", value, record.step)
        if self._tracker is not None:
            self._tracker.write(record)
