from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from unirep_feast.sequences import Sequences
from unirep_feast.testing import Recipe, make_world, registered


@pytest.fixture(autouse=True)
def _one_seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def past() -> Sequences:
    """40 users' histories of up to 20 events before the cut-off, with ties and empty ones."""
    return make_world(users=40, items=30, longest=20).past


@pytest.fixture
def recipe() -> Callable[..., Recipe]:
    """The trio of pre-training with small sizes."""

    def build(**settings: dict[str, Any]) -> Recipe:
        small: dict[str, dict[str, Any]] = {
            "encoder": {"dim": 8, "query": 4, "heads": 2, "max_events": 12},
            "objective": {},
            "sampler": {"behavior_pool": 20, "sequence_pool": 15, "interval": 5},
        }
        merged = {role: {**small[role], **settings.get(role, {})} for role in small}
        return registered("userbert", settings=merged)

    return build
