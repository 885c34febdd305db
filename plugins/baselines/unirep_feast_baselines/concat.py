"""Several representations side by side, each in a block of its own."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unirep_feast.batch import SequenceBatch
from unirep_feast.encoder import Encoded, Encoder
from unirep_feast.errors import SpecError
from unirep_feast.hookspecs import Fit
from unirep_feast.items import ItemTable, Vocabulary
from unirep_feast.members import build_members, clip, fit_members, widest
from unirep_feast.sequences import Sequences
from unirep_feast_baselines.config import ConcatMember, ConcatSettings
from unirep_feast_baselines.untrained import Untrained

#: Users per batch while means and deviations are taken.
_BATCH = 256


class ConcatEncoder(Untrained):
    """The vectors of several encoders one behind the other, each block normalised.

    A member sees what its own window shows of the widest window of all. A user without an event in
    a member's window has zeros in its block. Members are fitted in ``prepare`` and frozen; which
    numbers are whose stands in :attr:`blocks`.

    An item's vector has, in the block of each member with ``items``, the member's own vector of
    length one, and zeros elsewhere: its dot product with a user's vector sums the members' scores.

    Args:
        vocabulary: that of the fit.
        settings: see :class:`ConcatSettings`.
        prepared: from :func:`prepare_concat`.

    Attributes:
        blocks: by member, where its numbers begin and end among the D.
    """

    def __init__(
        self, vocabulary: Vocabulary, settings: ConcatSettings, prepared: Mapping[str, Tensor]
    ) -> None:
        encoders = build_members(settings.members, vocabulary, prepared)
        self.item_members = [member.name for member in settings.members if member.items]
        _check_items({name: encoders[name] for name in self.item_members})
        widths = {name: one.num_vectors * one.dim for name, one in encoders.items()}
        super().__init__(sum(widths.values()))
        self.members = nn.ModuleDict(
            # A ModuleDict refuses names of its own methods, such as "items".
            {f"of_{name}": _module(one) for name, one in encoders.items()}
        )
        self.encoders = encoders
        self.window = widest([one.window for one in encoders.values()])
        self.depends_on_as_of = any(one.depends_on_as_of for one in encoders.values())
        shared = all("batch_independent" in one.provides for one in encoders.values())
        self.provides = frozenset(
            ["batch_independent"] * shared + ["items"] * bool(self.item_members)
        )
        self.blocks: dict[str, tuple[int, int]] = {}
        end = 0
        for name, width in widths.items():
            self.blocks[name] = (end, end + width)
            end += width
            for what, neutral in (("centre", 0.0), ("scale", 1.0)):
                key = f"{name}.{what}"
                self.register_buffer(
                    f"{name}_{what}", prepared.get(key, torch.full((width,), neutral))
                )

    def bind(self, items: ItemTable) -> None:
        """Let every member take in the catalogue."""
        for encoder in self.encoders.values():
            encoder.bind(items)

    def train(self, mode: bool = True) -> ConcatEncoder:
        """Stay in ``eval()``: the members were fitted before."""
        return super().train(False)

    def forward(self, batch: SequenceBatch, *, steps: bool = False) -> Encoded:
        """Encode a batch to (B, 1, D)."""
        parts = []
        for name in self.blocks:
            vectors, there = self.block(name, batch)
            centre, scale = (getattr(self, f"{name}_{what}") for what in ("centre", "scale"))
            parts.append((vectors - centre) / scale * there[:, None])
        return Encoded(torch.cat(parts, 1)[:, None])

    def embed_items(self, codes: Tensor) -> Tensor:
        """Return (n, D) vectors of (n,) codes; zeros in blocks of members without ``items``."""
        if not self.item_members:
            return super().embed_items(codes)
        found = self.get_buffer(f"{self.item_members[0]}_scale").new_zeros(len(codes), self.dim)
        for name in self.item_members:
            start, stop = self.blocks[name]
            scale = self.get_buffer(f"{name}_scale")
            unit = F.normalize(self.encoders[name].embed_items(codes).float(), dim=1)
            # Divided users times multiplied items: the member's own score, on the block's scale.
            found[:, start:stop] = unit * (scale / scale.mean())
        return found

    def block(self, name: str, batch: SequenceBatch) -> tuple[Tensor, Tensor]:
        """A member's own vectors, (B, K * D) float32, and (B,) bool, who is in its window."""
        encoder = self.encoders[name]
        clipped = clip(batch, encoder.window)
        return encoder(clipped).users.flatten(1).float(), clipped.lengths > 0


def prepare_concat(
    settings: ConcatSettings, vocabulary: Vocabulary, sequences: Sequences, fit: Fit
) -> dict[str, Tensor]:
    """Fit all members, then means and deviations of their vectors as of the training cut-off."""
    prepared = fit_members(settings.members, vocabulary, sequences, fit)
    encoder = ConcatEncoder(vocabulary, settings, prepared)
    encoder.bind(sequences.items)
    mean_width = encoder.dim / len(encoder.blocks)
    sums = {name: _Moments(stop - start) for name, (start, stop) in encoder.blocks.items()}
    limited = sequences.limit(encoder.window)
    rows = torch.nonzero(sequences.lengths).flatten()
    rows = rows[:: max(len(rows) // settings.sample, 1)]
    # By length, so that a batch holds few places without an event.
    rows = rows[torch.argsort(sequences.lengths[rows], stable=True)]
    with torch.inference_mode():
        for some in torch.split(rows, _BATCH):
            batch = limited.histories(some)
            for name, moments in sums.items():
                vectors, there = encoder.block(name, batch)
                moments.add(vectors[there])
    for member in settings.members:
        centre, scale = sums[member.name].normaliser(member)
        if member.items:
            centre = torch.zeros_like(centre)
        if settings.equal and member.normalise != "none":
            scale = scale * (len(scale) / mean_width) ** 0.5
        prepared[f"{member.name}.centre"] = centre.float()
        prepared[f"{member.name}.scale"] = scale.float()
    return prepared


class _Moments:
    """Means and deviations of (W,) numbers over users, a batch at a time."""

    def __init__(self, width: int) -> None:
        self.count = 0
        self.sums = torch.zeros(2, width, dtype=torch.float64)

    def add(self, vectors: Tensor) -> None:
        """Take in (n, W) vectors."""
        x = vectors.double()
        self.sums += torch.stack((x.sum(0), x.square().sum(0)))
        self.count += len(x)

    def normaliser(self, member: ConcatMember) -> tuple[Tensor, Tensor]:
        """What is subtracted and what is divided by: (W,) each."""
        centre, square = self.sums / max(self.count, 1)
        if member.normalise == "none":
            return torch.zeros_like(centre), torch.ones_like(centre)
        variance = (square - centre.square()).clamp(min=0)
        if member.normalise == "block":
            variance = variance.mean().expand_as(variance)
        deviation = variance.sqrt()
        # What never varies stays as it is, instead of exploding where it once does.
        return centre, torch.where(deviation > 1e-6, deviation, torch.ones_like(deviation))


def _check_items(encoders: Mapping[str, Encoder]) -> None:
    for name, encoder in encoders.items():
        if "items" not in encoder.provides:
            found = "one without item vectors"
        elif encoder.num_vectors != 1:
            found = f"{encoder.num_vectors} vectors per user"
        else:
            continue
        raise SpecError(
            f"member {name}",
            [f"`items: true` wants an encoder with item vectors and one vector, found {found}"],
        )


def _module(encoder: Encoder) -> nn.Module:
    assert isinstance(encoder, nn.Module)  # noqa: S101 - the host has checked
    return encoder
