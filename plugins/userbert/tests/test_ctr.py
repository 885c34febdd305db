"""Clicks: which rows become units, what their histories hold, and the metrics."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from unirep_feast.errors import TrainingError
from unirep_feast.events import TIME_TYPE
from unirep_feast.sampler import Draw, Units
from unirep_feast.sequences import Sequences
from unirep_feast_userbert.config import ImpressionsSettings
from unirep_feast_userbert.ctr import auc, average_precision
from unirep_feast_userbert.impressions import ImpressionsSampler


@pytest.fixture
def table(past: Sequences, tmp_path: Path) -> Callable[..., ImpressionsSampler]:
    """Write impressions of the user with the most behaviors, and build the sampler of them."""

    def write(rows: list[tuple[Any, Any, int | None, Any]], **settings: Any) -> ImpressionsSampler:
        users, items, times, labels = (list(column) for column in zip(*rows, strict=True))
        path = tmp_path / "shown.parquet"
        columns = {
            "user_id": pa.array(users, past.users.type),
            "item_id": pa.array(items, past.items.item_ids.type),
            "event_timestamp": pa.array(times, pa.int64()).cast(TIME_TYPE),
            "clicked": pa.array(labels),
        }
        pq.write_table(pa.table(columns), path)
        return ImpressionsSampler(ImpressionsSettings(path=str(path), **settings))

    return write


@pytest.fixture
def busiest(past: Sequences) -> int:
    return int(past.lengths.argmax())


def test_histories_end_before_the_impression(
    table: Callable[..., ImpressionsSampler], past: Sequences, busiest: int
) -> None:
    """As of its time: a behavior at the same instant is not in the history."""
    user = past.users[busiest].as_py()
    item = past.items.item_ids[0].as_py()
    times = past.times[past.starts[busiest] : past.ends[busiest]].tolist()
    sampler = table([(user, item, when, n % 2) for n, when in enumerate(times)], negatives=None)
    users = sampler.units(past)
    views = sampler.sample(past, Units(torch.arange(len(users)), users), Draw(0, 0))

    kept = [when for when in times if when > times[0]]
    wanted = [sum(earlier < when for earlier in times) for when in kept]
    assert views["history"].lengths.tolist() == wanted
    assert views["item"].tolist() == [3] * len(wanted)
    assert sampler.left_out == {"too few behaviors": len(times) - len(kept)}


def test_rows_that_cannot_be_used_are_counted(
    table: Callable[..., ImpressionsSampler], past: Sequences, busiest: int
) -> None:
    """By the first reason that holds."""
    user, item = past.users[busiest].as_py(), past.items.item_ids[0].as_py()
    stranger = user + "?" if isinstance(user, str) else 10**9
    nothing = item + "?" if isinstance(item, str) else 10**9
    late = past.until - 1
    sampler = table(
        [
            (user, item, late, 1),
            (user, item, late, None),
            (user, item, late, 7),
            (stranger, item, late, 1),
            (user, nothing, late, 1),
            (user, item, None, 1),
            (user, item, past.until, 1),
            (user, item, 5, 1),
        ]
    )

    assert len(sampler.units(past)) == 1
    assert sampler.left_out == {
        "null label, or none of the two": 2,
        "null or unknown user": 1,
        "null or unknown item": 1,
        "null time": 1,
        "after the training data": 1,
        "too few behaviors": 1,
    }


@pytest.mark.parametrize(("ratio", "wanted"), [(1, 2), (4, 8), (None, 10)])
def test_negatives_are_kept_per_click(
    table: Callable[..., ImpressionsSampler],
    past: Sequences,
    busiest: int,
    ratio: int | None,
    wanted: int,
) -> None:
    """Two clicks and ten others of a user: ratio 4 keeps eight of the others."""
    user, item = past.users[busiest].as_py(), past.items.item_ids[0].as_py()
    late = past.until - 1
    sampler = table([(user, item, late, int(n < 2)) for n in range(12)], negatives=ratio)
    users = sampler.units(past)
    views = sampler.sample(past, Units(torch.arange(len(users)), users), Draw(0, 0))

    assert int(views["clicked"].sum()) == 2 and len(users) == 2 + wanted


def test_named_labels(
    table: Callable[..., ImpressionsSampler], past: Sequences, busiest: int
) -> None:
    """A log of mixed events is a table of impressions: two of its kinds count."""
    user, item = past.users[busiest].as_py(), past.items.item_ids[0].as_py()
    kinds = ["click", "skip", "history", "click", "skip"]
    rows = [(user, item, past.until - 1, kind) for kind in kinds]
    sampler = table(rows, clicked="click", skipped="skip", negatives=None)
    users = sampler.units(past)
    views = sampler.sample(past, Units(torch.arange(len(users)), users), Draw(0, 0))
    assert views["clicked"].tolist() == [1, 0, 1, 0]

    with pytest.raises(TrainingError, match="clicked is string, wanted 0 and 1"):
        table(rows).units(past)


def test_a_share_is_of_users(table: Callable[..., ImpressionsSampler], past: Sequences) -> None:
    """Smaller shares are parts of larger ones, and about as large as they say."""
    item, late = past.items.item_ids[0].as_py(), past.until - 1
    rows = [(user, item, late, 1) for user in past.users.to_pylist()]
    found = {
        share: set(table(rows, share=share).units(past).tolist()) for share in (0.25, 0.6, 1.0)
    }

    assert found[0.25] < found[0.6] < found[1.0]
    assert found[1.0] == set(torch.nonzero(past.lengths).flatten().tolist())


def test_metrics_are_those_of_scikit_learn() -> None:
    """With ties."""
    for seed in range(20):
        torch.manual_seed(seed)
        scores = torch.randint(0, 8, (30,)).double()
        clicked = torch.randint(0, 2, (30,))
        assert float(auc(scores, clicked)) == pytest.approx(roc_auc_score(clicked, scores))
        wanted = average_precision_score(clicked, scores)
        assert float(average_precision(scores, clicked)) == pytest.approx(wanted)


def test_a_missing_table_is_one_line(past: Sequences) -> None:
    """It says which setting to give."""
    sampler = ImpressionsSampler(ImpressionsSettings(path="nowhere.parquet"))

    with pytest.raises(TrainingError, match=r"nowhere\.parquet: .*sampler\.settings\.path"):
        sampler.units(past)
