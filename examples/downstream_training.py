"""A small torch model on user vectors as they were known when each label came to be.

    python examples/downstream_training.py               # under a minute, into ./downstream

A synthetic world of shoppers; a representation that saw nothing after a date; a snapshot of all
users' vectors every month from then on. The question: which category is the next purchase from?
Every purchase is a training row at its own time, and gets the vector of the latest snapshot before
it. The model learns from the earlier rows and is judged by the later ones, beside two guesses that
need no model.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import yaml
from feast import FeatureStore
from torch import Tensor, nn
from torch.utils.data import DataLoader

from unirep_feast.feature_store.torch_data import UserVectorDataset

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
VIEW = "purchases_clue"
MONTHS = 4


class NextCategory(nn.Module):
    """Two layers over a vector; who has none yet gets one that is learnt."""

    def __init__(self, width: int, categories: int) -> None:
        super().__init__()
        self.nobody = nn.Parameter(torch.zeros(width))
        self.layers = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 64), nn.ReLU(), nn.Linear(64, categories)
        )

    def forward(self, vectors: Tensor, mask: Tensor) -> Tensor:
        return self.layers(torch.where(mask[:, None], vectors, self.nobody))


def main() -> None:
    """Make the world and its vectors, then train on them."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--folder", type=Path, default=Path("downstream"))
    arguments.add_argument("--users", type=int, default=1000)
    arguments.add_argument("--minutes", type=float, default=0.15, help="for the representation")
    arguments.add_argument("--workers", type=int, default=0, help="that load batches")
    options = arguments.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)  # a model this small gains nothing from more
    started = time.monotonic()
    repo = options.folder.resolve()
    shutil.rmtree(repo, ignore_errors=True)
    ignored = shutil.ignore_patterns("data", "__pycache__")
    shutil.copytree(ROOT / "feature_repo", repo, ignore=ignored)
    run(repo, "unirep", "data", "synth", "data", "--users", str(options.users), "--seed", "7")
    log = pd.read_parquet(repo / "data/events.parquet")
    items = pd.read_parquet(repo / "data/items.parquet").set_index("item_id")
    category = items.category.str[-1]  # the narrowest of the path
    end = log.event_timestamp.max().floor("D")
    times = [end - pd.Timedelta(days=30 * month) for month in range(MONTHS, 0, -1)]
    publish(repo, times, options.minutes)

    rows = purchases(log, category, times)
    early, late = rows[rows.event_timestamp < times[-1]], rows[rows.event_timestamp >= times[-1]]
    store = FeatureStore(str(repo))
    learn = UserVectorDataset(store, VIEW, early, labels=["label"])
    judge = UserVectorDataset(store, VIEW, late, labels=["label"])
    say(
        f"\n{len(learn):,} purchases before {times[-1]:%F} to learn from, {len(judge):,} after it "
        f"to judge by; {int((~judge.columns['mask']).sum()):,} of the latter by users who had no "
        "vector yet"
    )
    categories = int(rows.label.max()) + 1
    model = NextCategory(learn.columns["vector"].shape[1], categories)
    fit(model, learn, options.workers)

    shown = {
        "the category bought most by all": guess_most_bought(early, late, categories),
        "the model, from the vectors": predict(model, judge),
        "the category the user bought most so far": guess_own_favourite(log, category, late),
    }
    for name, scores in shown.items():
        hits = [hit_rate(scores, judge.columns["label"], best) for best in (1, 5)]
        say(f"  right {hits[0]:.1%}, among the best five {hits[1]:.1%}: {name}")
    say(f"Done in {time.monotonic() - started:.0f} s.")


def publish(repo: Path, times: list[pd.Timestamp], minutes: float) -> None:
    """Train the representation on what was before the first time, and encode as of each."""
    path = repo / f"{VIEW}.yaml"
    spec = yaml.safe_load(path.read_text())
    spec["training"] |= {"until": times[0].isoformat(), "max_minutes": minutes}
    path.write_text(yaml.safe_dump(spec, sort_keys=False))
    run(repo, "unirep", "train", path.name)
    run(repo, "feast", "apply")
    when = [option for moment in times for option in ("--as-of", moment.isoformat())]
    run(repo, "unirep", "encode", path.name, *when)


def purchases(log: pd.DataFrame, category: pd.Series, times: list[pd.Timestamp]) -> pd.DataFrame:
    """Purchases since the first snapshot: user, time, and the category as a number."""
    since = log[log.event_timestamp >= times[0]]
    numbers = pd.Series(np.arange(category.nunique()), index=sorted(category.unique()))
    label = numbers.loc[category.loc[since.item_id]].to_numpy()
    return since[["user_id", "event_timestamp"]].assign(label=label).reset_index(drop=True)


def fit(model: NextCategory, learn: UserVectorDataset, workers: int, epochs: int = 15) -> None:
    """Minimise cross entropy, batch by batch as a DataLoader hands them out."""
    loader = DataLoader(learn, batch_size=256, shuffle=True, num_workers=workers)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)
    for epoch in range(epochs):
        losses = []
        for batch in loader:
            scores = model(batch["vector"], batch["mask"])
            loss = nn.functional.cross_entropy(scores, batch["label"])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        if epoch in (0, epochs - 1):
            say(f"  epoch {epoch + 1}: loss {np.mean(losses):.3f}")


def predict(model: NextCategory, judge: UserVectorDataset) -> Tensor:
    """Scores of each category for each row."""
    with torch.no_grad():
        return model(judge.columns["vector"], judge.columns["mask"])


def guess_most_bought(early: pd.DataFrame, late: pd.DataFrame, categories: int) -> Tensor:
    """The same scores for everyone: how often each category was bought."""
    counts = np.bincount(early.label, minlength=categories)
    return torch.from_numpy(counts).expand(len(late), -1)


def guess_own_favourite(log: pd.DataFrame, category: pd.Series, late: pd.DataFrame) -> Tensor:
    """How often the user bought of each category before the judged month: the raw log's answer."""
    past = log[log.event_timestamp < late.event_timestamp.min()]
    bought = pd.crosstab(past.user_id, category.loc[past.item_id].to_numpy())
    bought = bought.reindex(columns=sorted(category.unique()), fill_value=0)
    return torch.from_numpy(bought.reindex(late.user_id, fill_value=0).to_numpy())


def hit_rate(scores: Tensor, label: Tensor, best: int) -> float:
    """Share of rows whose label is among the best scores."""
    return float((scores.topk(best, dim=1).indices == label[:, None]).any(dim=1).float().mean())


def run(repo: Path, *command: str) -> None:
    """Run a command of this environment in the feature repo, showing it."""
    say("\n$ " + " ".join(command))
    subprocess.run([BIN / command[0], *command[1:]], cwd=repo, check=True)


def say(line: str) -> None:
    """Print at once, so that lines of commands and ours keep their order."""
    print(line, flush=True)


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        sys.exit(f"stopped: {' '.join(map(str, error.cmd[1:]))!r} failed, see above")
