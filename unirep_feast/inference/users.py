"""Checkpoint and histories to user vectors: fixed shapes, order restored, bit-equal."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from unirep_feast.batch import SequenceBatch, bucket_width
from unirep_feast.blame import Part, failure
from unirep_feast.config import EncodeConfig
from unirep_feast.encoder import Encoded, Encoder
from unirep_feast.errors import ContractError, PluginError, UnirepError
from unirep_feast.history_hash import HistoryHasher
from unirep_feast.probing import probe_encoder
from unirep_feast.probing.encoders import check_encoded
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


@dataclass(frozen=True)
class Eligible:
    """The users who have an event in the encoder's window before a time.

    Attributes:
        past: histories before it, clipped to the window when drawn.
        rows: (n,) int64 rows of the users in ``past``, ascending.
        as_of: the time, microseconds.
    """

    past: Sequences
    rows: Tensor
    as_of: int

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def _hasher(self) -> HistoryHasher:
        return HistoryHasher(self.past.items)

    def hashes(self, rows: Tensor) -> np.ndarray:
        """(m,) int64 hashes of what the encoder sees of some of the users."""
        return self._hasher(self.past, rows, self.as_of)

    def block(
        self,
        rows: Tensor,
        vectors: np.ndarray,
        slots: np.ndarray | None,
        hashes: np.ndarray | None = None,
    ) -> VectorBlock:
        """Put vectors of some of the users together with what a snapshot says beside them."""
        # Every one of these rows has an event, so the position before its end is its own.
        last = self.past.times[self.past.ends[rows] - 1]
        return VectorBlock(
            users=self.past.users.take(pa.array(rows.numpy())),
            vectors=vectors,
            history_length=self.past.lengths[rows].numpy(),
            last_event=last.numpy(),
            slots=slots,
            history_hash=self.hashes(rows) if hashes is None else hashes,
        )


class Inference:
    """Encodes users as of a time.

    A batched kernel gives other last bits with another batch shape, so every batch of a width has
    the same number of rows, filled up with empty ones. Whoever is encoded beside a user, in
    whatever order, the user's vector is the same to the last bit on the same machine, torch build
    and thread count.
    """

    def __init__(self, encoder: Encoder, config: EncodeConfig, name: str | Part = "?") -> None:
        """Move the encoder to its device and into ``eval()``.

        Args:
            encoder: with weights loaded and items bound.
            config: the spec's ``encode`` section.
            name: of the encoder, for errors; a :class:`Part` names its plugin, too.
        """
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        self.device = pick_device(config.device)
        self.encoder = encoder.to(self.device).eval()  # type: ignore[attr-defined]
        self.config = config
        self.part = name if isinstance(name, Part) else Part("encoder", name)

    @property
    def machine(self) -> str:
        """What vectors depend on to the last bit, beside weights and histories."""
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else _cpu()
        return (
            f"torch {torch.__version__}, {name}, {torch.get_num_threads()} threads, "
            f"{self.config.cells} cells"
        )

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
        eligible = self.eligible(sequences, as_of)
        done = 0

        def tick(users: int) -> None:
            nonlocal done
            done += users
            if progress is not None:
                progress(done, len(eligible))

        for rows in torch.split(eligible.rows, self.config.block_users):
            yield eligible.block(rows, *self.vectors(eligible, rows, tick))

    def check(self, sequences: Sequences, as_of: int) -> None:
        """Try the encoder's promises on a few users of this log; see :func:`probe_encoder`."""
        probe_encoder(self.encoder, self.part, sequences, as_of)

    def probe(self, sequences: Sequences, as_of: int) -> bool:
        """Whether vectors are bit-equal in other company, tried on a few users of this log."""
        eligible = self.eligible(sequences, as_of)
        stride = max(len(eligible) // _PROBED_USERS, 1)
        rows = eligible.rows[::stride][:_PROBED_USERS]
        whole, _ = self.vectors(eligible, rows)
        alone, _ = self.vectors(eligible, rows[1::2].flip(0))
        return bool(np.array_equal(whole[1::2][::-1], alone, equal_nan=True))

    def count(self, sequences: Sequences, as_of: int) -> int:
        """How many users have an event that the encoder looks at before a time."""
        return len(self.eligible(sequences, as_of))

    def eligible(self, sequences: Sequences, as_of: int) -> Eligible:
        """Histories before a time, and the users who have an event in the encoder's window."""
        past = sequences.before(as_of).limit(self.encoder.window)
        users = past.all_users()
        starts = past.bounds(users, past.ends, torch.full_like(past.ends, as_of))
        return Eligible(past, torch.nonzero(past.ends > starts).flatten(), as_of)

    def vectors(
        self, eligible: Eligible, rows: Tensor, tick: Callable[[int], None] = lambda users: None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Encode some of the eligible users.

        Args:
            eligible: their histories.
            rows: (n,) int64, some of ``eligible.rows`` in any order.
            tick: called after every batch with the number of users in it.

        Returns:
            (n, K · D) float32 vectors, and (n, K) int64 interest ids where the encoder gives them.

        Raises:
            ContractError: vectors have the wrong shape or are not finite.
            PluginError: the encoder failed.
        """
        encoder, past = self.encoder, eligible.past
        width = encoder.num_vectors * encoder.dim
        vectors = np.empty((len(rows), width), np.float32)
        slots: np.ndarray | None = None
        for picked, shape in self._batches(past, rows, eligible.as_of):
            encoded = self._run(self._fill(past, rows[picked], eligible.as_of, shape))
            kept = encoded.users[: len(picked)].float().reshape(len(picked), width).cpu().numpy()
            vectors[picked.numpy()] = kept
            if "slots" in encoded.extras:
                if slots is None:
                    slots = np.empty((len(rows), encoder.num_vectors), np.int64)
                slots[picked.numpy()] = encoded.extras["slots"][: len(picked)].cpu().numpy()
            tick(len(picked))
        self._refuse_infinite(vectors, past, rows)
        return vectors, slots

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
                f"{self.part}: {self.device} is out of memory with {len(batch)} users x "
                f"{batch.width} steps; lower encode.cells, or the encoder's window"
            ) from None
        except UnirepError:
            raise
        except (Exception, SystemExit) as error:
            when = f"while encoding {len(batch)} users x {batch.width} steps"
            raise failure(self.part, "forward", error, when) from error
        check_encoded(encoded, self.encoder, str(self.part), len(batch))
        return encoded

    def _refuse_infinite(self, vectors: np.ndarray, past: Sequences, rows: Tensor) -> None:
        bad = ~np.isfinite(vectors).all(axis=1)
        if bad.any():
            users = past.users.take(pa.array(rows.numpy()[bad][:5])).to_pylist()
            raise ContractError(
                f"{self.part}: the vectors of {int(bad.sum()):,} users hold NaN or "
                f"infinity ({', '.join(map(str, users))}{', …' if bad.sum() > 5 else ''}); the "
                "model diverged, train with a lower training.learning_rate"
            )


def _cpu() -> str:
    """The processor by name, where the system tells it, else by what torch uses of it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return f"{next(names, platform.machine())} {torch.backends.cpu.get_cpu_capability()}"
