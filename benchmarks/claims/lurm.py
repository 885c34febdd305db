"""Claims of LURM: against its own bag of interests, fewer anchors, one scale, a short window.

`unirep train` and `unirep encode --as-of T --out`, then a logistic probe on frozen vectors, five
stratified folds, ROC AUC:

- ML-1M, T after the last event: gender, a profile.
- Online Retail, T = 2011-09-01: who, of those who buy anything afterwards, buys something with one
  of five words in its title; the mean over the words. A category preference.

    python benchmarks/claims/lurm.py [--seeds 5] [--data ../shared/data] [--variants lurm,boi]

What the paper says: LURM beats the bag where item vectors are weak (word2vec) and comes close to it
where they are good; ten anchors beat one at equal width; a longer input and two scales help
profiles. Equal width is tried at 320 numbers: a GRU of 1280 takes a quarter of an hour per run.

Small on purpose, a run is a minute on one core: all users, but 1,000 interests, 500 steps for item
vectors and 60 of 256 users for the network (lurm.yaml). More steps help: 150 instead of 60 gave
0.800 on ML-1M with seed 0.

Resumable: every (data set, variant, seed) is kept in benchmarks/results/lurm.json; delete it to
start over.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
import yaml
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from unirep_feast.config import RepresentationSpec
from unirep_feast.events import TIME_TYPE
from unirep_feast.files import atomic_path
from unirep_feast.inference import Inference
from unirep_feast.instants import parse_instant
from unirep_feast.pipeline import encode, read_spec, train
from unirep_feast.pipeline.loading import open_catalog, read_log, sequences_of
from unirep_feast.pipeline.restoring import final_checkpoint
from unirep_feast.plugins import load_plugins
from unirep_feast.snapshot import read_vectors
from unirep_feast.trio import build_encoder, choose

HERE = Path(__file__).resolve().parent
RESULT = HERE.parent / "results" / "lurm.json"
WORK = HERE.parent / "work" / "lurm"
FOLDS = 5
WORDS = ("christmas", "lunch bag", "holder", "cake", "vintage")

#: Cut-off of each data set, and how its titles are read.
DATA: dict[str, tuple[str, dict[str, object]]] = {
    "ml-1m": ("2003-03-01", {"text": {"categories": True}}),
    "online-retail": ("2011-09-01", {}),
}

#: What a variant changes in the encoder's settings.
VARIANTS: dict[str, dict[str, object]] = {
    "lurm": {},
    "lurm, untrained": {},
    "boi": {},
    "lurm, word2vec": {"items": "word2vec"},
    "boi, word2vec": {"items": "word2vec"},
    "lurm, monthly": {"scales": ["month"]},
    "lurm, yearly": {"scales": ["year"]},
    "lurm, 60 days": {"max_days": 60},
    "lurm, 1 anchor x 128": {"anchors": 1},
    "lurm, 10 anchors x 32": {"dim": 32},
    "lurm, 1 anchor x 320": {"anchors": 1, "dim": 320},
}

#: ML-1M's users rate for a month or so, each at another time: before its end there is nobody.
SKIPPED = {("ml-1m", "lurm, 60 days")}

Vectors = tuple[pa.Array, np.ndarray]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--seeds", type=int, default=5)
    data = Path(os.environ.get("UNIREP_DATA", HERE.parents[1] / ".." / "shared" / "data"))
    arguments.add_argument("--data", type=Path, default=data)
    arguments.add_argument("--variants", default=";".join(VARIANTS), help="separated by ;")
    arguments.add_argument("--sets", default=";".join(DATA), help="separated by ;")
    options = arguments.parse_args()
    torch.set_num_threads(1)
    chosen = [
        (name, variant)
        for variant in options.variants.split(";")
        for name in options.sets.split(";")
        if (name, variant) not in SKIPPED
    ]
    results = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    for seed in range(options.seeds):
        for name, variant in chosen:
            key = f"{name}: {variant}, seed {seed}"
            if key in results:
                continue
            began = time.process_time()
            users, vectors = produced(options.data, name, variant, seed)
            results[key] = probe(options.data, name, users, vectors)
            results[key]["cpu_seconds"] = round(time.process_time() - began, 1)
            save(results)
            print(key, results[key], flush=True)
    for name, variant in chosen:
        keys = [f"{name}: {variant}, seed {seed}" for seed in range(options.seeds)]
        values = [results[key]["auc"] for key in keys]
        mean, std = np.mean(values), np.std(values)
        print(f"{name:14} {variant:24} AUC {mean:.4f} ± {std:.4f} ({len(values)} seeds)")


def produced(data: Path, name: str, variant: str, seed: int) -> Vectors:
    """Train and encode as `unirep train` and `unirep encode --out` do."""
    spec = spec_of(data, name, variant, seed)
    as_of = parse_instant(DATA[name][0])
    try:
        run = train(spec, resume=True)
        if variant.endswith("untrained"):
            return untrained(spec, as_of, seed)
        out = WORK / f"{spec.name}.parquet"
        return read_vectors(encode(spec, as_of, out=out, run=run.run).path)
    finally:
        shutil.rmtree(spec.home, ignore_errors=True)


def spec_of(data: Path, name: str, variant: str, seed: int) -> RepresentationSpec:
    """The spec beside this script, pointed at the data."""
    spec: dict[str, Any] = yaml.safe_load((HERE / "lurm.yaml").read_text())
    until, settings = DATA[name]
    spec["name"] = "".join(c if c.isalnum() else "_" for c in f"{name} {variant} {seed}")
    spec["events"]["path"] = str((data / name / "events.parquet").resolve())
    spec["items"]["path"] = str((data / name / "items.parquet").resolve())
    spec["encoder"]["settings"] |= {**settings, **VARIANTS[variant]}
    spec["training"] |= {"seed": seed, "until": until}
    if variant.startswith("boi"):
        spec["encoder"]["name"] = "lurm.boi"
    else:
        spec |= {"objective": {"name": "lurm"}, "sampler": {"name": "lurm"}}
    if variant.endswith("untrained"):
        spec["training"]["max_steps"] = 1  # what is prepared is wanted, not the weights
    spec["storage"] = str(WORK / "runs")
    WORK.mkdir(parents=True, exist_ok=True)
    path = WORK / f"{spec['name']}.yaml"
    path.write_text(yaml.safe_dump(spec))
    return read_spec(path)


def untrained(spec: RepresentationSpec, as_of: int, seed: int) -> Vectors:
    """Encode with random weights on the run's own interests."""
    catalog = open_catalog(spec)
    checkpoint = final_checkpoint(catalog, spec, catalog.list_runs(spec.name)[0])
    vocabulary = checkpoint.vocabulary()
    sequences = sequences_of(spec, read_log(spec, as_of, lambda line: None), vocabulary)
    choice = choose(spec, load_plugins())
    torch.manual_seed(seed)
    encoder = build_encoder(choice, vocabulary, sequences.items, checkpoint.tensors("prepared"))
    blocks = list(Inference(encoder, spec.encode).encode(sequences, as_of))
    users = pa.concat_arrays([block.users for block in blocks])
    return users, np.concatenate([block.vectors for block in blocks])


def probe(data: Path, name: str, users: pa.Array, vectors: np.ndarray) -> dict[str, Any]:
    """Cross-validated logistic probes on frozen vectors; users without a vector have zeros."""
    who, labels = tasks(data / name, name)
    place = pc.index_in(who, value_set=users).to_numpy(zero_copy_only=False)
    there = ~np.isnan(place.astype(float))
    x = np.zeros((len(who), vectors.shape[1]), np.float32)
    x[there] = vectors[place[there].astype(int)]
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=2000))
    found = {}
    for task, label in labels.items():
        score = cross_val_predict(model, x, label, cv=folds, method="predict_proba")[:, 1]
        found[task] = round(float(roc_auc_score(label, score)), 4)
    return {
        "auc": round(float(np.mean(list(found.values()))), 4),
        "tasks": found,
        "users": len(who),
        "without_vector": int((~there).sum()),
        "numbers": vectors.shape[1],
        "finite": bool(np.isfinite(vectors).all()),
    }


def tasks(folder: Path, name: str) -> tuple[pa.Array, dict[str, np.ndarray]]:
    """Users, and who of them is a case, per task."""
    if name == "ml-1m":
        table = pq.read_table(folder / "users.parquet", columns=["user_id", "gender"])
        users = table["user_id"].combine_chunks()
        return users, {"gender": pc.equal(table["gender"], "F").to_numpy().astype(int)}
    as_of = pa.scalar(parse_instant(DATA[name][0]), TIME_TYPE)
    events = pq.read_table(folder / "events.parquet")
    events = events.filter(pc.equal(events["event_type"], "purchase"))
    late = pc.greater_equal(events["event_timestamp"], as_of)
    before = pc.unique(events.filter(pc.invert(late))["user_id"])
    after = events.filter(late)
    after = after.filter(pc.is_in(after["user_id"], value_set=before))
    users = pc.unique(after["user_id"])
    items = pq.read_table(folder / "items.parquet", columns=["item_id", "title"])
    labels = {}
    for word in WORDS:
        named = items.filter(pc.match_substring(items["title"], word, ignore_case=True))
        bought = after.filter(pc.is_in(after["item_id"], value_set=named["item_id"]))
        cases = pc.is_in(users, value_set=pc.unique(bought["user_id"]))
        labels[word] = cases.to_numpy(zero_copy_only=False).astype(int)
    return users, labels


def save(results: dict[str, object]) -> None:
    with atomic_path(RESULT) as temporary:
        temporary.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
