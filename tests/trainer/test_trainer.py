"""The fit loop: what it tells, whom it trains on, and what a step does."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from unirep_feast.objective import Losses
from unirep_feast.sequences import Sequences
from unirep_feast.testing.world import World
from unirep_feast.trainer import Trainer
from unirep_feast.trainer.records import values_of

pytestmark = pytest.mark.usefixtures("lab")

AWKWARD = {"dropout": 0.3, "batch_norm": True}


# -- records ---------------------------------------------------------------------------------------


def test_records_tell_what_happened(world: World, tmp_path: Path, Disk: Any, fit: Any) -> None:
    """Start, steps, validations, checkpoints and the end come in order, at the steps asked for."""
    _, records = fit(world, Disk(tmp_path, world))

    assert [(record.kind, record.step) for record in records] == [
        ("start", 0),
        ("step", 1),
        ("step", 2),
        ("validation", 2),
        ("step", 3),
        ("checkpoint", 3),
        ("step", 4),
        ("validation", 4),
        ("step", 5),
        ("step", 6),
        ("validation", 6),
        ("checkpoint", 6),
        ("step", 7),
        ("step", 8),
        ("validation", 8),
        ("end", 8),
    ]
    assert all(record.total == 8 for record in records)
    seconds = [record.seconds for record in records]
    assert seconds == sorted(seconds)
    assert records[5].path is not None and (records[5].path / "checkpoint.json").exists()
    assert records[-1].path is not None


def test_the_start_tells_how_many_are_eligible(world: World, make_trio: Any, fit: Any) -> None:
    """Users, units and the shares they fall into add up; the sampler's rule is the one applied."""
    _, records = fit(world, training={"test": 0.1, "max_steps": 1})

    values = records[0].values
    assert values["users"] == len(world.past)
    lengths = world.past.limit(make_trio(world).encoder.window).lengths
    assert 0 < values["units"] <= int((lengths >= 4).sum())
    assert values["train"] + values["validation"] + values["test"] == values["units"]
    assert min(values["train"], values["validation"], values["test"]) > 0
    parameters = make_trio(world)
    assert values["parameters"] == sum(
        p.numel() for part in (parameters.encoder, parameters.objective) for p in part.parameters()
    )


def test_a_step_tells_the_mean_loss_since_the_last_one(world: World, fit: Any) -> None:
    """Logged every third step, the loss is the mean of three; terms are those of the last."""
    _, every = fit(world, training={"validation": 0})
    _, third = fit(world, training={"validation": 0, "log_every": 3})

    losses = [record.values["loss"] for record in every if record.kind == "step"]
    logged = [record for record in third if record.kind == "step"]
    assert [record.step for record in logged] == [3, 6, 8]
    expected = [sum(losses[:3]) / 3, sum(losses[3:6]) / 3, sum(losses[6:]) / 2]
    assert [record.values["loss"] for record in logged] == pytest.approx(expected, rel=1e-6)
    assert logged[0].values["contrast"] == pytest.approx(losses[2])
    assert logged[0].values["units_per_second"] > 0


def test_a_metric_called_loss_does_not_hide_the_loss(world: World, fit: Any) -> None:
    """The lab objective has a metric of that name; what is told and judged is the sum of terms."""
    trainer, records = fit(world, encoder={"penalty": True})

    for record in records:
        if record.kind in ("step", "validation"):
            total = record.values["contrast"] + record.values["spread"]
            assert record.values["loss"] == pytest.approx(total, rel=1e-5)
            assert record.values["loss"] > 0.1
    assert trainer.best.loss > 0.1


def test_epochs_are_passes_over_the_units(world: World, fit: Any) -> None:
    """Two and a half epochs are as many steps as full batches fit; the rest is left out."""
    trainer, records = fit(world, training={"epochs": 2.5, "max_steps": None})

    per_epoch = len(trainer.plan.train) // 16
    assert records[-1].step == round(2.5 * per_epoch)
    assert records[-1].epoch == records[-1].step / per_epoch


@pytest.mark.parametrize(
    ("ends", "steps"),
    [({"max_steps": 5000}, 5000), ({"max_steps": None}, None), ({"max_minutes": 9.0}, 1 << 40)],
)
def test_a_bare_end_is_the_only_end(
    world: World, ends: dict[str, float | None], steps: int | None, make_trio: Any, config: Any
) -> None:
    """`max_steps` or `max_minutes` alone is not cut short; without any end it is 20 epochs."""
    given = {"epochs": None, "max_steps": None, "max_minutes": None, **ends}

    plan = Trainer(make_trio(world), world.past, config(**given)).plan

    assert plan.total == (20 * plan.steps_per_epoch if steps is None else steps)


def test_every_unit_is_seen_once_per_epoch(world: World, make_trio: Any, config: Any) -> None:
    """Within an epoch no unit comes twice; the next epoch has another order."""
    plan = Trainer(make_trio(world), world.past, config(batch_size=10)).plan
    steps = plan.steps_per_epoch

    first = torch.cat([plan.picked(step) for step in range(steps)])
    second = torch.cat([plan.picked(step) for step in range(steps, 2 * steps)])

    assert len(first.unique()) == len(first) == steps * 10
    assert set(first.tolist()) <= set(plan.train.tolist())
    assert first.tolist() != second.tolist()
    assert torch.equal(plan.picked(0), first[:10])  # any step can be asked for at any time


def test_small_logs_shrink_the_batch(world: World, make_trio: Any, config: Any) -> None:
    """Fewer units than a batch make one batch of all of them."""
    plan = Trainer(make_trio(world), world.past, config(batch_size=4096)).plan

    assert plan.batch_size == len(plan.train)
    assert plan.steps_per_epoch == 1


def test_numbers_come_out_of_losses() -> None:
    """The sum of terms is the loss, whatever terms and metrics are called."""
    losses = Losses(
        {"loss": torch.tensor(1.0), "other": torch.tensor(2.0)}, {"other": torch.tensor(9.0)}
    )

    assert values_of(losses) == {"loss": 3.0, "other": 2.0}


# -- splits ----------------------------------------------------------------------------------------


def test_splits_follow_the_user(world: World, make_trio: Any, config: Any) -> None:
    """A user is in the same share whoever else is in the log, and all her units with her."""
    whole = Trainer(make_trio(world), world.past, config(test=0.2)).plan
    some = world.past.select(torch.arange(0, len(world.past), 2))
    part = Trainer(make_trio(world), some, config(test=0.2)).plan

    def shares_of(plan: Any, sequences: Sequences) -> dict[int, str]:
        users = sequences.users.to_pylist()
        return {
            users[int(plan.rows[unit])]: name
            for name in ("train", "valid", "test")
            for unit in getattr(plan, name)
        }

    all_shares, few_shares = shares_of(whole, world.past), shares_of(part, some)
    assert few_shares
    assert {user: all_shares[user] for user in few_shares} == few_shares


def test_training_never_draws_validation_users(world: World, make_trio: Any, config: Any) -> None:
    """What the sampler is asked to sample in training is disjoint from validation and test."""
    trio = make_trio(world)
    drawn: dict[str, set[int]] = {"train": set(), "other": set()}
    sample = trio.sampler.sample

    def spy(sequences: Any, units: Any, draw: Any) -> Any:
        kind = "train" if draw.seed == 0 else "other"
        drawn[kind] |= set(units.users.tolist())
        return sample(sequences, units, draw)

    trio.sampler.sample = spy
    list(Trainer(trio, world.past, config(test=0.1)).run())

    assert drawn["train"] and drawn["other"]
    assert drawn["train"] & drawn["other"] == set()


# -- what a step does ------------------------------------------------------------------------------


def test_training_repeats(world: World, weights: Any, assert_equal: Any, fit: Any) -> None:
    """The same seed gives the same weights, another one others."""
    one, two = (fit(world, encoder=AWKWARD)[0] for _ in range(2))
    other, _ = fit(world, encoder=AWKWARD, training={"seed": 1})

    assert_equal(weights(one), weights(two))
    assert not torch.equal(
        weights(one)["encoder.turn.weight"], weights(other)["encoder.turn.weight"]
    )


def test_training_learns(world: World, fit: Any) -> None:
    """A hundred steps bring the loss of the trained users down by a fifth."""
    training = {"max_steps": 100, "validation": 0, "log_every": 10}
    _, records = fit(world, training=training)

    losses = [record.values["loss"] for record in records if record.kind == "step"]
    assert losses[-1] < 0.8 * losses[0]


def test_a_frozen_encoder_stays_as_it_is(
    world: World, make_trio: Any, config: Any, weights: Any
) -> None:
    """trains_encoder False: the encoder keeps weights and statistics, the head is trained."""
    trio = make_trio(world, encoder=AWKWARD, objective={"trains_encoder": False})
    trainer = Trainer(trio, world.past, config())
    before = weights(trainer)
    modes: list[bool] = []
    trio.encoder.register_forward_pre_hook(lambda module, _: modes.append(module.training))

    list(trainer.run())

    after = weights(trainer)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert not any(name.startswith("encoder.") for name in moved)
    assert {"objective.head.weight", "objective.norm.running_mean"} <= moved
    assert set(modes) == {False}
    assert all(parameter.grad is None for parameter in trio.encoder.parameters())


def test_penalties_join_the_loss(world: World, weights: Any, fit: Any) -> None:
    """The encoder's terms over all chunks are logged, and weights follow them."""
    with_term, records = fit(world, encoder={"penalty": True})
    without, _ = fit(world)

    assert "spread" in records[1].values
    assert not torch.equal(
        weights(with_term)["encoder.turn.weight"], weights(without)["encoder.turn.weight"]
    )


def test_gradients_are_clipped(world: World, fit: Any) -> None:
    """No step goes with a larger gradient than clip_norm; null leaves it alone."""

    def norm(trainer: Trainer) -> float:
        squares = [p.grad.square().sum() for p in trainer.module.parameters() if p.grad is not None]
        return math.sqrt(float(sum(squares)))

    clipped, _ = fit(world, training={"clip_norm": 0.01})
    free, _ = fit(world, training={"clip_norm": None})

    assert norm(clipped) == pytest.approx(0.01, rel=1e-3)
    assert norm(free) > 0.1


@pytest.mark.slow
def test_a_compiled_encoder_trains_alike(world: World, weights: Any, fit: Any) -> None:
    """torch.compile changes speed, and losses by rounding only; the state has the same names."""
    plain, wanted = fit(world, training={"max_steps": 4})
    compiled, found = fit(world, training={"max_steps": 4, "compile": True})

    assert weights(compiled).keys() == weights(plain).keys()
    losses = [r.values["loss"] for r in wanted if r.kind in ("step", "validation")]
    assert [r.values["loss"] for r in found if r.kind in ("step", "validation")] == pytest.approx(
        losses, rel=1e-3
    )
