"""Devices and ranks: what is asked for, or one line that says what there is."""

from __future__ import annotations

import pytest
import torch

from unirep_feast.errors import TrainingError
from unirep_feast.ranks import Ranks, first_rank, pick_device


def test_auto_takes_a_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """auto is CUDA where torch finds it, each local rank its own, else the CPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto") == torch.device("cpu")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert pick_device("auto") == pick_device("cuda") == torch.device("cuda:3")
    assert pick_device("cuda:1") == torch.device("cuda:1")
    assert pick_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("wanted", ["gpu", "CPU", "meta", "mps", "cuda:x", "cuda:-1", "", "cpu:0"])
def test_other_devices_are_refused(wanted: str) -> None:
    """What is no device of ours is told with what is."""
    with pytest.raises(TrainingError) as caught:
        pick_device(wanted)

    assert str(caught.value) == f"device {wanted!r}: wanted auto, cpu, cuda or cuda:N"


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device number beyond those found says how many there are."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)

    with pytest.raises(TrainingError, match=r"device 'cuda:2': this torch .* finds 2 CUDA devices"):
        pick_device("cuda:2")


def test_one_process_alone_is_the_first_of_one() -> None:
    """Without torchrun nothing is joined, and every exchange is with oneself."""
    with Ranks.joined(torch.device("cpu")) as ranks:
        assert (ranks.rank, ranks.world, ranks.first) == (0, 1, True)
        assert ranks.decide(1.5, torch.device("cpu")) == 1.5
        assert ranks.share("text") == "text"
        flags = torch.tensor([True, False])
        assert ranks.any_of(flags) is flags
        ranks.wait()
    assert first_rank()
    assert not torch.distributed.is_initialized()


def test_a_broken_environment_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment that announces others without saying where they are is told in one line."""
    for name in ("MASTER_ADDR", "MASTER_PORT", "RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")

    with pytest.raises(TrainingError) as caught:
        Ranks.join(torch.device("cpu"))

    assert str(caught.value).startswith("cannot join the other processes: ")
    assert str(caught.value).endswith("start all of them with torchrun")
    assert "\n" not in str(caught.value)


def test_ranks_other_than_the_first_stay_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """RANK says who speaks for all."""
    monkeypatch.setenv("RANK", "1")
    assert not first_rank()
    monkeypatch.setenv("RANK", "0")
    assert first_rank()
