"""From an event log to user vectors out of Feast, with the commands one would type.

    make quickstart                      real purchases where ../shared/data has them,
                                         else a synthetic world
    make quickstart EVENTS=log.parquet   your own: user_id, item_id, event_timestamp

Everything lands in ./quickstart, which is made anew. The question asked of the vectors: who comes
back in the weeks after a date? A classifier learns it at one date and is judged at a later one.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.dataset as ds
import yaml
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
COLUMNS = ["user_id", "event_timestamp"]


def main() -> None:
    """Run all steps and print what they did."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--events", type=Path, help="parquet file, folder or glob")
    arguments.add_argument("--folder", type=Path, default=Path("quickstart"))
    arguments.add_argument("--minutes", type=float, default=1.5, help="for training, at most")
    options = arguments.parse_args()
    started = time.monotonic()
    repo = options.folder.resolve()
    shutil.rmtree(repo, ignore_errors=True)
    shutil.copytree(
        ROOT / "feature_repo", repo, ignore=shutil.ignore_patterns("data", "__pycache__")
    )
    (repo / "data").mkdir()

    events, items = find_events(options.events, repo)
    log = ds.dataset(events).to_table(columns=COLUMNS).to_pandas()
    learn, judge, horizon = choose_dates(log)
    say(
        f"{len(log):,} events of {log.user_id.nunique():,} users, "
        f"{log.event_timestamp.min():%F} to {log.event_timestamp.max():%F}; "
        f"the model may see what was before {learn:%F}"
    )
    spec = write_spec(repo, events, items, learn, options.minutes)

    run(repo, "unirep", "train", spec)
    run(repo, "feast", "apply")
    run(repo, "unirep", "encode", spec, "--as-of", learn.isoformat())
    run(repo, "feast", "materialize", learn.isoformat(), judge.isoformat())

    say("\nDownstream: who comes back? Point-in-time vectors from Feast, then a linear classifier.")
    compare(repo, log, learn, judge, horizon)
    fetch_online(repo, log, judge)
    say(
        f"\nDone in {time.monotonic() - started:.0f} s. The feature repo is {options.folder}/, the "
        f"spec {options.folder}/{spec}; change it and run the commands above again."
    )


def find_events(given: Path | None, repo: Path) -> tuple[str, str | None]:
    """Use the given log, real purchases, or a synthetic world."""
    if given is not None:
        return str(given.resolve()), None
    real = Path(os.environ.get("UNIREP_DATA", ROOT.parent / "shared" / "data")) / "online-retail"
    if real.is_dir():
        say("using real purchases: the UCI Online Retail data set")
        return str(real / "events.parquet"), str(real / "items.parquet")
    say("no real data found: making a synthetic world")
    run(repo, "unirep", "data", "synth", "data/world", "--users", "5000", "--seed", "7")
    return str(repo / "data/world/events.parquet"), str(repo / "data/world/items.parquet")


def choose_dates(log: pd.DataFrame) -> tuple[pd.Timestamp, pd.Timestamp, timedelta]:
    """Leave two equal stretches at the end: one to learn the question from, one to judge by."""
    first, last = log.event_timestamp.min(), log.event_timestamp.max()
    horizon = min(timedelta(days=60), ((last - first) / 5).to_pytimedelta())
    judge = (last - horizon).floor("s")
    return (judge - horizon).floor("s"), judge, horizon


def write_spec(
    repo: Path, events: str, items: str | None, until: pd.Timestamp, minutes: float
) -> str:
    """Point the feature repo's spec at the log, and stop training before the first date."""
    path = repo / "purchases_clue.yaml"
    spec = yaml.safe_load(path.read_text())
    spec["events"]["path"] = events
    spec["items"] = {"path": items} if items else None
    spec["training"] |= {"until": until.isoformat(), "max_minutes": minutes}
    path.write_text(yaml.safe_dump(spec, sort_keys=False))
    return path.name


def compare(
    repo: Path, log: pd.DataFrame, learn: pd.Timestamp, judge: pd.Timestamp, horizon: timedelta
) -> None:
    """Learn who comes back at one date, judge at the later one, with and without the vectors."""
    from feast import FeatureStore

    from unirep_feast.feature_store.torch_data import user_vectors

    store = FeatureStore(str(repo))
    sides = {}
    for name, when in (("learn", learn), ("judge", judge)):
        known = activity(log, when)
        after = log[(log.event_timestamp >= when) & (log.event_timestamp < when + horizon)]
        label = known.index.isin(after.user_id.unique()).astype(int)
        entities = pd.DataFrame({"user_id": known.index, "event_timestamp": when})
        found = user_vectors(store, "purchases_clue", entities)
        present = found.mask.numpy()
        vectors = found.vectors.numpy()[present]
        sides[name] = (known.to_numpy()[present], vectors, label[present])
    (counts, vectors, label), (counts2, vectors2, label2) = sides["learn"], sides["judge"]
    say(
        f"  {label.mean():.0%} of {len(label):,} users came back after {learn:%F}, "
        f"{label2.mean():.0%} of {len(label2):,} after {judge:%F}"
    )
    both, both2 = np.hstack([counts, vectors]), np.hstack([counts2, vectors2])
    rows = {
        "no vectors: number of events and recency": (counts, counts2),
        "vectors alone": (vectors, vectors2),
        "vectors, number of events and recency": (both, both2),
    }
    for name, (seen, unseen) in rows.items():
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.02, max_iter=2000))
        score = model.fit(seen, label).predict_proba(unseen)[:, 1]
        say(f"  AUC {roc_auc_score(label2, score):.3f}  {name}")


def activity(log: pd.DataFrame, when: pd.Timestamp) -> pd.DataFrame:
    """What one knows of users without vectors: how many events, and how long ago the last was."""
    past = log[log.event_timestamp < when].groupby("user_id").event_timestamp
    days = (when - past.max()).dt.total_seconds() / 86_400
    return pd.DataFrame({"events": np.log1p(past.size()), "days_since": np.log1p(days)})


def fetch_online(repo: Path, log: pd.DataFrame, judge: pd.Timestamp) -> None:
    """Fetch three users the way a service does, one of them unknown."""
    from feast import FeatureStore

    from unirep_feast.feature_store.torch_data import online_user_vectors

    users = list(log[log.event_timestamp < judge].user_id.unique()[:2])
    unknown = -1 if isinstance(users[0], int | np.integer) else "nobody"
    found = online_user_vectors(FeatureStore(str(repo)), "purchases_clue", [*users, unknown])
    say(
        "\nOnline: "
        + ", ".join(
            f"{user}: {np.round(vector[:3], 3).tolist()}…" if known else f"{user}: no vector"
            for user, vector, known in zip(
                [*users, unknown], found.vectors.numpy(), found.mask.tolist(), strict=True
            )
        )
    )


def run(repo: Path, *command: str) -> None:
    """Run a command of this environment in the feature repo, showing it."""
    say("\n$ " + " ".join(command))
    began = time.monotonic()
    subprocess.run([BIN / command[0], *command[1:]], cwd=repo, check=True)
    say(f"  ({time.monotonic() - began:.1f} s)")


def say(line: str) -> None:
    """Print at once, so that lines of commands and ours keep their order."""
    print(line, flush=True)


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        sys.exit(f"quickstart stopped: {' '.join(map(str, error.cmd[1:]))!r} failed, see above")
