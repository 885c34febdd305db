"""Trainings that are killed, resumed, started twice, or continue another's weights."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import Result

from unirep_feast.catalog import Catalog

Unirep = Callable[..., subprocess.CompletedProcess[str]]
Cli = Callable[..., Result]
Refusal = Callable[[Any], str]

T = "2020-03-10"


def start(shop: Any, *arguments: Any, seconds: float = 0.2) -> subprocess.Popen[str]:
    """Start a slow training in the background."""
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "unirep_feast",
            "train",
            shop.path,
            "--set",
            f"sampler.settings.seconds={seconds}",
            *map(str, arguments),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_two_trainings_of_one_spec_at_once(shop: Any, cli: Cli, refusal: Refusal) -> None:
    """The second is refused and names the first's process, which goes on; then it is free."""
    first = start(shop, seconds=0.5)
    try:
        shop.wait_for(lambda: shop.logged("step") > 0, first)

        line = refusal(cli("train", shop.path))

        assert f"another training of 'shop' is running (process {first.pid})" in line
        _, err = first.communicate(timeout=120)
        assert first.returncode == 0, err
    finally:
        first.kill()
    assert cli("train", shop.path).exit_code == 0


@pytest.mark.parametrize(
    ("kind", "count", "how"),
    [
        ("checkpoint", 1, signal.SIGKILL),
        ("step", 3, signal.SIGKILL),
        ("step", 4, signal.SIGTERM),
        pytest.param("start", 1, signal.SIGKILL, marks=pytest.mark.slow),
        pytest.param("step", 5, signal.SIGKILL, marks=pytest.mark.slow),
        pytest.param("validation", 3, signal.SIGKILL, marks=pytest.mark.slow),
        pytest.param("checkpoint", 3, signal.SIGKILL, marks=pytest.mark.slow),
        pytest.param("step", 2, signal.SIGINT, marks=pytest.mark.slow),
    ],
)
def test_a_killed_training_resumes_to_the_same_weights(
    shop: Any, cli: Cli, kind: str, count: int, how: signal.Signals
) -> None:
    """Killed for real at some moment, resumed: the final tensors are those of an unbroken run."""
    import torch

    changes = [
        "--set",
        "sampler.settings.seconds=0.1",
        "--set",
        "encoder.settings.batch_norm=true",
        "--set",
        "training.learning_rate=0.05",
    ]
    unbroken = json.loads(cli("train", shop.path, *changes, "--json").stdout)["run"]
    wanted = shop.weights(unbroken)
    shutil.rmtree(shop.home / "runs" / unbroken)

    killed = start(shop, *changes, seconds=0.1)
    shop.wait_for(lambda: shop.logged(kind) >= count, killed)
    killed.send_signal(how)
    _, err = killed.communicate(timeout=120)
    assert killed.returncode == (-9 if how == signal.SIGKILL else 1)
    run = shop.runs()[0]
    if how == signal.SIGKILL:
        assert run.status == "running"
    else:
        assert run.status == "interrupted"
        assert f"run {run.id} stopped at step" in err and "--resume continues it" in err

    resumed = cli("train", shop.path, *changes, "--resume", "--json")

    assert resumed.exit_code == 0, resumed.stderr
    assert json.loads(resumed.stdout)["run"] == run.id
    assert f"resuming run {run.id} from" in resumed.stderr
    found = shop.weights(run.id)
    assert found.keys() == wanted.keys()
    assert [name for name in wanted if not torch.equal(found[name], wanted[name])] == []
    assert shop.runs()[0].status == "finished"
    assert [p.name for p in (shop.home / "runs" / run.id / "checkpoints").iterdir()] == ["final"]
    shop.assert_nothing_half_written()


def test_a_kill_after_the_end_was_saved_only_finishes(
    shop: Any, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the final checkpoint's row and the run's, nothing is trained again on resume."""

    def die(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Catalog, "finish_run", die)
        cli("train", shop.path)
    (run,) = shop.runs()
    assert run.status == "interrupted"

    resumed = json.loads(cli("train", shop.path, "--resume", "--json").stdout)

    assert resumed["run"] == run.id
    assert resumed["steps"] == 6 and resumed["promoted"]
    assert "best_loss" in resumed["metrics"]
    assert shop.logged("start") == 1
    (run,) = shop.runs()
    assert run.status == "finished" and run.metrics["steps"] == 6


def test_a_resume_with_another_spec_is_refused(shop: Any, cli: Cli, refusal: Refusal) -> None:
    """What decides the weights must be as it was; what does not may change."""
    refusal(cli("train", shop.path, "--set", "objective.settings.nan_after=60"))
    (run,) = shop.runs()
    assert run.status == "failed"

    line = refusal(cli("train", shop.path, "--resume"))

    assert f"cannot resume run {run.id}: its spec was another" in line
    assert "train anew without --resume" in line


def test_nothing_to_resume_begins_anew(shop: Any, cli: Cli) -> None:
    """--resume without an unfinished run says so and trains."""
    result = cli("train", shop.path, "--resume")

    assert result.exit_code == 0
    assert "nothing to resume; starting a new run" in result.stderr


def test_fine_tuning_starts_from_another_run(shop: Any, cli: Cli, refusal: Refusal) -> None:
    """training.init_from takes the encoder of a finished run of the same events, and no other."""
    run = json.loads(cli("train", shop.path, "--json").stdout)["run"]

    tuned = cli("train", shop.path, "--set", f"training.init_from={run}")
    earlier = cli(
        "train",
        shop.path,
        "--set",
        f"training.init_from={run}",
        "--set",
        "training.until=2020-02-20",
    )

    assert tuned.exit_code == 0
    assert f"encoder weights from run {run}" in tuned.stderr
    assert "has another vocabulary" in refusal(earlier) or "later time" in refusal(earlier)
