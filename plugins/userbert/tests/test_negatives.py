"""Negatives are the most similar valid candidates, never the target, never overlapping in time."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unirep_feast.batch import SequenceBatch
from unirep_feast_userbert.negatives import (
    at_random,
    most_similar,
    own_or_overlapping,
    same_content,
)

spans = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 20), st.integers(0, 6)), min_size=1, max_size=12
)


def batch_of(rows: list[tuple[int, int, int]]) -> SequenceBatch:
    """Sequences of (user, first time, time to the last): two events each."""
    times = [t for _, begin, more in rows for t in (begin, begin + more)]
    return SequenceBatch(
        codes=torch.full((2 * len(rows),), 5),
        times=torch.tensor(times),
        lengths=torch.full((len(rows),), 2),
        users=torch.tensor([user for user, _, _ in rows]),
        as_of=torch.tensor([begin + more + 1 for _, begin, more in rows]),
        width=2,
    )


@settings(deadline=None, max_examples=60)
@given(spans, spans, st.integers(1, 6), st.booleans())
def test_negative_sequences_are_of_others_and_disjoint(
    first: list[tuple[int, int, int]],
    pool: list[tuple[int, int, int]],
    count: int,
    similar: bool,
) -> None:
    """Whatever pool: no own, none that touches A in time, none twice, and as many as there are."""
    barred = own_or_overlapping(batch_of(first), batch_of(pool))
    if similar:
        chosen = most_similar(torch.randn(len(first), 3), torch.randn(len(pool), 3), barred, count)
    else:
        chosen = at_random(barred, count)

    assert chosen.columns.shape == chosen.valid.shape == (len(first), count)
    for row, (user, begin, more) in enumerate(first):
        picked = chosen.columns[row][chosen.valid[row]].tolist()
        fit = [
            other != user and (start > begin + more or start + long < begin)
            for other, start, long in pool
        ]
        assert all(fit[place] for place in picked) and len(set(picked)) == len(picked)
        assert len(picked) == min(count, sum(fit))


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=8),
    st.lists(st.integers(0, 5), min_size=0, max_size=12),
    st.integers(1, 5),
)
def test_negative_behaviors_never_say_what_the_target_says(
    targets: list[int], pool: list[int], count: int
) -> None:
    """However similar: equal content is filtered, and a pool of nothing else gives nothing."""
    one, other = (
        torch.tensor([[100 + n, c] for n, c in enumerate(said)], dtype=torch.int64).view(-1, 2)
        for said in (targets, pool)
    )
    barred = same_content(one, other)
    chosen = most_similar(torch.randn(len(targets), 3), torch.randn(len(pool), 3), barred, count)

    for row, content in enumerate(targets):
        picked = chosen.columns[row][chosen.valid[row]].tolist()
        assert all(pool[place] != content for place in picked)
        assert len(picked) == min(count, sum(said != content for said in pool))


def test_similar_means_the_highest_cosine() -> None:
    """Length plays no part, and barred candidates none either."""
    pool = torch.tensor([[9.0, 9.0], [1.0, 0.1], [0.0, 3.0], [1.0, 0.0]])
    barred = torch.tensor([[False, False, False, True]])

    chosen = most_similar(torch.tensor([[2.0, 0.0]]), pool, barred, 2)

    assert chosen.columns.tolist() == [[1, 0]]


def test_a_larger_pool_gives_harder_negatives() -> None:
    """ "The negatives are harder if m is larger": the mean cosine of the chosen rises with m."""
    torch.manual_seed(0)
    targets, pool = torch.randn(50, 16), torch.randn(3000, 16)
    mean = []
    for size in (10, 100, 3000):
        some = pool[:size]
        chosen = most_similar(targets, some, torch.zeros(50, size, dtype=torch.bool), 4)
        cosine = torch.cosine_similarity(targets[:, None], some[chosen.columns], dim=2)
        mean.append(float(cosine.mean()))

    assert mean == sorted(mean) and mean[2] > mean[0] + 0.3
