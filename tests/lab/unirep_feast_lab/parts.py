"""Encoder, objective and sampler of the lab plugin."""

from __future__ import annotations

import time
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unirep_feast.batch import UNK
from unirep_feast.encoder import Encoded, Window
from unirep_feast.objective import Losses


class LabEncoder(nn.Module):
    def __init__(self, codes: int, settings: Any) -> None:
        super().__init__()
        self.codes, self.settings = codes, settings
        self.num_vectors, self.dim = settings.vectors, settings.dim
        self.depends_on_as_of = settings.ages
        self.window = Window(settings.max_events, settings.max_days)
        more = {"batch_independent"} if settings.independent and not settings.batch_norm else set()
        if settings.slots or settings.fails == "slots":
            more |= {"slots"}
        self.provides = frozenset({"steps", "items"} | more)
        width = settings.vectors * settings.dim
        self.items = nn.Embedding(codes, settings.dim)
        self.turn = nn.Linear(settings.dim, width)
        self.dropout = nn.Dropout(settings.dropout)
        self.norm = nn.BatchNorm1d(width) if settings.batch_norm else nn.Identity()
        if settings.unused:
            self.unused = nn.Parameter(torch.ones(3))

    def bind(self, items: Any) -> None:
        pass

    def embed_items(self, codes: Tensor) -> Tensor:
        return self.items(codes.masked_fill(codes >= self.codes, UNK))

    def forward(self, batch: Any, *, steps: bool = False) -> Encoded:
        fails = self.settings.fails
        if fails == "raise":
            raise RuntimeError("the flux capacitor\nis empty")
        embedded = self.embed_items(batch.pad(batch.codes)) * batch.mask[..., None]
        mean = embedded.sum(1) / batch.lengths.clamp(min=1)[:, None]
        users = self.norm(self.dropout(self.turn(mean)))
        users = users.reshape(len(batch), self.num_vectors, self.dim)
        if self.settings.ages:
            users = users + (batch.as_of // 3_600_000_000 % 97)[:, None, None]
        if fails == "type":
            return users
        if fails == "shape":
            users = users[:, :, :-1]
        if fails == "nan":
            users = users.masked_fill(
                (batch.codes[batch.first.clamp(max=len(batch.codes) - 1)] % 2 == 0)[:, None, None],
                torch.nan,
            )
        place = torch.arange(1, batch.width + 1, device=batch.device)[:, None]
        hidden = batch.unpad(embedded.cumsum(1) / place) if steps else None
        extras = {"norms": users.flatten(1).norm(dim=1)} if self.settings.penalty else {}
        if "slots" in self.provides:
            slots = torch.arange(self.num_vectors, device=batch.device) + batch.lengths[:, None]
            extras["slots"] = slots[:, :-1] if fails == "slots" else slots
            if fails == "twice":
                extras["slots"] = slots * 0
        return Encoded(users, hidden, extras)

    def penalties(self, extras: Any) -> dict[str, Tensor]:
        if "norms" not in extras:
            return {}
        return {"spread": extras["norms"].var() * 0.01}


class BareEncoder(LabEncoder):
    """Provides nothing."""

    def __init__(self, codes: int, settings: Any) -> None:
        super().__init__(codes, settings)
        self.provides = frozenset()


class PreparedEncoder(LabEncoder):
    """Starts from embeddings that were prepared, and keeps a fixed draw."""

    def __init__(self, codes: int, settings: Any, prepared: Any) -> None:
        super().__init__(codes, settings)
        self.register_buffer("draw", prepared["draw"].clone())
        with torch.no_grad():
            self.items.weight.copy_(prepared["items"])

    def forward(self, batch: Any, *, steps: bool = False) -> Encoded:
        encoded = super().forward(batch, steps=steps)
        return Encoded(encoded.users + self.draw, encoded.steps, encoded.extras)


def prepare(settings: Any, vocabulary: Any, sequences: Any, fit: Any) -> dict[str, Tensor]:
    from unirep_feast_lab.hooks import ObjectiveSettings, SamplerSettings

    encoder = LabEncoder(len(vocabulary), settings)
    objective = LabObjective(settings.vectors * settings.dim, ObjectiveSettings())
    fit(encoder, objective, LabSampler(SamplerSettings()), sequences, max_steps=3, epochs=None)
    return {"items": encoder.items.weight.detach(), "draw": torch.randn(settings.dim)}


class LabObjective(nn.Module):
    views = frozenset({"a", "b"})

    def __init__(self, width: int, settings: Any) -> None:
        super().__init__()
        self.settings = settings
        self.requires = frozenset({"steps"} if settings.steps else ())
        self.validate_with_dropout = settings.dropout_in_validation
        self.trains_encoder = settings.trains_encoder
        self.head = nn.Linear(width, width)
        self.norm = nn.BatchNorm1d(width)
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))
        self.register_buffer("last", torch.zeros(width))

    def forward(self, encoder: Any, views: Any) -> Losses:
        first, second = encoder(views["a"]), encoder(views["b"])
        a = self.norm(self.head(first.users.flatten(1)))
        b = second.users.flatten(1)
        # State that validation must not move, and that a checkpoint must keep.
        self.seen += len(a)
        self.last.copy_(a.detach().mean(0))
        scores = F.normalize(a, dim=-1) @ F.normalize(b, dim=-1).T / 0.2
        loss = F.cross_entropy(scores, torch.arange(len(a), device=a.device))
        if first.steps is not None:
            loss = loss + 0.1 * first.steps.square().mean()
        kind = self.settings.terms
        if kind == "raise":
            raise ValueError("no\nway")
        late = self.settings.nan_after is not None and int(self.seen) > self.settings.nan_after
        terms = {
            "nan": {"contrast": loss * torch.nan},
            "none": {},
            "vector": {"contrast": loss[None]},
            "clash": {"contrast": loss, "spread": loss},
        }.get(kind, {"contrast": loss * (torch.nan if late else 1)})
        return Losses(terms, {"loss": loss.detach() * 0, "size": a.new_tensor(float(len(a)))})


class OtherObjective(LabObjective):
    """Wants a view that the sampler does not have."""

    views = frozenset({"a", "c"})


class LabSampler:
    views = frozenset({"a", "b"})

    def __init__(self, settings: Any) -> None:
        self.settings = settings

    def units(self, sequences: Any) -> Any:
        if self.settings.fails == "units":
            return [1, 2]
        users = sequences.all_users()[sequences.lengths >= self.settings.min_events]
        first = sequences.times[sequences.starts[users]]
        return users[sequences.times[sequences.ends[users] - 1] > first]

    def sample(self, sequences: Any, units: Any, draw: Any) -> Any:
        if self.settings.fails == "raise":
            raise KeyError("lost")
        if self.settings.seconds:
            time.sleep(self.settings.seconds)
        users = units.users
        lo, hi = sequences.starts[users], sequences.ends[users]
        lot = torch.rand(len(users), generator=draw.generator("cut"), device=lo.device)
        second = sequences.locate(users, sequences.times[lo] + 1)
        chosen = second + (lot * (hi - second)).long().clamp(max=hi - second - 1)
        when = sequences.times[chosen]
        cut = sequences.locate(users, when)
        until = torch.full_like(hi, sequences.until)
        views = {
            "a": sequences.window(users, lo, cut, when),
            "b": sequences.window(users, cut, hi, until),
        }
        if self.settings.fails == "view":
            del views["b"]
        return views
