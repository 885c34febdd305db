"""One training shared by several processes under torchrun, on the CPU."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

Unirep = Callable[..., subprocess.CompletedProcess[str]]

AWKWARD = {"settings": {"dropout": 0.1, "batch_norm": True, "unused": True}}


def command(*arguments: Any) -> list[str]:
    """A command line that starts a module or script in two processes."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    return [*torchrun, *map(str, arguments)]


def run(*arguments: Any) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command(*arguments), capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def test_two_processes_train_one_run(shop: Any, unirep: Unirep) -> None:
    """torchrun on two CPU processes: one run, one report, vectors as from any other run."""
    shop.write(encoder=AWKWARD, training__max_steps=4)

    done = run("-m", "unirep_feast", "train", shop.path, "--json")

    (line,) = done.stdout.strip().splitlines()
    result = json.loads(line)
    (row,) = shop.runs()
    assert (result["run"], result["steps"]) == (row.id, 4)
    assert row.status == "finished" and row.promoted
    assert [path.name for path in (shop.home / "runs").iterdir()] == [row.id]
    assert done.stderr.count("training units of") == 1
    assert done.stderr.count("events of") == 1
    # What no objective touches is frozen, not waited for.
    assert (shop.weights(row.id)["encoder.unused"] == 1).all()
    shop.assert_nothing_half_written()
    encoded = unirep("encode", shop.path, "--as-of", "2020-03-10")
    assert encoded.returncode == 0, encoded.stderr


def test_both_ranks_hold_the_same_weights(shop: Any) -> None:
    """After training, parameters and buffers are equal on both ranks; units are shared out."""
    shop.write(encoder=AWKWARD)
    script = shop.folder / "script.py"
    code = """
        import sys
        import torch
        import torch.distributed as dist
        from unirep_feast.pipeline import read_spec
        from unirep_feast.plugins import load_plugins
        from unirep_feast.testing.world import make_world
        from unirep_feast.trainer import Trainer
        from unirep_feast.trio import build_trio, choose

        spec, world = read_spec(sys.argv[1]), make_world(users=60, items=30)
        torch.manual_seed(0)
        choice = choose(spec, load_plugins())
        trio = build_trio(choice, world.vocabulary, world.past.items, {})
        trainer = Trainer(trio, world.past, spec.training)
        picked = [trainer.plan.picked(step) for step in range(trainer.plan.steps_per_epoch)]
        (*_, end) = trainer.run()
        mine = (trainer.module.state_dict(), torch.cat(picked), trainer.plan.batch_size, end.values)
        all_ranks = [None, None]
        dist.all_gather_object(all_ranks, mine)
        (one, first, size, values), (two, second, _, others) = all_ranks
        assert trainer.ranks.world == 2
        assert one.keys() == two.keys()
        assert [name for name in one if not torch.equal(one[name], two[name])] == []
        assert values == others
        assert len(first) == len(second) == len(picked) * size // 2
        assert set(first.tolist()) & set(second.tolist()) == set()
        dist.destroy_process_group()
        if trainer.ranks.first:
            print("equal")
    """
    script.write_text(textwrap.dedent(code))

    assert run(script, shop.path).stdout.strip() == "equal"


@pytest.mark.slow
def test_a_killed_process_ends_all_and_the_run_resumes(shop: Any) -> None:
    """With one process shot, the others end; resumed, the weights are the unbroken run's."""
    shop.write(encoder=AWKWARD, training__max_steps=5)
    # Sleeping between steps changes no weight, and lets the first process be shot in time.
    train = ["-m", "unirep_feast", "train", shop.path, "--set", "sampler.settings.seconds=0.3"]
    unbroken = json.loads(run(*train, "--json").stdout)["run"]
    wanted = shop.weights(unbroken)
    before = shop.logged("checkpoint")

    killed = subprocess.Popen(
        command(*train), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    shop.wait_for(lambda: shop.logged("checkpoint") > before, killed)
    os.kill(int(Path(shop.home / "train.lock").read_text()), signal.SIGKILL)
    killed.communicate(timeout=120)
    assert killed.returncode == 1
    assert shop.runs()[0].status == "running"

    resumed = json.loads(run(*train, "--resume", "--json").stdout)["run"]

    assert resumed == shop.runs()[0].id != unbroken
    found = shop.weights(resumed)
    assert [name for name in wanted if not torch.equal(found[name], wanted[name])] == []
    shop.assert_nothing_half_written()
