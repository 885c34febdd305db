"""Histories as the lines of a text file, which gensim reads without Python in between."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from unirep_feast.batch import FIRST_ITEM
from unirep_feast.sequences import Sequences
from unirep_feast_baselines.counting import blocks

#: Longer lines are cut off by gensim.
LONGEST = 10_000


@dataclass(frozen=True)
class Corpus:
    """A file with one history (or piece of a long one) per line, items by their codes.

    Attributes:
        path: the file; it is gone when the context ends.
        lines: in it.
        words: in it.
    """

    path: Path
    lines: int
    words: int


@contextmanager
def written(sequences: Sequences, split: bool) -> Iterator[Corpus]:
    """Write the known items of every history, oldest first.

    Args:
        sequences: histories before the training cut-off.
        split: cut histories of more than ``LONGEST`` events into several lines; else only their
            latest events are written.
    """
    with TemporaryDirectory(prefix="unirep-baselines-") as folder:
        path = Path(folder) / "histories.txt"
        lines = words = 0
        with path.open("wb") as file:
            for batch in blocks(sequences):
                kept = (batch.codes >= FIRST_ITEM) & (batch.codes < sequences.items.known)
                codes = batch.codes[kept].cpu().numpy()
                lengths = torch.bincount(batch.rows[kept], minlength=len(batch)).cpu().numpy()
                starts, ends = _cut(lengths[lengths > 0], split)
                if not len(starts):
                    continue
                picked = np.repeat(
                    starts - np.cumsum(ends - starts) + (ends - starts), ends - starts
                )
                picked += np.arange(len(picked))
                offsets = np.concatenate(([0], np.cumsum(ends - starts))).astype(np.int32)
                texts = pa.array(codes[picked]).cast(pa.string())
                joined = pc.binary_join(pa.ListArray.from_arrays(offsets, texts), " ")
                file.write("\n".join([*joined.to_pylist(), ""]).encode())
                lines += len(starts)
                words += len(picked)
        yield Corpus(path, lines, words)


def _cut(lengths: np.ndarray, split: bool) -> tuple[np.ndarray, np.ndarray]:
    """Where lines begin and end among the words of rows laid end to end."""
    ends = np.cumsum(lengths)
    if not split:
        return np.maximum(ends - lengths, ends - LONGEST), ends
    pieces = -(-lengths // LONGEST)
    number = np.arange(int(pieces.sum())) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    starts = np.repeat(ends - lengths, pieces) + number * LONGEST
    return starts, np.minimum(starts + LONGEST, np.repeat(ends, pieces))
