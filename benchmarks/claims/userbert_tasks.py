"""UserBERT's claims: logs and impressions, pre-training, fine-tuning, scores (section 4.1).

- `recommendation`: ML-100K, all users. Events are the first 60 % of each user's moments. Of the
  next 20 % up to eight events per user are impressions to train on, of the last 20 % up to five to
  test on: what was watched, beside 4 (training) or 19 (test) films that the user never watches,
  drawn as often as others watch them in the same part of the log. So popularity tells nothing.
  Scores: AUC and nDCG@10 per impression.
- `ctr`: MIND small, all users. Events are the clicks of their histories, which have an order and no
  time: they are spread evenly over the four weeks before the first impression. Impressions before
  2019-11-14 train, those of that day test; one skipped item per click. Scores: AUC and average
  precision over all test rows. Five of six items that are shown are in no history, and one of
  thirty has a title.

Sizes are small on purpose: one core, seconds to a minute per training (SETTINGS).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn

from unirep_feast.config import TrainingConfig
from unirep_feast.events import TIME_TYPE, read_events
from unirep_feast.instants import MICROSECONDS_PER_DAY, parse_instant
from unirep_feast.packing import pack
from unirep_feast.plugins import load_plugins
from unirep_feast.sequences import Sequences, fit_vocabulary
from unirep_feast.spec_file import parse_spec
from unirep_feast.trainer import Trainer
from unirep_feast.trio import Trio, build_trio, choose

SETTINGS: dict[str, Any] = {
    "encoder": {"preset": "bert4rec", "dim": 32, "heads": 4, "query": 32, "max_events": 30},
    "pretraining": {"batch_size": 32, "learning_rate": 0.003, "max_steps": 1000, "validation": 0},
    "finetuning": {
        "batch_size": 64,
        "learning_rate": 0.001,
        "max_steps": 600,
        "validate_every": 50,
        "patience": 3,
        "validation": 0.1,
    },
}

#: What fine-tuning is called in the plugin, and what is scored.
TASKS: dict[str, tuple[str, tuple[str, str]]] = {
    "recommendation": ("userbert.news", ("auc", "ndcg_at_10")),
    "ctr": ("userbert.ctr", ("auc", "average_precision")),
}

State = dict[str, Tensor]


class Task(NamedTuple):
    """A log that is cut for pre-training, and files of later impressions."""

    name: str
    past: Sequences
    log: Sequences
    train: Path
    test: Path


def task_of(name: str, data: Path, work: Path) -> Task:
    """Build the log and the impressions of a task, the same for everyone who asks."""
    work.mkdir(parents=True, exist_ok=True)
    paths = {part: work / f"{name}_{part}.parquet" for part in ("past", "log", "train", "test")}
    tables = (_movies if name == "recommendation" else _news)(data)
    for part, path in paths.items():
        pq.write_table(tables[part], path)
    packed = {part: pack(read_events(_spec(paths[part]))) for part in ("past", "log")}
    whole = packed["log"]
    vocabulary = fit_vocabulary(whole, until=int(whole.times.max()) + 1)
    past, log = (Sequences.from_packed(packed[part], vocabulary) for part in ("past", "log"))
    # Impressions come after the last event of a log.
    return Task(name, past, log.before(parse_instant("2100-01-01")), paths["train"], paths["test"])


def trio_of(task: Task, parts: dict[str, Any]) -> Trio:
    """Build the encoder of SETTINGS, from random weights, with an objective and a sampler."""
    spec = _spec(Path(), {"encoder": {"settings": SETTINGS["encoder"]}, **parts})
    return build_trio(choose(spec, load_plugins()), task.past.vocabulary, task.past.items, {})


def pretrain(task: Task, parts: dict[str, Any], seed: int) -> State:
    """Train on events without labels; returns the encoder's weights."""
    torch.manual_seed(seed)
    trio = trio_of(task, parts)
    for _ in Trainer(trio, task.past, training_of("pretraining", seed)).run():
        pass
    assert isinstance(trio.encoder, nn.Module)
    return trio.encoder.state_dict()


def finetune(task: Task, share: float, seed: int, weights: State | None) -> dict[str, Any]:
    """Train on the impressions of a share of the users, score on everybody's later ones."""
    part, metrics = TASKS[task.name]
    table = {"path": str(task.train), "share": share}
    torch.manual_seed(seed)
    trio = trio_of(
        task, {"objective": {"name": part}, "sampler": {"name": part, "settings": table}}
    )
    assert isinstance(trio.encoder, nn.Module)
    if weights is not None:
        trio.encoder.load_state_dict(weights)
    trainer = Trainer(trio, task.log, training_of("finetuning", seed))
    last = next(record for record in trainer.run() if record.kind == "end")
    tested = {"name": part, "settings": {"path": str(task.test)}}
    trio.sampler = trio_of(task, {"objective": {"name": part}, "sampler": tested}).sampler
    # One batch: AUC and average precision of clicks are over all rows, not means of batches.
    config = TrainingConfig(batch_size=100_000, validation=0, seed=seed, device="cpu", threads=1)
    tester = Trainer(trio, task.log, config)
    scores = tester.score(torch.arange(len(tester.plan.rows)), "test")
    return {
        **{name: round(scores[name], 4) for name in metrics},
        "impressions": len(trainer.plan.rows),
        "tested": len(tester.plan.rows),
        "best_step": int(last.values["best_step"]),
    }


def training_of(name: str, seed: int) -> TrainingConfig:
    return TrainingConfig(seed=seed, device="cpu", threads=1, **SETTINGS[name])


def _spec(path: Path, parts: dict[str, Any] | None = None) -> Any:
    events = {"path": str(path.resolve())}
    spec = {"name": "claims", "plugin": "userbert", "events": events, **(parts or {})}
    return parse_spec(spec, "")


def _movies(data: Path) -> dict[str, pa.Table]:
    """ML-100K cut at 60 and 80 % of each user's moments, and impressions out of the rest."""
    columns = ["user_id", "item_id", "event_timestamp"]
    events = pq.read_table(data / "ml-100k" / "events.parquet", columns=columns)
    events = events.sort_by([(name, "ascending") for name in ("user_id", *columns[2:], "item_id")])
    user, item = (events[name].to_numpy() for name in columns[:2])
    when = events["event_timestamp"].cast(TIME_TYPE).cast(pa.int64()).to_numpy()
    # Ranks of a user's moments: events of one time stay on one side of a cut.
    fresh = np.diff(user, prepend=-1) != 0
    moment = np.cumsum(fresh | (np.diff(when, prepend=-1) != 0))
    first = np.maximum.accumulate(np.where(fresh, moment, 0))
    place = moment - first
    row = np.cumsum(fresh) - 1
    size = np.zeros(row[-1] + 1, np.int64)
    np.maximum.at(size, row, place + 1)
    at = place / size[row]
    random = np.random.default_rng(0)
    seen = np.zeros((user.max() + 1, item.max() + 1), bool)
    seen[user, item] = True
    parts = {}
    for name, low, high, most, others in (("train", 0.6, 0.8, 8, 4), ("test", 0.8, 1.0, 5, 19)):
        inside = np.flatnonzero((at >= low) & (at < high))
        shuffled = random.permutation(inside)
        shuffled = shuffled[np.argsort(user[shuffled], kind="stable")]
        begins = np.flatnonzero(np.diff(user[shuffled], prepend=-1))
        rank = np.arange(len(shuffled)) - np.repeat(begins, np.diff([*begins, len(shuffled)]))
        picked = shuffled[rank < most]
        # One impression is one user and one time; two events at once would be one.
        _, single = np.unique(np.stack((user[picked], when[picked])), axis=1, return_index=True)
        picked = picked[np.sort(single)]
        drawn = _strangers(seen, user[picked], item[inside], others, random)
        parts[name] = _shown(user[picked], when[picked], item[picked], drawn)
    log = events.select(columns)
    return {"past": log.filter(pa.array(at < 0.6)), "log": log, **parts}


def _strangers(
    seen: np.ndarray, user: np.ndarray, popular: np.ndarray, count: int, random: Any
) -> np.ndarray:
    """(n, count) items that each user never meets, drawn as often as they occur in `popular`."""
    drawn = random.choice(popular, (len(user), count))
    while (bad := seen[user[:, None], drawn]).any():
        drawn[bad] = random.choice(popular, int(bad.sum()))
    return drawn


def _shown(user: np.ndarray, when: np.ndarray, item: np.ndarray, others: np.ndarray) -> pa.Table:
    """Rows of impressions: the item that was met and those that were not, at one time."""
    width = 1 + others.shape[1]
    items = np.concatenate((item[:, None], others), 1)
    return pa.table(
        {
            "user_id": np.repeat(user, width),
            "item_id": items.reshape(-1),
            "event_timestamp": pa.array(np.repeat(when, width)).cast(TIME_TYPE),
            "clicked": (np.arange(items.size) % width) == 0,
        }
    )


def _news(data: Path) -> dict[str, pa.Table]:
    """MIND small: clicks of histories with times made up, and impressions cut at the last day."""
    table = pq.read_table(data / "mind-small" / "events.parquet")
    read = table.filter(pc.equal(table["event_type"], "history_click"))
    read = read.sort_by([("user_id", "ascending"), ("seq_pos", "ascending")])
    codes = read["user_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    counts = np.bincount(codes)
    begins = np.concatenate(([0], np.cumsum(counts)[:-1]))
    place = (np.arange(len(codes)) - begins[codes] + 0.5) / counts[codes]
    span = 28 * MICROSECONDS_PER_DAY
    when = parse_instant("2019-11-09") - span + (place * span).astype(np.int64)
    past = pa.table(
        {
            "user_id": read["user_id"],
            "item_id": read["item_id"],
            "event_timestamp": pa.array(when).cast(TIME_TYPE),
        }
    )
    shown = table.filter(pc.not_equal(table["event_type"], "history_click"))
    shown = shown.append_column("clicked", pc.equal(shown["event_type"], "impression_click"))
    shown = shown.select(["user_id", "item_id", "event_timestamp", "clicked"])
    last = pc.greater_equal(
        shown["event_timestamp"], pa.scalar(parse_instant("2019-11-14"), TIME_TYPE)
    )
    clicks = shown.filter(pc.and_(shown["clicked"], pc.invert(last))).drop_columns("clicked")
    clicks = clicks.cast(past.schema)
    log = pa.concat_tables([past, clicks])
    return {
        "past": past,
        "log": log,
        "train": shown.filter(pc.invert(last)),
        "test": shown.filter(last),
    }
