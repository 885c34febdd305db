"""The fit loop: what it tells, what it keeps, when it stops, and that it resumes bit-equal."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from unirep_feast.checkpoint import Checkpoint, Manifest, open_checkpoint, save_checkpoint
from unirep_feast.config import TrainingConfig, parse_spec
from unirep_feast.errors import ContractError, PluginError, TrainingError, UnirepError
from unirep_feast.objective import Losses
from unirep_feast.plugins import load_plugins
from unirep_feast.sequences import Sequences
from unirep_feast.testing.world import World, make_world
from unirep_feast.trainer import Record, Trainer
from unirep_feast.trainer.records import values_of
from unirep_feast.trio import Trio, build_trio, choose

pytestmark = pytest.mark.usefixtures("lab")

AWKWARD = {"dropout": 0.3, "batch_norm": True}


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(users=90, items=25, seed=3)


def make_trio(world: World, seed: int = 0, **settings: Any) -> Trio:
    """Build the lab trio; ``settings`` by role."""
    raw = {"name": "shop", "events": {"path": "made"}, "plugin": "lab"}
    raw.update({role: {"settings": given} for role, given in settings.items()})
    torch.manual_seed(seed)
    choice = choose(parse_spec(raw, "spec"), load_plugins())
    return build_trio(choice, world.vocabulary, world.past.items, {})


def config(**changes: Any) -> TrainingConfig:
    usual: dict[str, Any] = {
        "batch_size": 16,
        "epochs": None,
        "max_steps": 8,
        "validation": 0.2,
        "validate_every": 2,
        "checkpoint_every": 3,
        "log_every": 1,
        "patience": None,
        "learning_rate": 0.02,
        "device": "cpu",
    }
    return TrainingConfig(**{**usual, **changes})


class Disk:
    """Saves checkpoints into a folder, and opens them again."""

    def __init__(self, folder: Path, world: World) -> None:
        self.folder, self.world = folder, world
        self.saved: list[Path] = []

    def __call__(
        self,
        step: int,
        state: dict[str, Any],
        groups: Mapping[str, Mapping[str, Tensor]],
        final: bool,
    ) -> Path:
        vocabulary = self.world.vocabulary
        manifest = Manifest("run", step, 0, {}, {}, vocabulary.hash, 1, 8, False, trainer=state)
        folder = self.folder / f"{len(self.saved)}-{step}{'-final' if final else ''}"
        self.saved.append(save_checkpoint(folder, manifest, vocabulary, groups).folder)
        return folder

    @property
    def steps(self) -> list[Path]:
        """Checkpoints that a run can resume from."""
        return [path for path in self.saved if not path.name.endswith("-final")]


def weights(trainer: Trainer) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in trainer.module.state_dict().items()}


def assert_equal(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    different = [name for name in wanted if not torch.equal(found[name], wanted[name])]
    assert different == []


def fit(world: World, save: Any = None, **settings: Any) -> tuple[Trainer, list[Record]]:
    """Train a fresh trio to the end."""
    training = settings.pop("training", {})
    trainer = Trainer(make_trio(world, **settings), world.past, config(**training), save)
    return trainer, list(trainer.run())


# -- records ---------------------------------------------------------------------------------------


def test_records_tell_what_happened(world: World, tmp_path: Path) -> None:
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


def test_the_start_tells_how_many_are_eligible(world: World) -> None:
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


def test_a_step_tells_the_mean_loss_since_the_last_one(world: World) -> None:
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


def test_a_metric_called_loss_does_not_hide_the_loss(world: World) -> None:
    """The lab objective has a metric of that name; what is told and judged is the sum of terms."""
    trainer, records = fit(world, encoder={"penalty": True})

    for record in records:
        if record.kind in ("step", "validation"):
            total = record.values["contrast"] + record.values["spread"]
            assert record.values["loss"] == pytest.approx(total, rel=1e-5)
            assert record.values["loss"] > 0.1
    assert trainer.best.loss > 0.1


def test_epochs_are_passes_over_the_units(world: World) -> None:
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
    world: World, ends: dict[str, float | None], steps: int | None
) -> None:
    """`max_steps` or `max_minutes` alone is not cut short; without any end it is 20 epochs."""
    given = {"epochs": None, "max_steps": None, "max_minutes": None, **ends}

    plan = Trainer(make_trio(world), world.past, config(**given)).plan

    assert plan.total == (20 * plan.steps_per_epoch if steps is None else steps)


def test_every_unit_is_seen_once_per_epoch(world: World) -> None:
    """Within an epoch no unit comes twice; the next epoch has another order."""
    plan = Trainer(make_trio(world), world.past, config(batch_size=10)).plan
    steps = plan.steps_per_epoch

    first = torch.cat([plan.picked(step) for step in range(steps)])
    second = torch.cat([plan.picked(step) for step in range(steps, 2 * steps)])

    assert len(first.unique()) == len(first) == steps * 10
    assert set(first.tolist()) <= set(plan.train.tolist())
    assert first.tolist() != second.tolist()
    assert torch.equal(plan.picked(0), first[:10])  # any step can be asked for at any time


def test_small_logs_shrink_the_batch(world: World) -> None:
    """Fewer units than a batch make one batch of all of them."""
    plan = Trainer(make_trio(world), world.past, config(batch_size=4096)).plan

    assert plan.batch_size == len(plan.train)
    assert plan.steps_per_epoch == 1


# -- splits ----------------------------------------------------------------------------------------


def test_splits_follow_the_user(world: World) -> None:
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


def test_training_never_draws_validation_users(world: World) -> None:
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


# -- validation and early stopping -----------------------------------------------------------------


@pytest.mark.parametrize("dropout", [False, True])
def test_validation_changes_nothing(world: World, dropout: bool) -> None:
    """Scoring leaves weights, buffers, mode and random numbers alone, and repeats itself."""
    trio = make_trio(world, encoder=AWKWARD, objective={"dropout_in_validation": dropout})
    trainer = Trainer(trio, world.past, config())
    before, random = weights(trainer), torch.get_rng_state()

    first = trainer.score(trainer.plan.valid, "validation")
    second = trainer.score(trainer.plan.valid, "validation")

    assert first == second
    assert first != trainer.score(trainer.plan.valid, "another")
    assert_equal(weights(trainer), before)
    assert torch.equal(torch.get_rng_state(), random)
    assert trainer.module.training


@pytest.mark.parametrize("dropout", [False, True])
def test_how_often_one_validates_does_not_matter(
    world: World, tmp_path: Path, dropout: bool
) -> None:
    """The weights after the last step are those of a run that never validates in between."""
    objective = {"dropout_in_validation": dropout}
    runs = []
    for number, every in enumerate((1, 3, 1000)):
        disk = Disk(tmp_path / str(number), world)
        training = {"validate_every": every, "checkpoint_every": 8}
        fit(world, disk, encoder=AWKWARD, objective=objective, training=training)
        opened = open_checkpoint(disk.steps[-1])
        runs.append({**opened.tensors("encoder"), **opened.tensors("objective")})

    assert_equal(runs[1], runs[0])
    assert_equal(runs[2], runs[0])


def test_validation_is_in_eval_unless_dropout_makes_the_views(world: World) -> None:
    """Dropout is off in validation, and on where the objective asks for it."""
    plain = Trainer(make_trio(world, encoder={"dropout": 0.9}), world.past, config())
    noisy = Trainer(
        make_trio(world, encoder={"dropout": 0.9}, objective={"dropout_in_validation": True}),
        world.past,
        config(),
    )
    modes: list[bool] = []
    for trainer in (plain, noisy):
        hook = trainer.module.register_forward_pre_hook(lambda m, _: modes.append(m.training))
        trainer.score(trainer.plan.valid, "validation")
        hook.remove()

    assert set(modes[: len(modes) // 2]) == {False}
    assert set(modes[len(modes) // 2 :]) == {True}


def test_the_best_weights_are_kept(world: World, tmp_path: Path) -> None:
    """With a learning rate that only does harm, the end has the weights of the first validation."""
    disk = Disk(tmp_path, world)
    training = {"learning_rate": 1.0, "checkpoint_every": 2, "max_steps": 12}
    trainer, records = fit(world, disk, training=training)

    losses = {r.step: r.values["loss"] for r in records if r.kind == "validation"}
    best = min(losses, key=losses.get)
    assert best < 12
    assert records[-1].values["best_step"] == best
    assert records[-1].values["best_loss"] == losses[best]
    then = next(open_checkpoint(p) for p in disk.steps if open_checkpoint(p).manifest.step == best)
    assert_equal(
        weights(trainer),
        {
            f"{part}.{name}": value
            for part in ("encoder", "objective")
            for name, value in then.tensors(part).items()
        },
    )


def test_patience_ends_the_training(world: World) -> None:
    """Two validations without a new best are enough."""
    training = {"learning_rate": 1.0, "patience": 2, "max_steps": 1000}
    _, records = fit(world, training=training)

    losses = [record.values["loss"] for record in records if record.kind == "validation"]
    best = losses.index(min(losses))
    assert len(losses) == best + 3
    assert records[-1].kind == "end"
    assert records[-1].step == 2 * len(losses) < 1000


def test_without_validation_the_last_weights_remain(world: World) -> None:
    """No validation share: nothing is judged, the end has the last step's weights."""
    _, records = fit(world, training={"validation": 0, "patience": 1})

    assert [r for r in records if r.kind == "validation"] == []
    assert records[-1].values == {"best_step": 8.0, "steps": 8.0}


def test_test_users_are_scored_once_with_the_best_weights(world: World) -> None:
    """The end tells loss and metrics on the test share, of the weights that remain."""
    trainer, records = fit(world, training={"test": 0.2})
    assert not trainer.module.training

    again = trainer.score(trainer.plan.test, "test")
    assert records[-1].values["test_loss"] == again["loss"]


def test_minutes_end_the_training(world: World) -> None:
    """A limit that has passed ends the training at the next record."""
    _, records = fit(world, training={"max_minutes": 1e-9, "max_steps": None, "log_every": 4})

    assert records[-1].kind == "end"
    assert records[-1].step == 4


# -- what a step does ------------------------------------------------------------------------------


def test_training_repeats(world: World) -> None:
    """The same seed gives the same weights, another one others."""
    one, two = (fit(world, encoder=AWKWARD)[0] for _ in range(2))
    other, _ = fit(world, encoder=AWKWARD, training={"seed": 1})

    assert_equal(weights(one), weights(two))
    assert not torch.equal(
        weights(one)["encoder.turn.weight"], weights(other)["encoder.turn.weight"]
    )


def test_training_learns(world: World) -> None:
    """A hundred steps bring the loss of the trained users down by a fifth."""
    training = {"max_steps": 100, "validation": 0, "log_every": 10}
    _, records = fit(world, training=training)

    losses = [record.values["loss"] for record in records if record.kind == "step"]
    assert losses[-1] < 0.8 * losses[0]


def test_a_frozen_encoder_stays_as_it_is(world: World) -> None:
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


def test_penalties_join_the_loss(world: World) -> None:
    """The encoder's terms over all chunks are logged, and weights follow them."""
    with_term, records = fit(world, encoder={"penalty": True})
    without, _ = fit(world)

    assert "spread" in records[1].values
    assert not torch.equal(
        weights(with_term)["encoder.turn.weight"], weights(without)["encoder.turn.weight"]
    )


def test_gradients_are_clipped(world: World) -> None:
    """No step goes with a larger gradient than clip_norm; null leaves it alone."""

    def norm(trainer: Trainer) -> float:
        squares = [p.grad.square().sum() for p in trainer.module.parameters() if p.grad is not None]
        return math.sqrt(float(sum(squares)))

    clipped, _ = fit(world, training={"clip_norm": 0.01})
    free, _ = fit(world, training={"clip_norm": None})

    assert norm(clipped) == pytest.approx(0.01, rel=1e-3)
    assert norm(free) > 0.1


# -- failures --------------------------------------------------------------------------------------


def failure(world: World, **settings: Any) -> UnirepError:
    with pytest.raises(UnirepError) as caught:
        fit(world, **settings)
    assert "\n" not in str(caught.value)
    return caught.value


def test_a_loss_that_is_no_number_is_one_line(world: World) -> None:
    """NaN stops the training and says what to lower."""
    error = failure(world, objective={"terms": "nan"})

    assert isinstance(error, TrainingError)
    assert str(error) == (
        "the loss is nan at step 1; lower training.learning_rate, or set training.clip_norm"
    )


def test_nan_never_reaches_a_checkpoint(world: World, tmp_path: Path) -> None:
    """Between two logged steps a checkpoint is due: it is refused, the earlier one stays."""
    disk = Disk(tmp_path, world)
    training = {"log_every": 100, "validation": 0, "checkpoint_every": 2, "max_steps": 50}

    with pytest.raises(TrainingError, match="the loss is nan at step 4"):
        fit(world, disk, objective={"nan_after": 40}, training=training)

    assert [path.name for path in disk.saved] == ["0-2"]


def test_nobody_eligible_is_one_line(world: World) -> None:
    """A sampler that finds too few units is told, with what to change."""
    error = failure(world, sampler={"min_events": 1000})

    assert isinstance(error, TrainingError)
    assert str(error).startswith(
        "0 units to train on: sampler 'lab' finds 0 eligible among 90 users, of which 0 are for "
        "validation and 0 for the test; wanted at least 2; give more events, "
    )


def test_a_split_that_leaves_nobody_is_one_line(world: World) -> None:
    """Where validation takes them all the numbers say so."""
    error = failure(world, training={"validation": 0.99})

    assert "units to train on: sampler 'lab' finds" in str(error)
    assert "lower training.validation" in str(error)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"objective": {"terms": "raise"}},
            "objective 'lab' failed in forward at step 1: ValueError: no way",
        ),
        ({"objective": {"terms": "none"}}, "objective 'lab' returned terms none; wanted at least"),
        ({"objective": {"terms": "vector"}}, "objective 'lab' returned terms contrast: (1,);"),
        (
            {"objective": {"terms": "clash"}, "encoder": {"penalty": True}},
            "the encoder's penalties and the objective's terms share the names spread",
        ),
        (
            {"encoder": {"fails": "raise"}},
            "encoder 'lab' failed in forward at step 1: RuntimeError: the flux capacitor is empty",
        ),
        (
            {"sampler": {"fails": "raise"}},
            "sampler 'lab' failed in sample at step 1: KeyError: 'lost'",
        ),
        ({"sampler": {"fails": "view"}}, "sampler 'lab' drew no view b, which it declares"),
        ({"sampler": {"fails": "units"}}, "sampler 'lab': units() returned list; wanted (n,)"),
        ({"training": {"device": "gpu"}}, "device 'gpu': wanted auto, cpu, cuda or cuda:N"),
        ({"training": {"device": "meta"}}, "device 'meta': wanted auto, cpu, cuda or cuda:N"),
        ({"training": {"device": "cuda:99"}}, "device 'cuda:99': this torch"),
    ],
)
def test_what_plugins_get_wrong_is_one_line(
    world: World, settings: dict[str, Any], message: str
) -> None:
    """A failing or faulty part is named with what it did."""
    error = failure(world, **settings)

    assert isinstance(error, PluginError | TrainingError)
    assert message in str(error)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (torch.tensor([0, 90]), "units() returned rows 0 to 90; there are 90 users"),
        (torch.tensor([-1, 3]), "units() returned rows -1 to 3; there are 90 users"),
        (torch.tensor([[1]]), "units() returned (1, 1) torch.int64; wanted (n,) int64"),
        (torch.tensor([1.0]), "units() returned (1,) torch.float32; wanted (n,) int64"),
    ],
)
def test_units_must_be_user_rows(world: World, rows: Tensor, message: str) -> None:
    """What a sampler calls units is checked before anything is drawn."""
    trio = make_trio(world)
    trio.sampler.units = lambda sequences: rows

    with pytest.raises(ContractError) as caught:
        Trainer(trio, world.past, config())

    assert message in str(caught.value)


def test_nothing_to_train_is_one_line(world: World) -> None:
    """A frozen encoder under an objective without parameters cannot be trained."""
    trio = make_trio(world, objective={"trains_encoder": False})
    for parameter in trio.objective.parameters():
        parameter.requires_grad_(False)

    with pytest.raises(TrainingError, match="have no parameter to train"):
        Trainer(trio, world.past, config())


# -- resume ----------------------------------------------------------------------------------------

#: By name: settings of the parts, and of the training.
RUNS: dict[str, dict[str, Any]] = {
    "plain": {},
    "dropout and batch norm": {"encoder": AWKWARD, "objective": {"dropout_in_validation": True}},
    "best in the middle": {"training": {"learning_rate": 1.0, "max_steps": 12}},
    "early stop": {"training": {"learning_rate": 1.0, "patience": 2, "max_steps": 1000}},
    "several epochs": {"training": {"batch_size": 30, "max_steps": 10}},
    "penalty and weight decay": {
        "encoder": {"penalty": True, "dropout": 0.2},
        "training": {"weight_decay": 0.1, "clip_norm": None},
    },
    "frozen": {"encoder": AWKWARD, "objective": {"trains_encoder": False}},
    "unused parameter": {"encoder": {"unused": True}, "training": {"validation": 0}},
}


def resume_from(
    world: World, path: Path, save: Any = None, **settings: Any
) -> tuple[Trainer, list[Record]]:
    """Resume with parts of other initial weights: everything must come from the checkpoint."""
    training = settings.pop("training", {})
    trio = make_trio(world, seed=99, **settings)
    trainer = Trainer(trio, world.past, config(**training), save)
    torch.manual_seed(12345)
    return trainer, list(trainer.run(open_checkpoint(path)))


@pytest.mark.parametrize("name", RUNS)
def test_a_run_resumes_from_every_checkpoint(world: World, tmp_path: Path, name: str) -> None:
    """From each checkpoint the rest of the run ends in the same weights and the same numbers."""
    settings = RUNS[name]
    training = {"checkpoint_every": 1, **settings.get("training", {})}
    settings = {**settings, "training": training}
    disk = Disk(tmp_path, world)
    unbroken, records = fit(world, disk, **settings)
    wanted = weights(unbroken)
    assert len(disk.steps) == records[-1].step

    for path in disk.steps:
        resumed, rest = resume_from(world, path, **settings)

        assert_equal(weights(resumed), wanted)
        assert rest[-1].step == records[-1].step
        assert rest[-1].values == records[-1].values
        done = open_checkpoint(path).manifest.step
        losses = {r.step: r.values["loss"] for r in records if r.kind == "step" and r.step > done}
        assert {r.step: r.values["loss"] for r in rest if r.kind == "step"} == losses


@pytest.mark.parametrize("killed_at", range(1, 17))
def test_a_run_killed_anywhere_resumes(world: World, tmp_path: Path, killed_at: int) -> None:
    """Stopped after any record, resumed from its last checkpoint or begun anew: same weights."""
    settings = RUNS["dropout and batch norm"]
    wanted = weights(fit(world, **settings)[0])
    disk = Disk(tmp_path, world)
    trainer = Trainer(make_trio(world, **settings), world.past, config(), disk)
    list(itertools.islice(trainer.run(), killed_at))

    if disk.steps:
        resumed, _ = resume_from(world, disk.steps[-1], **settings)
    else:
        resumed, _ = fit(world, **settings)

    assert_equal(weights(resumed), wanted)


def test_a_run_may_be_killed_again_and_again(world: World, tmp_path: Path) -> None:
    """A run that survives one checkpoint per session ends like one that was never stopped."""
    settings = RUNS["dropout and batch norm"]
    wanted = weights(fit(world, training={"checkpoint_every": 2}, **settings)[0])
    disk = Disk(tmp_path, world)
    last: Checkpoint | None = None
    for _ in range(20):
        trio = make_trio(world, seed=7 if last else 0, **settings)
        trainer = Trainer(trio, world.past, config(checkpoint_every=2), disk)
        ended = False
        for record in trainer.run(last):
            ended = record.kind == "end"
            if record.kind == "checkpoint":
                last = open_checkpoint(disk.steps[-1])
                break
        if ended:
            break

    assert ended
    assert len(disk.steps) == 4
    assert_equal(weights(trainer), wanted)


def test_seconds_go_on_from_where_they_were(world: World, tmp_path: Path) -> None:
    """A resumed run's clock includes the sessions before."""
    disk = Disk(tmp_path, world)
    fit(world, disk)
    manifest = open_checkpoint(disk.steps[0]).manifest
    spent = manifest.trainer["seconds"]
    assert spent > 0

    _, records = resume_from(world, disk.steps[0])

    assert records[0].seconds >= spent
    assert records[0].step == 3


def test_another_log_cannot_be_resumed_on(world: World, tmp_path: Path) -> None:
    """Events that changed since the run began are noticed; both counts are told."""
    disk = Disk(tmp_path, world)
    fit(world, disk)
    less = world.past.before(world.until - 5 * 86_400_000_000)

    with pytest.raises(TrainingError) as caught:
        list(Trainer(make_trio(world), less, config()).run(open_checkpoint(disk.steps[0])))

    assert "cannot resume: the run began on 90 users, " in str(caught.value)
    assert "restore the log, or train anew without --resume" in str(caught.value)


# -- compiled, and on a GPU ------------------------------------------------------------------------


@pytest.mark.slow
def test_a_compiled_encoder_trains_alike(world: World) -> None:
    """torch.compile changes speed, and losses by rounding only; the state has the same names."""
    plain, wanted = fit(world, training={"max_steps": 4})
    compiled, found = fit(world, training={"max_steps": 4, "compile": True})

    assert weights(compiled).keys() == weights(plain).keys()
    losses = [r.values["loss"] for r in wanted if r.kind in ("step", "validation")]
    assert [r.values["loss"] for r in found if r.kind in ("step", "validation")] == pytest.approx(
        losses, rel=1e-3
    )


@pytest.mark.gpu
@pytest.mark.parametrize("bf16", [False, True])
def test_training_on_a_gpu_learns_and_resumes(world: World, tmp_path: Path, bf16: bool) -> None:
    """On CUDA the loop trains, checkpoints, and resumes to weights close to the unbroken run's."""
    training = {"device": "cuda", "bf16": bf16, "max_steps": 40, "checkpoint_every": 20}
    disk = Disk(tmp_path, world)
    trainer, records = fit(world, disk, encoder=AWKWARD, training=training)
    resumed, _ = resume_from(world, disk.steps[0], encoder=AWKWARD, training=training)

    assert next(trainer.module.parameters()).device.type == "cuda"
    steps = [record for record in records if record.kind == "step"]
    assert steps[-1].values["loss"] < steps[0].values["loss"]
    tolerance = 5e-2 if bf16 else 1e-3
    for name, value in weights(trainer).items():
        torch.testing.assert_close(weights(resumed)[name], value, rtol=tolerance, atol=tolerance)


def test_numbers_come_out_of_losses() -> None:
    """The sum of terms is the loss, whatever terms and metrics are called."""
    losses = Losses(
        {"loss": torch.tensor(1.0), "other": torch.tensor(2.0)}, {"other": torch.tensor(9.0)}
    )

    assert values_of(losses) == {"loss": 3.0, "other": 2.0}
