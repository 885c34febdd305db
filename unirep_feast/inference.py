"""Checkpoint and histories to user vectors: fixed shapes, order restored, bit-equal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from unirep_feast.batch import SequenceBatch, bucket_width
from unirep_feast.config import EncodeConfig
from unirep_feast.encoder import Encoded, Encoder
from unirep_feast.errors import ContractError, PluginError, UnirepError, one_line
from unirep_feast.ranks import pick_device
from unirep_feast.sequences import Sequences
from unirep_feast.snapshot import VectorBlock

_PROBED_USERS = 64

#: Called with (users done, users in all) after every batch.
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Shape:
    """One of few batch shapes: ``rows`` users by ``width`` steps."""

    rows: int
    width: int


class Inference:
    """Encodes users as of a time.

    A batched kernel gives other last bits with another batch shape, so every batch of a width has
    the same number of rows, filled up with empty ones. Whoever is encoded beside a user, in
    whatever order, the user's vector is the same to the last bit on the same machine, torch build
    and thread count.
    """

    def __init__(self, encoder: Encoder, config: EncodeConfig, name: str = "?") -> None:
        """Move the encoder to its device and into ``eval()``.

        Args:
            encoder: with weights loaded and items bound.
            config: the spec's ``encode`` section.
            name: of the encoder, for errors.
        """
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        self.device = pick_device(config.device)
        self.encoder = encoder.to(self.device).eval()  # type: ignore[attr-defined]
        self.config = config
        self.name = name

    def encode(
        self, sequences: Sequences, as_of: int, progress: Progress | None = None
    ) -> Iterator[VectorBlock]:
        """Yield vectors of all users with an event before a time, in user order.

        Args:
            sequences: events; those at or after ``as_of`` are cut off here.
            as_of: T, microseconds, exclusive.
            progress: called after every batch.

        Raises:
            ContractError: vectors have the wrong shape or are not finite.
            PluginError: the encoder failed.
        """
        past, rows = self._eligible(sequences, as_of)
        done = 0
        for block in torch.split(rows, self.config.block_users):
            yield self._block(past, block, as_of, done, len(rows), progress)
            done += len(block)

    def probe(self, sequences: Sequences, as_of: int) -> bool:
        """Whether vectors are bit-equal in other company, tried on a few users of this log."""
        past, rows = self._eligible(sequences, as_of)
        stride = max(len(rows) // _PROBED_USERS, 1)
        rows = rows[::stride][:_PROBED_USERS]
        whole = self._block(past, rows, as_of, 0, len(rows), None).vectors
        some = rows[1::2].flip(0)
        alone = self._block(past, some, as_of, 0, len(some), None).vectors
        return bool(np.array_equal(whole[1::2][::-1], alone, equal_nan=True))

    def count(self, sequences: Sequences, as_of: int) -> int:
        """How many users have an event that the encoder looks at before a time."""
        return len(self._eligible(sequences, as_of)[1])

    def _eligible(self, sequences: Sequences, as_of: int) -> tuple[Sequences, Tensor]:
        """Histories before a time, and the rows of the users who have one in the window."""
        past = sequences.before(as_of).limit(self.encoder.window)
        users = past.all_users()
        starts = past.bounds(users, past.ends, torch.full_like(past.ends, as_of))
        return past, torch.nonzero(past.ends > starts).flatten()

    def _block(
        self,
        past: Sequences,
        rows: Tensor,
        as_of: int,
        done: int,
        total: int,
        progress: Progress | None,
    ) -> VectorBlock:
        encoder = self.encoder
        width = encoder.num_vectors * encoder.dim
        vectors = np.empty((len(rows), width), np.float32)
        slots: np.ndarray | None = None
        for picked, shape in self._batches(past, rows, as_of):
            encoded = self._run(self._fill(past, rows[picked], as_of, shape))
            kept = encoded.users[: len(picked)].float().reshape(len(picked), width).cpu().numpy()
            vectors[picked.numpy()] = kept
            if "slots" in encoded.extras:
                if slots is None:
                    slots = np.empty((len(rows), encoder.num_vectors), np.int64)
                slots[picked.numpy()] = encoded.extras["slots"][: len(picked)].cpu().numpy()
            done += len(picked)
            if progress is not None:
                progress(done, total)
        # Every one of these rows has an event, so the position before its end is its own.
        last = past.times[past.ends[rows] - 1]
        block = VectorBlock(
            users=past.users.take(pa.array(rows.numpy())),
            vectors=vectors,
            history_length=past.lengths[rows].numpy(),
            last_event=last.numpy(),
            slots=slots,
        )
        return self._refuse_infinite(block)

    def _batches(self, past: Sequences, rows: Tensor, as_of: int) -> Iterator[tuple[Tensor, Shape]]:
        """Group rows by padded width; yields positions in ``rows`` with the batch's shape."""
        ends = past.ends[rows]
        lengths = ends - past.bounds(rows, ends, torch.full_like(ends, as_of))
        limit = self.encoder.window.max_events
        # Stable: rows are in user order, so ties of length stay in it.
        lengths, order = torch.sort(lengths, stable=True)
        start = 0
        while start < len(order):
            width = bucket_width(int(lengths[start]), limit)
            end = int(torch.searchsorted(lengths, width, right=True))
            shape = Shape(max(self.config.cells // width, 1), width)
            for picked in torch.split(order[start:end], shape.rows):
                yield picked, shape
            start = end

    def _fill(self, past: Sequences, rows: Tensor, as_of: int, shape: Shape) -> SequenceBatch:
        """Gather histories and fill the batch up with empty rows to its fixed shape."""
        times = torch.full_like(rows, as_of)
        batch = past.window(rows, past.starts[rows], past.ends[rows], times)
        missing = shape.rows - len(rows)
        lengths = torch.cat((batch.lengths, batch.lengths.new_zeros(missing)))
        return SequenceBatch(
            codes=batch.codes,
            times=batch.times,
            lengths=lengths,
            users=torch.cat((batch.users, batch.users.new_full((missing,), -1))),
            as_of=torch.full_like(lengths, as_of),
            width=shape.width,
            columns=batch.columns,
        )

    @torch.inference_mode()
    def _run(self, batch: SequenceBatch) -> Encoded:
        try:
            encoded: Encoded = self.encoder(batch.to(self.device))
        except torch.OutOfMemoryError:
            raise PluginError(
                f"encoder {self.name!r}: {self.device} is out of memory with {len(batch)} users x "
                f"{batch.width} steps; lower encode.cells, or the encoder's window"
            ) from None
        except UnirepError:
            raise
        except Exception as error:
            raise PluginError(
                f"encoder {self.name!r} failed to encode: {type(error).__name__}: {one_line(error)}"
            ) from error
        rows, encoder = len(batch), self.encoder
        self._check(encoded, "users", (rows, encoder.num_vectors, encoder.dim))
        if "slots" in encoded.extras:
            self._check(encoded, "slots", (rows, encoder.num_vectors))
        return encoded

    def _check(self, encoded: Encoded, name: str, wanted: tuple[int, ...]) -> None:
        if not isinstance(encoded, Encoded):
            raise ContractError(
                f"encoder {self.name!r} returned {type(encoded).__name__}; wanted Encoded"
            )
        found = encoded.users if name == "users" else encoded.extras[name]
        if tuple(found.shape) != wanted:
            axes = "(B, K, D)" if name == "users" else "(B, K)"
            raise ContractError(
                f"encoder {self.name!r} returned {name} {tuple(found.shape)}; it declares {axes} = "
                f"{wanted}"
            )

    def _refuse_infinite(self, block: VectorBlock) -> VectorBlock:
        bad = ~np.isfinite(block.vectors).all(axis=1)
        if bad.any():
            users = block.users.filter(pa.array(bad)).slice(0, 5).to_pylist()
            raise ContractError(
                f"encoder {self.name!r}: the vectors of {int(bad.sum()):,} users hold NaN or "
                f"infinity ({', '.join(map(str, users))}{', …' if bad.sum() > 5 else ''}); the "
                "model diverged, train with a lower training.learning_rate"
            )
        return block
