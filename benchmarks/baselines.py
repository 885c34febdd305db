"""Every baseline, and `universal`, on gender (ML-1M) and churn (Online Retail): AUC of probes.

    python benchmarks/baselines.py                 # all, into benchmarks/results/baselines.json
    python benchmarks/baselines.py ml-1m tfidf als # some; what is in the results is not done again

Gender: vectors of whole histories. Churn: vectors as of 2011-09-01 of models trained before it; who
buys nothing in the 90 days from then on. Ten folds; logistic regression on standardised numbers,
its strength chosen by three folds within each, and gradient boosting.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from measuring import ROOT, data_folder, single_thread

sys.path.insert(0, str(ROOT / "examples" / "evaluation"))
from make_specs import write_specs

from unirep_feast.events import TIME_TYPE
from unirep_feast.files import atomic_path
from unirep_feast.instants import parse_instant
from unirep_feast.pipeline import encode, train
from unirep_feast.snapshot import read_vectors
from unirep_feast.spec_file import load_spec

RESULTS = ROOT / "benchmarks" / "results" / "baselines.json"
WORK = ROOT / "benchmarks" / "work" / "baselines"
DAY = 86_400_000_000

#: Where training ends and vectors are as of.
CUT_OFFS = {"ml-1m": "2003-03-01", "online-retail": "2011-09-01"}


def done() -> dict[str, Any]:
    """What has been measured so far."""
    found: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    return found


def labels(data_set: str) -> dict[Any, int]:
    """Label by user id."""
    folder = data_folder() / data_set
    if data_set == "ml-1m":
        users = pq.read_table(folder / "users.parquet", columns=["user_id", "gender"])
        gender = users["gender"].to_pylist()
        return {
            user: int(g == "F")
            for user, g in zip(users["user_id"].to_pylist(), gender, strict=True)
        }
    columns = ["user_id", "event_timestamp", "event_type"]
    events = pq.read_table(folder / "events.parquet", columns=columns)
    events = events.filter(pc.equal(events["event_type"], "purchase"))
    times = events["event_timestamp"].cast(TIME_TYPE).cast("int64").to_numpy()
    cut = parse_instant(CUT_OFFS[data_set])
    users = events["user_id"].to_pandas().to_numpy()
    known = set(users[times < cut])
    back = set(users[(times >= cut) & (times < cut + 90 * DAY)])
    return {user: int(user not in back) for user in known}


def vectors(data_set: str, spec_path: Path) -> tuple[list[Any], np.ndarray, float]:
    """Ids, vectors and seconds of training and encoding."""
    cut = parse_instant(CUT_OFFS[data_set])
    overrides = [f"training.until={CUT_OFFS[data_set]}", f"storage={WORK / data_set}"]
    spec = load_spec(spec_path, overrides)
    out = WORK / data_set / f"{spec_path.stem}.parquet"
    started = time.perf_counter()
    run = train(spec)
    encode(spec, cut, out=out, run=run.run)
    ids, found = read_vectors(out)
    return ids.to_pylist(), found, time.perf_counter() - started


def auc(x: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """Mean and deviation over ten folds, of both probes."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.linear_model import LogisticRegressionCV
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    scores: dict[str, list[float]] = {"logistic": [], "boosting": []}
    for fitted, tested in StratifiedKFold(10, shuffle=True, random_state=0).split(x, y):
        strengths = [1e-4, 1e-3, 1e-2, 1e-1]
        probes = {
            "logistic": make_pipeline(
                StandardScaler(),
                LogisticRegressionCV(
                    Cs=strengths,
                    cv=3,
                    scoring="roc_auc",
                    l1_ratios=(0,),
                    use_legacy_attributes=False,
                ),
            ),
            "boosting": HistGradientBoostingClassifier(
                learning_rate=0.05, max_iter=150, max_features=0.3, random_state=0
            ),
        }
        for name, probe in probes.items():
            probe.fit(x[fitted], y[fitted])
            scores[name].append(roc_auc_score(y[tested], probe.predict_proba(x[tested])[:, 1]))
    return {
        key: round(float(value), 4)
        for name, found in scores.items()
        for key, value in ((name, np.mean(found)), (f"{name}_std", np.std(found)))
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data_set", nargs="?", choices=[*CUT_OFFS])
    parser.add_argument("names", nargs="*")
    arguments = parser.parse_args()
    single_thread()
    for data_set in [arguments.data_set] if arguments.data_set else list(CUT_OFFS):
        label = labels(data_set)
        for path in write_specs(data_set, WORK / "specs" / data_set):
            key = f"{data_set}/{path.stem}"
            if key in done() or (arguments.names and path.stem not in arguments.names):
                continue
            ids, found, seconds = vectors(data_set, path)
            kept = np.array([user in label for user in ids])
            y = np.array([label[user] for user in ids if user in label])
            result = {
                "numbers": found.shape[1],
                "users": int(kept.sum()),
                "positive": round(float(y.mean()), 4),
                "seconds": round(seconds, 1),
                **auc(found[kept], y),
                "date": time.strftime("%Y-%m-%d", time.gmtime()),
            }
            results = {**done(), key: result}  # another process may have added some
            with atomic_path(RESULTS) as path_of_results:
                text = json.dumps(dict(sorted(results.items())), indent=1) + "\n"
                path_of_results.write_text(text)
            print(key, result, flush=True)


if __name__ == "__main__":
    main()
