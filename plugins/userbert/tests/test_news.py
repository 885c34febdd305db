"""Lists of items shown together: which rows make a list, the loss, and the ranking metrics."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score, roc_auc_score
from torch import Tensor, nn

from unirep_feast.encoder import Encoded
from unirep_feast.events import TIME_TYPE
from unirep_feast.sampler import Draw, Units
from unirep_feast.sequences import Sequences
from unirep_feast_userbert.config import ListsSettings, NewsSettings
from unirep_feast_userbert.lists import ListsSampler
from unirep_feast_userbert.news import NewsObjective, list_auc, ndcg

#: user row, item row, time, clicked
Row = tuple[int, int, int, int]


@pytest.fixture
def table(past: Sequences, tmp_path: Path) -> Callable[..., ListsSampler]:
    """Write impressions, users and items given by their rows, and build the sampler of them."""

    def write(rows: list[Row], **chosen: Any) -> ListsSampler:
        users, items, times, clicked = (list(column) for column in zip(*rows, strict=True))
        path = tmp_path / "shown.parquet"
        columns = {
            "user_id": past.users.take(pa.array(users)),
            "item_id": past.items.item_ids.take(pa.array(items)),
            "event_timestamp": pa.array(times, pa.int64()).cast(TIME_TYPE),
            "clicked": pa.array(clicked),
        }
        pq.write_table(pa.table(columns), path)
        return ListsSampler(ListsSettings(path=str(path), **chosen))

    return write


def _views(sampler: ListsSampler, past: Sequences, picked: Tensor | None = None) -> dict[str, Any]:
    users = sampler.units(past)
    index = torch.arange(len(users)) if picked is None else picked
    return dict(sampler.sample(past, Units(index, users[index]), Draw(0, 0)))


def test_rows_of_one_user_and_time_are_a_list(
    table: Callable[..., ListsSampler], past: Sequences
) -> None:
    """Wherever they stand in the table; the history ends strictly before that time."""
    one, other = torch.nonzero(past.lengths >= 2).flatten()[:2].tolist()
    late = past.until - 1
    begin = int(past.times[past.starts[one]])
    sampler = table(
        [
            (one, 4, late, 0),
            (other, 5, late, 1),
            (one, 1, begin + 1, 1),
            (other, 6, late, 0),
            (one, 2, late, 1),
            (one, 3, begin + 1, 0),
            (one, 7, late, 1),
        ]
    )
    views = _views(sampler, past)

    assert sampler.units(past).tolist() == [one, one, other]
    assert views["rows"].tolist() == [0, 0, 1, 1, 1, 2, 2]
    assert (views["candidates"] - 3).tolist() == [1, 3, 4, 2, 7, 5, 6]
    assert views["clicked"].tolist() == [1, 0, 0, 1, 1, 1, 0]
    before = past.locate(torch.tensor([one, one, other]), torch.tensor([begin + 1, late, late]))
    wanted = before - past.starts[torch.tensor([one, one, other])]
    assert views["history"].lengths.tolist() == wanted.tolist()

    turned = _views(sampler, past, torch.tensor([2, 0]))
    assert (turned["candidates"] - 3).tolist() == [5, 6, 1, 3]
    assert turned["rows"].tolist() == [0, 0, 1, 1]


def test_lists_that_cannot_be_ranked_are_counted(
    table: Callable[..., ListsSampler], past: Sequences
) -> None:
    """All clicked, or nothing; by rows of the table, beside the reasons a row has by itself."""
    user, late = int(past.lengths.argmax()), past.until - 1
    sampler = table(
        [
            (user, 0, late, 1),
            (user, 1, late, 0),
            (user, 2, late - 1, 1),
            (user, 3, late - 1, 1),
            (user, 4, late - 2, 0),
            (user, 5, past.until, 1),
        ]
    )

    assert len(sampler.units(past)) == 1
    assert sampler.left_out == {
        "after the training data": 1,
        "list with all or nothing clicked": 3,
    }


def test_no_list_at_all_is_no_unit(table: Callable[..., ListsSampler], past: Sequences) -> None:
    """And does not crash."""
    sampler = table([(0, 0, past.until, 1)])

    assert len(sampler.units(past)) == 0


class _Fixed(nn.Module):
    """Gives the vectors it is told to."""

    num_vectors, dim = 1, 2

    def __init__(self, users: Tensor, items: Tensor) -> None:
        super().__init__()
        self.users, self.items = nn.Parameter(users), nn.Parameter(items)

    def forward(self, batch: Any, *, steps: bool = False) -> Encoded:
        return Encoded(self.users[batch.users])

    def embed_items(self, codes: Tensor) -> Tensor:
        return self.items[codes]


def _fixed(past: Sequences, vectors: int) -> _Fixed:
    generator = torch.Generator().manual_seed(1)
    return _Fixed(
        torch.randn(len(past), vectors, 2, generator=generator, dtype=torch.float64),
        torch.randn(len(past.items), 2, generator=generator, dtype=torch.float64),
    )


@pytest.mark.parametrize("vectors", [1, 3])
def test_the_loss_is_that_of_a_loop(
    table: Callable[..., ListsSampler], past: Sequences, vectors: int
) -> None:
    """In float64, every click against all that was not clicked of its list."""
    rows = torch.nonzero(past.lengths >= 2).flatten()[:6].tolist()
    random = np.random.default_rng(0)
    late = past.until - 1
    shown = [
        (user, int(item), late, int(place < 1 + user % 2))
        for user in rows
        for place, item in enumerate(random.permutation(20)[: 5 + user % 3])
    ]
    views = _views(table(shown), past)
    encoder, objective = _fixed(past, vectors), NewsObjective(NewsSettings()).double().eval()
    found = objective(encoder, views).terms["news"]

    terms = []
    for user in rows:
        mine = [(item, hit) for who, item, _, hit in shown if who == user]
        with torch.no_grad():
            score = [
                float((encoder.users[user] @ encoder.items[item + 3]).max()) for item, _ in mine
            ]
        others = [np.exp(s) for s, (_, hit) in zip(score, mine, strict=True) if not hit]
        for s, (_, hit) in zip(score, mine, strict=True):
            if hit:
                terms.append(-np.log(np.exp(s) / (np.exp(s) + sum(others))))
    assert float(found.detach()) == pytest.approx(np.mean(terms), rel=1e-12)
    found.backward()
    assert all(p.grad is not None for p in (*encoder.parameters(), *objective.parameters()))


def test_training_holds_a_click_against_so_many(
    table: Callable[..., ListsSampler], past: Sequences
) -> None:
    """With equal scores the loss is log(1 + negatives), or of all there are where these are few."""
    user, late = int(past.lengths.argmax()), past.until - 1
    views = _views(table([(user, item, late, int(item == 4)) for item in range(9)]), past)
    encoder = _fixed(past, 1)
    with torch.no_grad():
        encoder.users.zero_()
    losses = {
        count: float(NewsObjective(NewsSettings(negatives=count))(encoder, views).terms["news"])
        for count in (1, 4, 30)
    }

    assert losses == pytest.approx({1: np.log(2), 4: np.log(5), 30: np.log(9)})


def _lists(scores: list[list[int]], clicks: list[list[bool]]) -> tuple[Tensor, Tensor, Tensor]:
    width = max(map(len, scores))
    grid = torch.full((len(scores), width), 99.0, dtype=torch.float64)
    shown = torch.zeros(len(scores), width, dtype=torch.bool)
    hit = torch.zeros_like(shown)
    for row, (score, click) in enumerate(zip(scores, clicks, strict=True)):
        grid[row, : len(score)] = torch.tensor(score, dtype=torch.float64)
        shown[row, : len(score)] = True
        hit[row, : len(score)] = torch.tensor(click)
    return grid, shown, hit


_LIST = st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=2, max_size=25)


@settings(deadline=None)
@given(st.lists(_LIST, min_size=1, max_size=5))
def test_metrics_are_those_of_scikit_learn(lists: list[list[tuple[int, bool]]]) -> None:
    """List by list, ties included, whatever fills the shorter ones up."""
    scores = [[score for score, _ in one] for one in lists]
    clicks = [[click for _, click in one] for one in lists]
    grid, shown, hit = _lists(scores, clicks)
    area, gain = list_auc(grid, shown, hit), ndcg(grid, shown, hit, 10)

    for row, (score, click) in enumerate(zip(scores, clicks, strict=True)):
        both = any(click) and not all(click)
        wanted = roc_auc_score(click, score) if both else 0.5
        assert float(area[row]) == pytest.approx(wanted, abs=1e-12)
        assert float(gain[row]) == pytest.approx(ndcg_score([click], [score], k=10), abs=1e-12)
