"""The fit loop itself: draw views, score them, step; validate, checkpoint, stop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unirep_feast.batch import SequenceBatch
from unirep_feast.blame import failure
from unirep_feast.checkpoint import Checkpoint, load_optimizer, optimizer_tensors
from unirep_feast.chunking import EncoderFailed, TrioModule
from unirep_feast.config import TrainingConfig
from unirep_feast.errors import ContractError, TrainingError, UnirepError
from unirep_feast.objective import Losses, Views
from unirep_feast.probing import probe_encoder, probe_sampler
from unirep_feast.ranks import Ranks, pick_device
from unirep_feast.registry import Role
from unirep_feast.sampler import Draw, Units, seed_of
from unirep_feast.sequences import Sequences
from unirep_feast.trainer.best import Best
from unirep_feast.trainer.ddp import distribute, equalise, freeze_unused
from unirep_feast.trainer.records import Kind, Record, finite, values_of
from unirep_feast.trainer.units import UnitPlan
from unirep_feast.trio import Trio, check_fit

#: Save(step, trainer state, groups of tensors, final) writes a checkpoint and returns its folder.
Save = Callable[[int, dict[str, Any], Mapping[str, Mapping[str, Tensor]], bool], Path]

#: So many units are drawn to try the sampler before the first step.
_PROBED_UNITS = 64


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
            ContractError: the parts do not fit each other, or a part breaks its contract.
            TrainingError: fewer than two units to train on, nothing that could be trained, or no
                such device.
        """
        check_fit(trio)
        self.trio, self.config, self.save = trio, config, save
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        self.device = pick_device(config.device)
        self.ranks = Ranks.join(self.device)
        self.sequences = _resident(sequences.limit(trio.encoder.window), self.device)
        self.module = TrioModule(trio.encoder, trio.objective, config.compile).to(self.device)
        units = self._plugin(
            "sampler", "units", lambda: self.sampler.units(self.sequences), "before the start"
        )
        self.plan = UnitPlan(units, self.sequences, config, self.ranks, trio.name("sampler"))
        trained = [p for p in self.module.parameters() if p.requires_grad]
        if not trained:
            raise TrainingError(
                f"encoder {trio.name('encoder')!r} and objective {trio.name('objective')!r} have "
                "no parameter to train; choose another objective"
            )
        self.optimizer = torch.optim.Adam(
            trained, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
        )
        # Ranks draw from streams of their own, and rank 0 from the one of a training alone.
        rank = self.ranks.rank
        self._seed = seed_of(config.seed, "rank", rank) if rank else config.seed
        self.best = Best()
        self._started = time.perf_counter()
        self._spent = 0.0

    @property
    def sampler(self) -> Any:
        """The trio's sampler."""
        return self.trio.sampler

    def probe(self) -> None:
        """Try the encoder and the sampler on a few users, before the first step.

        Raises:
            PluginError: one of them breaks a promise; see :mod:`unirep_feast.probing`.
        """
        objective = self.module.objective
        sequences, part = self.sequences, self.trio.part
        probe_sampler(
            self.sampler,
            part("sampler"),
            sequences,
            self._units(self.plan.picked(0)[:_PROBED_UNITS]),
            Draw(self._seed, 0, sequences.device),
        )
        needs_steps = "steps" in objective.requires
        probe_encoder(self.trio.encoder, part("encoder"), sequences, sequences.until, needs_steps)

    def run(self, resume: Checkpoint | None = None) -> Iterator[Record]:
        """Train until steps, epochs, minutes or patience end; the best weights remain.

        Args:
            resume: continue from this checkpoint of the same run; on CPU the weights end up
                bit-equal to those of an unbroken run.
        """
        step = 0 if resume is None else self._restore(resume)
        self._started = time.perf_counter() - self._spent
        module = self._distributed() if self.ranks.world > 1 else self.module
        yield self._record("start", step, self._start_values())
        clock, logged = time.perf_counter(), step
        running = torch.zeros((), device=self.device)
        stop = self.best.lost_patience(self.config.patience)
        total = self.plan.total
        while step < total and not stop:
            losses = self._step(module, step)
            running += losses.total().detach()
            step += 1
            if step % self.config.log_every == 0 or step == total:
                seconds = time.perf_counter() - clock
                values = values_of(losses)
                values["loss"] = finite(float(running) / (step - logged), step)
                values["units_per_second"] = (step - logged) * self.plan.batch_size / seconds
                yield self._record("step", step, values)
                running.zero_()
                clock, logged = time.perf_counter(), step
                stop = self._out_of_time()
            pause = time.perf_counter()
            if len(self.plan.valid) >= 2 and (
                step % self.config.validate_every == 0 or step == total
            ):
                values = self.score(self.plan.valid, "validation")
                loss = finite(self.ranks.decide(values["loss"], self.device), step)
                self.best.judge(loss, step, self.module)
                stop = stop or self.best.lost_patience(self.config.patience)
                yield self._record("validation", step, values)
            if self.save is not None and step % self.config.checkpoint_every == 0:
                finite(float(running), step)  # weights that are NaN are no checkpoint
                yield from self._checkpoint(step)
            clock += time.perf_counter() - pause
        yield from self._finish(step)

    def score(self, picked: Tensor, name: str) -> dict[str, float]:
        """Mean loss and metrics over some units, leaving weights, buffers and draws untouched.

        Args:
            picked: (n,) positions in the plan's ``rows``; a last batch of one is dropped (batch
                norm).
            name: draws are the same at every call with this name, so that calls compare.
        """
        saved = [buffer.clone() for buffer in self.module.buffers()]
        self.module.train(self.module.objective.validate_with_dropout)
        sums: dict[str, float] = {}
        weight = 0
        with torch.no_grad(), torch.random.fork_rng(self._cuda_devices()):
            for number, chunk in enumerate(torch.split(picked, max(self.plan.batch_size, 2))):
                if len(chunk) < 2 and number > 0:
                    continue
                torch.manual_seed(seed_of(self.config.seed, name, "dropout", number))
                draw = Draw(seed_of(self.config.seed, name), number, self.sequences.device)
                when = f"in {name}, batch {number + 1}"
                losses = self._forward(self.module, self._views(chunk, draw, when), when)
                for key, value in values_of(losses).items():
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
        draw = Draw(self._seed, step, self.sequences.device)
        views = self._views(self.plan.picked(step), draw, f"at step {step + 1}")
        self.optimizer.zero_grad(set_to_none=True)
        when = f"at step {step + 1}"
        losses = self._forward(module, views, when)
        self._plugin("objective", "backward", lambda: losses.total().backward(), when)  # type: ignore[no-untyped-call]
        if self.config.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.module.parameters(), self.config.clip_norm)
        self.optimizer.step()
        return losses

    def _units(self, picked: Tensor) -> Units:
        device = self.sequences.device
        return Units(picked.to(device), self.plan.rows[picked].to(device))

    def _views(self, picked: Tensor, draw: Draw, when: str) -> Views:
        units = self._units(picked)
        views = self._plugin(
            "sampler", "sample", lambda: self.sampler.sample(self.sequences, units, draw), when
        )
        missing = self.module.objective.views - set(views)
        if missing:
            raise ContractError(
                f"sampler {self.trio.name('sampler')!r} drew no view "
                f"{', '.join(sorted(missing))}, which it declares"
            )
        return {name: _move(view, self.device) for name, view in views.items()}

    def _forward(self, module: nn.Module, views: Views, when: str) -> Losses:
        with self._autocast():
            losses = self._plugin("objective", "forward", lambda: module(views), when)
        terms = losses.terms.values()
        if not terms or any(not isinstance(t, Tensor) or t.dim() for t in terms):
            raise ContractError(
                f"objective {self.trio.name('objective')!r} returned terms "
                f"{', '.join(f'{k}: {_describe(v)}' for k, v in losses.terms.items()) or 'none'}; "
                "wanted at least one () tensor"
            )
        return Losses(losses.terms, losses.metrics)

    def _plugin(self, role: Role, hook: str, call: Callable[[], Any], when: str) -> Any:
        try:
            return call()
        except torch.OutOfMemoryError:
            raise TrainingError(
                f"{self.device} is out of memory with training.batch_size "
                f"{self.plan.batch_size}; lower it, or the encoder's window"
            ) from None
        except UnirepError:
            raise
        except EncoderFailed as failed:
            error = failed.__cause__ or failed
            raise failure(self.trio.part("encoder"), failed.hook, error, when) from error
        except (Exception, SystemExit) as error:
            raise failure(self.trio.part(role), hook, error, when) from error

    # -- around the steps ----------------------------------------------------------------------

    def _checkpoint(self, step: int) -> Iterator[Record]:
        if self.ranks.first:
            assert self.save is not None  # noqa: S101
            groups = _groups(self.module.state_dict())
            groups["optimizer"] = optimizer_tensors(self.optimizer)
            if self.best.weights is not None:
                best = _groups(self.best.weights)
                groups.update({f"best_{name}": group for name, group in best.items()})
            path = self.save(step, self._state(), groups, False)
            yield self._record("checkpoint", step, {}, path)
        self.ranks.wait()

    def _finish(self, step: int) -> Iterator[Record]:
        if self.best.weights is not None:
            self.module.load_state_dict(self.best.weights)
        else:
            self.best.step = step
        equalise(self.module, self.ranks)
        values = {"best_step": float(self.best.step), "steps": float(step)}
        if self.best.loss < math.inf:
            values["best_loss"] = self.best.loss
        if len(self.plan.test) >= 2:
            scored = self.score(self.plan.test, "test")
            values.update({f"test_{key}": value for key, value in scored.items()})
        path = None
        if self.save is not None and self.ranks.first:
            state = {**self._state(), "values": values}
            path = self.save(step, state, _groups(self.module.state_dict()), True)
        self.ranks.wait()
        self.module.eval()
        yield self._record("end", step, values, path)

    def _restore(self, checkpoint: Checkpoint) -> int:
        state = checkpoint.manifest.trainer
        found = self._fingerprint()
        if state["fingerprint"] != found:
            raise TrainingError(
                f"cannot resume: the run began on {state['fingerprint']}, the events now give "
                f"{found}; restore the log, or train anew without --resume"
            )
        for name in ("encoder", "objective"):
            checkpoint.load_into(getattr(self.module, name), name)
        load_optimizer(self.optimizer, checkpoint.tensors("optimizer"))
        best = {
            f"{name}.{key}": value.to(self.device)
            for name in ("encoder", "objective")
            for key, value in checkpoint.tensors(f"best_{name}").items()
        }
        self.best.restore(state, best)
        self._spent = float(state["seconds"])
        return checkpoint.manifest.step

    def _distributed(self) -> nn.Module:
        if self.device.type == "cuda":
            nn.SyncBatchNorm.convert_sync_batchnorm(self.module)  # type: ignore[no-untyped-call]
        self.module.train()
        when = "before the first step"
        draw = Draw(self._seed, 0, self.sequences.device)
        views = self._views(self.plan.picked(0), draw, when)
        freeze_unused(
            self.module, lambda: self._forward(self.module, views, when).total(), self.ranks
        )
        return distribute(self.module, self.device)

    def _out_of_time(self) -> bool:
        if self.config.max_minutes is None:
            return False
        seconds = time.perf_counter() - self._started
        return self.ranks.decide(seconds, self.device) >= self.config.max_minutes * 60

    def _start_values(self) -> dict[str, float]:
        plan = self.plan
        return {
            "users": float(len(self.sequences)),
            "units": float(len(plan.rows)),
            "train": float(len(plan.train)),
            "validation": float(len(plan.valid)),
            "test": float(len(plan.test)),
            "parameters": float(sum(p.numel() for p in self.module.parameters())),
        }

    def _fingerprint(self) -> str:
        events = int(self.sequences.lengths.sum())
        return f"{len(self.sequences)} users, {events} events, {len(self.plan.rows)} units"

    def _state(self) -> dict[str, Any]:
        seconds = time.perf_counter() - self._started
        return {**self.best.state(), "seconds": seconds, "fingerprint": self._fingerprint()}

    def _record(
        self, kind: Kind, step: int, values: dict[str, float], path: Path | None = None
    ) -> Record:
        seconds = time.perf_counter() - self._started
        epoch = step / self.plan.steps_per_epoch
        return Record(kind, step, epoch, seconds, values, path, self.plan.total)

    def _autocast(self) -> Any:
        if self.config.bf16 and self.device.type == "cuda":
            return torch.autocast("cuda", torch.bfloat16)
        return nullcontext()

    def _cuda_devices(self) -> list[int]:
        return [self.device.index or 0] if self.device.type == "cuda" else []


def _groups(state: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Split a state dict of the joint module into those of its parts."""
    groups: dict[str, dict[str, Tensor]] = {"encoder": {}, "objective": {}}
    for key, value in state.items():
        name, _, rest = key.partition(".")
        groups[name][rest] = value
    return groups


def _describe(value: object) -> str:
    return f"{tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


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
