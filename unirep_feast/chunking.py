"""The encoder as an objective sees it: batches run in length-sorted chunks, extras gathered."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from unirep_feast.batch import SequenceBatch, bucket_width
from unirep_feast.encoder import Encoded, Encoder, Steps
from unirep_feast.errors import ContractError, UnirepError
from unirep_feast.gathering import gather_rows
from unirep_feast.objective import Losses, Views

_CHUNKS = 4
#: A split must save this share of the padded cells to pay for its extra calls,
_WORTH = 0.2
#: and a chunk hold about so many of them: a call costs what a few hundred cells do.
_CELLS = 1024


class EncoderFailed(Exception):  # noqa: N818 - it carries an error past the objective
    """The encoder raised (see ``__cause__``) while an objective was running."""

    def __init__(self, hook: str) -> None:
        """Note which method raised."""
        super().__init__(hook)
        self.hook = hook


class ChunkedEncoder:
    """Stands in for an encoder during one step of training.

    Random batches mix short and long histories, so most of a padded batch is padding. For encoders
    that declare ``batch_independent`` a batch is run as a few chunks of rows of similar length: the
    same vectors, the same loss, 1.3–3 times the speed, and negatives stay random, which batches
    bucketed by length would bias. Those that declare ``packed`` too have no padding to save.

    Attributes other than the call are the encoder's own.
    """

    def __init__(
        self,
        encoder: Encoder,
        call: Callable[..., Encoded] | None = None,
        steps: bool = False,
        chunks: int = _CHUNKS,
    ) -> None:
        """Wrap an encoder for one step.

        Args:
            encoder: the encoder.
            call: a compiled form of it; None calls it directly.
            steps: the objective requires hidden states per event.
            chunks: at most so many chunks per batch.
        """
        self._encoder = encoder
        self._call = encoder if call is None else call  # a compiled module has no truth value
        self._steps = steps
        ragged = "packed" not in encoder.provides
        self._chunks = chunks if ragged and "batch_independent" in encoder.provides else 1
        self._extras: list[Mapping[str, Tensor]] = []

    def __getattr__(self, name: str) -> Any:
        """Give what the encoder itself has."""
        return getattr(self._encoder, name)

    def __call__(self, batch: SequenceBatch, *, steps: Steps | None = None) -> Encoded:
        """Encode a batch; see :class:`unirep_feast.encoder.Encoder`."""
        steps = self._steps if steps is None else steps
        groups = self._groups(batch)
        if groups is None:
            encoded = self._encode(batch, steps)
        else:
            pieces = [self._encode(batch.take(rows, width), steps) for rows, width in groups]
            encoded = _join(pieces, torch.cat([rows for rows, _ in groups]), batch)
        if encoded.extras:
            self._extras.append(encoded.extras)
        return encoded

    def embed_items(self, codes: Tensor) -> Tensor:
        """Item vectors; see :class:`unirep_feast.encoder.Encoder`."""
        with _encoding("embed_items"):
            return self._encoder.embed_items(codes)

    def _encode(self, batch: SequenceBatch, steps: Steps) -> Encoded:
        with _encoding("forward"):
            return self._call(batch, steps=steps)

    def extras(self) -> dict[str, Tensor]:
        """Everything encoded since the start, for ``penalties``: extras joined along rows."""
        names = self._extras[0].keys() if self._extras else ()
        return {name: torch.cat([extra[name] for extra in self._extras]) for name in names}

    def _groups(self, batch: SequenceBatch) -> list[tuple[Tensor, int]] | None:
        """Split rows into chunks of similar length, or None where that would not pay."""
        rows = len(batch)
        if self._chunks == 1 or rows < 8 * self._chunks:
            return None
        count = min(self._chunks, rows * batch.width // _CELLS)
        if count < 2:
            return None
        lengths, order = torch.sort(batch.lengths, stable=True)
        groups = []
        for chunk in torch.tensor_split(torch.arange(rows, device=lengths.device), count):
            width = bucket_width(int(lengths[chunk[-1]]), batch.width)
            groups.append((order[chunk], width))
        cells = sum(len(chunk) * width for chunk, width in groups)
        return groups if cells <= (1 - _WORTH) * rows * batch.width else None


class TrioModule(nn.Module):
    """Encoder and objective as one module, so that DDP sees every parameter once."""

    def __init__(self, encoder: Any, objective: Any, compiled: bool = False) -> None:
        """Join two parts.

        Args:
            encoder: a module that fulfils the encoder contract.
            objective: a module that fulfils the objective contract.
            compiled: run the encoder through ``torch.compile``.
        """
        super().__init__()
        self.encoder = encoder
        self.objective = objective
        self.frozen = not objective.trains_encoder
        if self.frozen:
            self.encoder.requires_grad_(False)
        # In a tuple, so that it is no second child with the same parameters.
        self._call: tuple[Callable[..., Encoded] | None] = (
            torch.compile(self.encoder) if compiled else None,
        )

    def train(self, mode: bool = True) -> TrioModule:
        """Set the mode; a frozen encoder stays in ``eval()``."""
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        return self

    def forward(self, views: Views) -> Losses:
        """Score views; the encoder's penalties over the whole batch join the terms."""
        encoder = ChunkedEncoder(
            self.encoder, self._call[0], steps="steps" in self.objective.requires
        )
        losses: Losses = self.objective(encoder, views)
        extras = _over_ranks(encoder.extras())
        with _encoding("penalties"):
            penalties = self.encoder.penalties(extras) if extras else {}
        if penalties.keys() & losses.terms.keys():
            raise ContractError(
                f"the encoder's penalties and the objective's terms share the names "
                f"{', '.join(sorted(penalties.keys() & losses.terms.keys()))}; rename one"
            )
        return Losses({**losses.terms, **penalties}, losses.metrics)


@contextmanager
def _encoding(hook: str) -> Iterator[None]:
    """Tell what the encoder raises from what the objective around it does."""
    try:
        yield
    except (UnirepError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise EncoderFailed(hook) from error


def _over_ranks(extras: dict[str, Tensor]) -> dict[str, Tensor]:
    """Join extras over all ranks, so that a whole-batch term is of the whole batch under DDP."""
    if not extras:
        return extras
    return dict(zip(extras, gather_rows(*extras.values()).tensors, strict=True))


def _join(pieces: list[Encoded], order: Tensor, batch: SequenceBatch) -> Encoded:
    """Put the chunks' outputs back into the batch's row and event order."""
    place = torch.empty_like(order)
    place[order] = torch.arange(order.shape[0], device=order.device)
    users = torch.cat([piece.users for piece in pieces])[place]
    extras = {
        name: torch.cat([piece.extras[name] for piece in pieces])[place]
        for name in pieces[0].extras
    }
    steps = None
    if pieces[0].steps is not None:
        # Events follow their rows: the packed order of the shuffled batch, read backwards.
        shuffled = batch.take(order)
        start = shuffled.offsets[:-1][place]  # where each row's events lie in the joined pieces
        joined = torch.cat([piece.steps for piece in pieces if piece.steps is not None])
        steps = joined[start[batch.rows] + batch.steps]
    return Encoded(users, steps, extras)
