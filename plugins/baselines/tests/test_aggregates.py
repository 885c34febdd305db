"""Aggregates are what a loop over a user's events would count."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from unirep_feast.batch import FIRST_ITEM, SequenceBatch
from unirep_feast.instants import MICROSECONDS_PER_DAY
from unirep_feast.testing import World, registered
from unirep_feast_baselines.aggregates import AggregateEncoder
from unirep_feast_baselines.random_vectors import RandomEncoder


def aggregates(world: World, **settings: object) -> AggregateEncoder:
    recipe = registered("baselines.aggregates", settings={"encoder": settings})
    encoder = recipe.build(world.past).encoder
    assert isinstance(encoder, AggregateEncoder)
    return encoder


def named(encoder: AggregateEncoder, batch: SequenceBatch, row: int = 0) -> dict[str, float]:
    """The numbers of one user by name, before they are standardised."""
    return dict(zip(encoder.names, encoder.features(batch)[row].tolist(), strict=True))


def test_numbers_of_a_known_history(world: World, batch_of: Callable[..., SequenceBatch]) -> None:
    """Hand-worked: three events on two days, a Monday at 10 and a Thursday at 22 UTC, twice."""
    encoder = aggregates(world, windows=(1.0, 7.0), half_lives=(2.0,))
    item, other = FIRST_ITEM, FIRST_ITEM + 1
    batch = batch_of(
        [
            [
                (item, "2020-01-27T10:00", 2.0),
                (item, "2020-01-30T22:00", -4.0),
                (other, "2020-01-30T22:00"),
            ]
        ],
        as_of="2020-02-01T00:00",
    )
    found = named(encoder, batch)
    last, first = 26 / 24, 4 + 14 / 24  # days before the as-of time
    gaps = [first - last, 0.0]

    expected = {
        "events": math.log1p(3),
        "items": math.log1p(2),
        "active_days": math.log1p(2),
        "since_last": math.log1p(last),
        "since_first": math.log1p(first),
        "span": math.log1p(first - last),
        "mean_gap": math.log1p(float(np.mean(gaps))),
        "gap_deviation": math.log1p(float(np.std(gaps))),
        "events_1d": 0.0,
        "events_7d": math.log1p(3),
        "decayed_2d": math.log1p(2 ** (-first / 2) + 2 * 2 ** (-last / 2)),
        f"item={world.vocabulary.item_ids[0].as_py()}": math.log1p(2),
        f"item={world.vocabulary.item_ids[1].as_py()}": math.log1p(1),
        "value_sum": -math.log1p(2),
        "value_mean": -math.log1p(1),
        "value_deviation": math.log1p(3),
        "value_min": -math.log1p(4),
        "value_max": math.log1p(2),
        "value_7d": -math.log1p(2),
        "hour=10": 1 / 3,
        "hour=22": 2 / 3,
        "hour=0": 0.0,
        "weekday=0": 1 / 3,
        "weekday=3": 2 / 3,
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected)


def test_categories_types_and_bins_by_a_loop(world: World) -> None:
    """Counts per category, per event type and per quantile of values."""
    encoder = aggregates(world)
    past = world.past
    rows = torch.nonzero(past.lengths).flatten()
    batch = past.histories(rows)
    found = encoder.features(batch)
    lists = past.items.categories.to_pylist()
    edges = np.nanquantile(
        torch.cat(
            [past.columns["value"][s:e] for s, e in zip(past.starts, past.ends, strict=True)]
        ),
        np.arange(1, 10) / 10,
    )
    for row in range(0, len(batch), 7):
        mine = batch.rows == row
        categories = [
            name
            for code in batch.codes[mine].tolist()
            if code >= FIRST_ITEM
            for name in lists[code - FIRST_ITEM] or ()
        ]
        types = [past.vocabulary.event_types[t - 1] for t in batch.columns["event_type"][mine] if t]
        values = batch.columns["value"][mine].double().numpy()
        values = values[~np.isnan(values)]
        numbers = dict(zip(encoder.names, found[row].tolist(), strict=True))
        for name in encoder.categories:
            assert numbers[f"category={name}"] == pytest.approx(math.log1p(categories.count(name)))
        for name in past.vocabulary.event_types:
            assert numbers[f"type={name}"] == pytest.approx(math.log1p(types.count(name)))
        shares = np.bincount(np.searchsorted(edges, values), minlength=10) / max(len(values), 1)
        bins = [numbers[f"value_bin={n}"] for n in range(10)]
        assert bins == pytest.approx(shares.tolist())


def test_recency_follows_the_as_of_time(world: World) -> None:
    """Ten days later with the same events: everyone's last event is ten days longer ago."""
    encoder = aggregates(world)
    rows = torch.nonzero(world.past.lengths).flatten()
    batch = world.past.histories(rows)
    later = replace(batch, as_of=batch.as_of + 10 * MICROSECONDS_PER_DAY)
    place = encoder.names.index("since_last")

    before, after = (encoder.features(one)[:, place].expm1() for one in (batch, later))

    assert encoder.depends_on_as_of
    torch.testing.assert_close(after - before, torch.full_like(before, 10.0))


def test_standardised_over_the_users_before_the_cut_off(world: World) -> None:
    """Mean 0 and deviation 1, or 0 where all users are the same."""
    encoder = aggregates(world)
    rows = torch.nonzero(world.past.lengths).flatten()
    users = encoder(world.past.histories(rows)).users[:, 0]

    deviation = users.std(0, unbiased=False)
    torch.testing.assert_close(users.mean(0), torch.zeros(encoder.dim), atol=1e-5, rtol=0)
    still = deviation < 1e-3
    torch.testing.assert_close(deviation[~still], torch.ones(int((~still).sum())))


def test_random_vectors_look_normal_and_unrelated(
    world: World, batch_of: Callable[..., SequenceBatch]
) -> None:
    """Mean 0, deviation 1, and one more event gives a vector that has nothing to do with it."""
    encoder = registered("baselines.random", settings={"encoder": {"dim": 4096}})
    built = encoder.build(world.past).encoder
    assert isinstance(built, RandomEncoder)
    days = [f"2020-01-{day:02d}" for day in range(1, 21)]
    rows = [[(FIRST_ITEM, day) for day in days[: n + 1]] for n in range(20)]

    users = built(batch_of(rows)).users[:, 0]

    assert abs(float(users.mean())) < 0.02 and abs(float(users.std()) - 1) < 0.02
    cosine = torch.corrcoef(users) - torch.eye(len(users))
    assert float(cosine.abs().max()) < 0.08  # five deviations of 1 / √4096


def test_another_seed_gives_other_random_vectors(world: World) -> None:
    """And the same seed the same ones."""

    def vectors(seed: int) -> torch.Tensor:
        recipe = registered("baselines.random", settings={"encoder": {"dim": 8, "seed": seed}})
        batch = world.past.histories(world.past.all_users())
        users: torch.Tensor = recipe.build(world.past).encoder(batch).users
        return users

    assert torch.equal(vectors(1), vectors(1))
    assert not torch.equal(vectors(1), vectors(2))
