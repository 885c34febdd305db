"""Rows of all ranks: two processes together are trained as one process with the joined batch."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from unirep_feast.gathering import gather_rows

TWO = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


def run(folder: Path, body: str) -> str:
    """Run a script in two processes that have joined a gloo group."""
    script = folder / "script.py"
    head = """
        import torch
        import torch.distributed as dist
        from torch import nn
        from unirep_feast.gathering import gather_rows

        dist.init_process_group("gloo")
        rank = dist.get_rank()
    """
    tail = """
        dist.barrier()
        dist.destroy_process_group()
        if rank == 0:
            print("equal")
    """
    script.write_text("".join(textwrap.dedent(part) for part in (head, body, tail)))
    done = subprocess.run(
        [*TWO, str(script)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip()


def test_one_process_has_all_rows() -> None:
    """Without torchrun nothing is copied."""
    tensor = torch.ones(3, 2, requires_grad=True)
    gathered = gather_rows(tensor)

    assert gathered.tensors[0] is tensor
    assert (gathered.start, gathered.ranks) == (0, 1)


def test_two_ranks_train_as_one(tmp_path: Path) -> None:
    """A contrastive loss over uneven shares under DDP: loss and gradients of the joined batch."""
    body = """
        from torch.nn.parallel import DistributedDataParallel

        class Model(nn.Module):
            def __init__(self):
                super().__init__()
                self.encode, self.head = nn.Linear(5, 4), nn.Linear(4, 3)

            def forward(self, x, y, whole=False):
                a, b = self.head(self.encode(x)), self.head(self.encode(y).tanh())
                codes = torch.arange(len(x)) + 100 * rank
                (keys, all_codes), start, ranks = gather_rows(b, codes)
                target = torch.arange(len(a)) + start
                if ranks == 2:
                    assert all_codes.tolist() == [0, 1, 2, 100, 101, 102, 103]
                own = nn.functional.cross_entropy(a @ keys.T, target, reduction="sum")
                return own * ranks

        torch.manual_seed(0)
        x, y = torch.randn(2, 7, 5, dtype=torch.float64)
        model = Model().double()
        mine = slice(0, 3) if rank == 0 else slice(3, 7)
        shared = DistributedDataParallel(model)
        loss = shared(x[mine], y[mine])
        loss.backward()
        found = {name: p.grad.clone() for name, p in model.named_parameters()}
        both = loss.detach().clone()
        dist.all_reduce(both)

        model.zero_grad()
        keys = model.head(model.encode(y).tanh())
        logits = model.head(model.encode(x)) @ keys.T
        alone = nn.functional.cross_entropy(logits, torch.arange(7), reduction="sum")
        alone.backward()
        torch.testing.assert_close(both / 2, alone.detach())
        for name, p in model.named_parameters():
            torch.testing.assert_close(found[name], p.grad)
    """
    assert run(tmp_path, body) == "equal"


def test_penalties_are_of_all_ranks(tmp_path: Path) -> None:
    """An encoder's whole-batch term under DDP is that of the joined batch, gradients too."""
    body = """
        from torch.nn.parallel import DistributedDataParallel
        from unirep_feast.chunking import TrioModule
        from unirep_feast.encoder import Encoded
        from unirep_feast.objective import Losses

        class Encoder(nn.Module):
            provides = frozenset()

            def __init__(self):
                super().__init__()
                self.layer = nn.Linear(5, 4)

            def forward(self, batch, *, steps=False):
                users = self.layer(batch)
                slots = torch.arange(len(batch))
                return Encoded(users[:, None], None, {"scores": users, "slots": slots})

            def penalties(self, extras):
                assert len(extras["slots"]) == len(extras["scores"])
                mean = extras["scores"].mean(0)
                return {"balance": (mean - mean.mean()).square().sum()}

        class Nothing(nn.Module):
            requires = frozenset()
            trains_encoder = True

            def forward(self, encoder, views):
                return Losses({"none": 0 * sum(encoder(v).users.sum() for v in views.values())}, {})

        torch.manual_seed(0)
        x, y = torch.randn(2, 7, 5, dtype=torch.float64)
        module = TrioModule(Encoder(), Nothing()).double()
        mine = slice(0, 3) if rank == 0 else slice(3, 7)
        shared = DistributedDataParallel(module)
        loss = shared({"x": x[mine], "y": y[mine]}).total()
        loss.backward()
        found = module.encoder.layer.weight.grad.clone()

        module.zero_grad()
        encoder = module.encoder
        alone = encoder.penalties(encoder(torch.cat((x, y))).extras)["balance"]
        alone.backward()
        torch.testing.assert_close(loss.detach(), alone.detach())
        torch.testing.assert_close(found, encoder.layer.weight.grad)
    """
    assert run(tmp_path, body) == "equal"


def test_without_gradients_every_rank_keeps_its_own(tmp_path: Path) -> None:
    """Validation scores the same units on every rank: joined, each would meet its double."""
    body = """
        x = torch.ones(rank + 1, 2)
        with torch.no_grad():
            gathered = gather_rows(x)
        assert gathered.tensors[0] is x and gathered.start == 0 and gathered.ranks == 1
        flags = torch.arange(rank + 1) % 2 == 0
        joined = gather_rows(flags, torch.zeros(rank + 1, 0)).tensors
        assert joined[0].tolist() == [True, True, False] and joined[1].shape == (3, 0)
        try:
            gather_rows(x, flags[:0])
        except ValueError as error:
            assert "wanted equally many" in str(error)
        else:
            raise SystemExit("uneven tensors were taken")
    """
    assert run(tmp_path, body) == "equal"


@pytest.mark.gpu
def test_gathers_over_nccl(tmp_path: Path) -> None:
    """One process on one GPU: the group is asked, and gives back what it was given."""
    import torch.distributed as dist

    store = dist.FileStore(str(tmp_path / "store"), 1)
    dist.init_process_group("nccl", store=store, rank=0, world_size=1)
    try:
        tensor = torch.ones(2, 3, device="cuda", requires_grad=True)
        assert gather_rows(tensor).tensors[0] is tensor
    finally:
        dist.destroy_process_group()
