"""Members: clipped as the host clips, and progress of what they train."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unirep_feast.batch import SequenceBatch
from unirep_feast.members import clip, widest
from unirep_feast.pipeline import train
from unirep_feast.sequences import Window
from unirep_feast.testing import make_world
from unirep_feast.trainer import Record

WORLD = make_world(users=40, items=20, longest=20)

windows = st.builds(
    Window,
    max_events=st.none() | st.integers(1, 30),
    max_days=st.none() | st.floats(0.5, 100, allow_nan=False),
)


@given(windows)
def test_clipping_a_batch_is_what_the_host_does(window: Window) -> None:
    """Row by row the same events, whatever the window; the width is that of the shape alone."""
    past = WORLD.past
    whole = past.histories(past.all_users())

    found, wanted = clip(whole, window), past.limit(window).histories(past.all_users())

    assert torch.equal(found.lengths, wanted.lengths)
    for name in ("codes", "times"):
        assert torch.equal(getattr(found, name), getattr(wanted, name))
    for name, column in wanted.columns.items():
        assert torch.equal(found.columns[name].nan_to_num(-1), column.nan_to_num(-1))
    assert found.width == min(whole.width, window.max_events or whole.width)
    assert found.mask.shape == (len(past), found.width)


@given(windows, windows)
def test_the_widest_window_shows_what_each_shows(one: Window, other: Window) -> None:
    """Clipping twice, first to the widest, is clipping once."""
    past = WORLD.past
    whole = past.histories(past.all_users())
    both = clip(whole, widest([one, other]))

    for window in (one, other):
        twice: SequenceBatch = clip(both, window)
        assert torch.equal(twice.codes, clip(whole, window).codes)


def test_members_and_stages_tell_their_progress(shop: Any) -> None:
    """Every step that `prepare` trains is a record of kind ``prepare``."""
    member = {
        "name": "learnt",
        "plugin": "baselines.sumn",
        "encoder": {"settings": {"dim": 8}},
        "training": {"max_steps": 3},
    }
    encoder = {"name": "baselines.concat", "settings": {"members": [member]}}
    shop.spec.pop("plugin")
    shop.write(encoder=encoder)
    records: list[Record] = []

    train(shop.parsed(), on_record=records.append)

    assert [(r.kind, r.step, r.total) for r in records] == [("prepare", n, 3) for n in (1, 2, 3)]
    assert all("loss" in record.values for record in records)


@pytest.mark.parametrize("key", ["until", "init_from", "checkpoint_every", "tensorboard", "mlflow"])
def test_keys_that_mean_nothing_for_a_member_are_refused(shop: Any, key: str) -> None:
    """And named, instead of being passed over in silence."""
    from unirep_feast.errors import SpecError

    value = {
        "until": "2020-01-01",
        "init_from": "x",
        "checkpoint_every": 5,
        "tensorboard": True,
        "mlflow": "x",
    }
    member = {"name": "a", "plugin": "baselines.sumn", "training": {key: value[key]}}
    shop.spec.pop("plugin")
    shop.write(encoder={"name": "baselines.concat", "settings": {"members": [member]}})

    with pytest.raises(SpecError, match=f"member a: training.{key} is the representation's"):
        train(shop.parsed())
