"""The fit loop: sequences and a trio in, records and checkpoints out."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from unirep_feast.batch import SequenceBatch
from unirep_feast.checkpoint import Checkpoint, load_optimizer, optimizer_tensors
from unirep_feast.chunking import TrioModule
from unirep_feast.config import TrainingConfig
from unirep_feast.errors import PluginError, TrainingError, UnirepError
from unirep_feast.objective import Losses, Views
from unirep_feast.ranks import Ranks, pick_device
from unirep_feast.sampler import Draw, Units, seed_of
from unirep_feast.sequences import Sequences
from unirep_feast.splits import shares
from unirep_feast.trio import Trio

#: Validation looks at so many units at most; more would only cost time.
_VALIDATION_UNITS = 4096

#: Save(step, trainer state, groups of tensors, final) writes a checkpoint and returns its folder.
Save = Callable[[int, dict[str, Any], Mapping[str, Mapping[str, Tensor]], bool], Path]


@dataclass(frozen=True)
class Record:
    """One thing that happened in training.

    Attributes:
        kind: ``start``, ``step`` (every ``log_every``), ``validation``, ``checkpoint``, ``end``.
        step: optimizer steps done.
        epoch: passes over the training units done, fractional.
        seconds: since training began, earlier sessions of a resumed run included.
        values: loss, terms, metrics, ``units_per_second`` and the like.
        path: of a checkpoint.
        total: steps there will be at most.
    """

    kind: Literal["start", "step", "validation", "checkpoint", "end"]
    step: int
    epoch: float
    seconds: float
    values: dict[str, float]
    path: Path | None = None
    total: int = 0


class Trainer:
    """Fits a trio on sequences; :meth:`run` yields a record whenever something happened."""

    def __init__(
        self, trio: Trio, sequences: Sequences, config: TrainingConfig, save: Save | None = None
    ) -> None:
        """Set up devices, units and the optimizer.

        Args:
            trio: encoder, objective and sampler that fit each other.
            sequences: events before the training cut-off only.
            config: the spec's ``training`` section.
            save: writes checkpoints; None trains in memory.

        Raises:
            TrainingError: fewer than two units to train on, or no such device.
        """
        assert trio.objective is not None and trio.sampler is not None  # noqa: S101
        self.config = config
        self.save = save
        self.names = {role: who["name"] for role, who in trio.identity.items()}
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        self.device = pick_device(config.device)
        self.ranks = Ranks.join(self.device)
        self.sampler = trio.sampler
        self.sequences = _resident(sequences.limit(trio.encoder.window), self.device)
        self.module = TrioModule(trio.encoder, trio.objective, config.compile).to(self.device)
        self.units = self._plugin("sampler", lambda: self.sampler.units(self.sequences)).cpu()
        self.train_units, self.valid_units, self.test_units = self._split()
        self.batch_size = min(config.batch_size, len(self.train_units))
        self.steps_per_epoch = max(len(self.train_units) // self.batch_size, 1)
        self.total = self._total()
        self._order: tuple[int, Tensor] = (-1, self.train_units)
        self.optimizer = torch.optim.Adam(
            [p for p in self.module.parameters() if p.requires_grad],
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            fused=True,
        )
        self.best = math.inf
        self.best_step = 0
        self.best_weights: dict[str, Tensor] | None = None
        self.stale = 0
        self.spent = 0.0

    def run(self, resume: Checkpoint | None = None) -> Iterator[Record]:
        """Train until steps, epochs, minutes or patience end; the best weights remain.

        Args:
            resume: continue from this checkpoint of the same run; on CPU the weights end up
                bit-equal to those of an unbroken run.
        """
        step = 0 if resume is None else self._restore(resume)
        self._started = time.perf_counter() - self.spent
        module = self._distributed() if self.ranks.world > 1 else self.module
        yield self._record("start", step, self._start_values())
        clock, logged = time.perf_counter(), step
        running = torch.zeros((), device=self.device)
        stop = False
        while step < self.total and not stop:
            losses = self._step(module, step)
            running += losses.total().detach()
            step += 1
            if step % self.config.log_every == 0 or step == self.total:
                seconds = time.perf_counter() - clock
                values = self._values(losses, step)
                values["loss"] = self._finite(float(running) / (step - logged), step)
                values["units_per_second"] = (step - logged) * self.batch_size / seconds
                yield self._record("step", step, values)
                running.zero_()
                clock, logged = time.perf_counter(), step
                stop = self._out_of_time()
            pause = time.perf_counter()
            if len(self.valid_units) >= 2 and (
                step % self.config.validate_every == 0 or step == self.total
            ):
                values = self.score(self.valid_units, "validation")
                stop = self._judge(values["loss"], step) or stop
                yield self._record("validation", step, values)
            if self.save is not None and step % self.config.checkpoint_every == 0:
                yield from self._checkpoint(step)
            clock += time.perf_counter() - pause
        yield from self._finish(step)

    def score(self, picked: Tensor, name: str) -> dict[str, float]:
        """Mean loss and metrics over some units, leaving weights, buffers and draws untouched.

        Args:
            picked: (n,) positions in ``units``; a last batch of one is dropped (batch norm).
            name: draws are the same at every call with this name, so that calls compare.
        """
        saved = [buffer.clone() for buffer in self.module.buffers()]
        self.module.train(self.module.objective.validate_with_dropout)
        sums: dict[str, float] = {}
        weight = 0
        with torch.no_grad(), torch.random.fork_rng(self._cuda_devices()):
            for number, chunk in enumerate(torch.split(picked, max(self.batch_size, 2))):
                if len(chunk) < 2 and number > 0:
                    continue
                torch.manual_seed(seed_of(self.config.seed, name, "dropout", number))
                draw = Draw(seed_of(self.config.seed, name), number, self.sequences.device)
                losses = self._forward(self.module, self._views(chunk, draw))
                for key, value in self._values(losses, number).items():
                    sums[key] = sums.get(key, 0.0) + value * len(chunk)
                weight += len(chunk)
        for buffer, before in zip(self.module.buffers(), saved, strict=True):
            buffer.copy_(before)
        self.module.train()
        return {key: value / weight for key, value in sums.items()}

    # -- one step ------------------------------------------------------------------------------

    def _step(self, module: nn.Module, step: int) -> Losses:
        # Dropout is a function of seed, step and rank: nothing to save, nothing to restore.
        torch.manual_seed(seed_of(self.config.seed, "dropout", step, self.ranks.rank))
        self.module.train()
        draw = Draw(self.config.seed, step, self.sequences.device)
        views = self._views(self._picked(step), draw)
        self.optimizer.zero_grad(set_to_none=True)
        with self._autocast():
            losses = self._forward(module, views)
        losses.total().backward()  # type: ignore[no-untyped-call]
        if self.config.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.module.parameters(), self.config.clip_norm)
        self.optimizer.step()
        return losses

    def _picked(self, step: int) -> Tensor:
        """The (b,) positions in ``units`` of a step, this rank's share of them."""
        epoch, at = divmod(step, self.steps_per_epoch)
        if self._order[0] != epoch:
            generator = torch.Generator().manual_seed(seed_of(self.config.seed, "order", epoch))
            order = torch.randperm(len(self.train_units), generator=generator)
            self._order = (epoch, self.train_units[order])
        batch = self._order[1][at * self.batch_size : (at + 1) * self.batch_size]
        return batch[self.ranks.rank :: self.ranks.world]

    def _views(self, picked: Tensor, draw: Draw) -> Views:
        device = self.sequences.device
        units = Units(picked.to(device), self.units[picked].to(device))
        views = self._plugin(
            "sampler", lambda: self.sampler.sample(self.sequences, units, draw), draw.step
        )
        return {name: _move(view, self.device) for name, view in views.items()}

    def _forward(self, module: nn.Module, views: Views) -> Losses:
        losses: Losses = self._plugin("objective", lambda: module(views))
        return losses

    def _plugin(self, role: str, call: Callable[[], Any], step: int | None = None) -> Any:
        try:
            return call()
        except (UnirepError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            at = "" if step is None else f" at step {step}"
            cause = " ".join(str(error).split())[:300]
            raise PluginError(
                f"{role} {self.names.get(role, '?')!r} failed{at}: {type(error).__name__}: {cause}"
            ) from error

    # -- around the steps ----------------------------------------------------------------------

    def _judge(self, loss: float, step: int) -> bool:
        """Keep the best weights; True when patience is over. Rank 0 decides for all."""
        loss = self.ranks.decide(loss, self.device)
        self._finite(loss, step)
        if loss < self.best:
            self.best, self.best_step, self.stale = loss, step, 0
            self.best_weights = {k: v.detach().clone() for k, v in self.module.state_dict().items()}
        else:
            self.stale += 1
        return self.config.patience is not None and self.stale >= self.config.patience

    def _checkpoint(self, step: int) -> Iterator[Record]:
        if self.ranks.first:
            assert self.save is not None  # noqa: S101
            groups = {**self._groups(self.module.state_dict()), "optimizer": self._optimizer()}
            if self.best_weights is not None:
                best = self._groups(self.best_weights)
                groups.update({f"best_{name}": group for name, group in best.items()})
            path = self.save(step, self._state(), groups, False)
            yield self._record("checkpoint", step, {}, path)
        self.ranks.wait()

    def _finish(self, step: int) -> Iterator[Record]:
        if self.best_weights is not None:
            self.module.load_state_dict(self.best_weights)
        else:
            self.best_step = step
        values = {"best_step": float(self.best_step), "steps": float(step)}
        if self.best < math.inf:
            values["best_loss"] = self.best
        if len(self.test_units) >= 2:
            scored = self.score(self.test_units, "test")
            values.update({f"test_{key}": value for key, value in scored.items()})
        path = None
        if self.save is not None and self.ranks.first:
            path = self.save(step, self._state(), self._groups(self.module.state_dict()), True)
        self.ranks.wait()
        self.module.eval()
        yield self._record("end", step, values, path)

    def _restore(self, checkpoint: Checkpoint) -> int:
        state = checkpoint.manifest.trainer
        for name in ("encoder", "objective"):
            checkpoint.load_into(getattr(self.module, name), name)
        load_optimizer(self.optimizer, checkpoint.tensors("optimizer"))
        best = {
            f"{name}.{key}": value.to(self.device)
            for name in ("encoder", "objective")
            for key, value in checkpoint.tensors(f"best_{name}").items()
        }
        self.best_weights = best or None
        self.best = math.inf if state["best"] is None else state["best"]
        self.best_step, self.stale = state["best_step"], state["stale"]
        self.spent = state["seconds"]
        found = self._fingerprint()
        if state["fingerprint"] != found:
            raise TrainingError(
                f"cannot resume: the run began on {state['fingerprint']}, the events now give "
                f"{found}; restore the log, or train anew without --resume"
            )
        return checkpoint.manifest.step

    def _distributed(self) -> nn.Module:
        """Wrap for DDP; parameters without a gradient are frozen first, or DDP waits for them."""
        buffers = [buffer.clone() for buffer in self.module.buffers()]
        draw = Draw(self.config.seed, 0, self.sequences.device)
        self._forward(self.module, self._views(self._picked(0), draw)).total().backward()  # type: ignore[no-untyped-call]
        for parameter in self.module.parameters():
            parameter.requires_grad_(parameter.grad is not None)
            parameter.grad = None
        for buffer, before in zip(self.module.buffers(), buffers, strict=True):
            buffer.copy_(before)
        if self.device.type == "cuda":
            self.module = nn.SyncBatchNorm.convert_sync_batchnorm(self.module)  # type: ignore[no-untyped-call]
        ids = [self.device.index] if self.device.type == "cuda" else None
        return DistributedDataParallel(self.module, device_ids=ids)

    def _split(self) -> tuple[Tensor, Tensor, Tensor]:
        config = self.config
        share = torch.from_numpy(
            shares(self.sequences.users, config.validation, config.test, config.seed)
        )
        of_unit = share[self.units]
        train, valid, test = (torch.nonzero(of_unit == n).flatten() for n in range(3))
        if len(train) < max(2, self.ranks.world * 2):
            raise TrainingError(
                f"{len(train):,} of {len(self.sequences):,} users can be trained on: sampler "
                f"{self.names.get('sampler', '?')!r} finds {len(self.units):,} eligible; wanted at "
                "least 2; give more events, or relax the sampler's settings"
            )
        generator = torch.Generator().manual_seed(seed_of(config.seed, "validation"))
        kept = torch.randperm(len(valid), generator=generator)[:_VALIDATION_UNITS]
        return train, valid[kept.sort().values], test

    def _total(self) -> int:
        limits = [self.config.max_steps or math.inf]
        if self.config.epochs is not None:
            limits.append(max(round(self.config.epochs * self.steps_per_epoch), 1))
        return 1 << 40 if limits == [math.inf] else int(min(limits))

    def _out_of_time(self) -> bool:
        if self.config.max_minutes is None:
            return False
        seconds = time.perf_counter() - self._started
        return self.ranks.decide(seconds, self.device) >= self.config.max_minutes * 60

    def _start_values(self) -> dict[str, float]:
        return {
            "users": float(len(self.sequences)),
            "units": float(len(self.units)),
            "train": float(len(self.train_units)),
            "validation": float(len(self.valid_units)),
            "test": float(len(self.test_units)),
            "parameters": float(sum(p.numel() for p in self.module.parameters())),
        }

    def _fingerprint(self) -> str:
        events = int(self.sequences.lengths.sum())
        return f"{len(self.sequences)} users, {events} events, {len(self.units)} units"

    def _state(self) -> dict[str, Any]:
        return {
            "best": None if self.best == math.inf else self.best,
            "best_step": self.best_step,
            "stale": self.stale,
            "seconds": time.perf_counter() - self._started,
            "fingerprint": self._fingerprint(),
        }

    def _optimizer(self) -> dict[str, Tensor]:
        return optimizer_tensors(self.optimizer)

    @staticmethod
    def _groups(state: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
        groups: dict[str, dict[str, Tensor]] = {"encoder": {}, "objective": {}}
        for key, value in state.items():
            name, _, rest = key.partition(".")
            groups[name][rest] = value
        return groups

    @staticmethod
    def _values(losses: Losses, step: int) -> dict[str, float]:
        values = {"loss": float(losses.total().detach())}
        for named in (losses.terms, losses.metrics):
            values.update({name: float(value.detach()) for name, value in named.items()})
        return values

    @staticmethod
    def _finite(loss: float, step: int) -> float:
        if not math.isfinite(loss):
            raise TrainingError(
                f"the loss is {loss} at step {step}; lower training.learning_rate, or set "
                "training.clip_norm"
            )
        return loss

    def _record(
        self, kind: Any, step: int, values: dict[str, float], path: Path | None = None
    ) -> Record:
        seconds = time.perf_counter() - self._started
        return Record(kind, step, step / self.steps_per_epoch, seconds, values, path, self.total)

    def _autocast(self) -> Any:
        if self.config.bf16 and self.device.type == "cuda":
            return torch.autocast("cuda", torch.bfloat16)
        return nullcontext()

    def _cuda_devices(self) -> list[int]:
        return [self.device.index or 0] if self.device.type == "cuda" else []


def _resident(sequences: Sequences, device: torch.device) -> Sequences:
    """Put the columns on the device where they take less than a third of its free memory."""
    if device.type != "cuda":
        return sequences
    columns = (sequences.codes, sequences.times, *sequences.columns.values())
    size = sum(column.numel() * column.element_size() for column in columns)
    free, _ = torch.cuda.mem_get_info(device)
    return sequences.to(device) if size < free / 3 else sequences


def _move(view: SequenceBatch | Tensor, device: torch.device) -> SequenceBatch | Tensor:
    return view.to(device, non_blocking=True) if view.device != device else view
