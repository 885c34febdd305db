"""Claim: CLUE's vectors tell more of a user than the majority class or an untrained encoder do.

On ML-1M, `unirep train` and `unirep encode --as-of 2003-03-01 --out`, then a logistic probe on
the frozen vectors predicts gender (ten stratified folds). Beside each backbone the same encoder
with the random weights that training starts from, and TF-IDF + SVD over the same events, which is
a hard line to pass.

    python benchmarks/claims/clue_profile.py [--seeds 5] [--data ../shared/data/ml-1m]

Resumable: every (producer, seed) is kept in benchmarks/results/clue_profile.json; delete it to
start over.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from unirep_feast.config import RepresentationSpec
from unirep_feast.files import atomic_path
from unirep_feast.inference import Inference
from unirep_feast.instants import parse_instant
from unirep_feast.pipeline import encode, read_spec, train
from unirep_feast.pipeline.loading import read_log, sequences_of
from unirep_feast.plugins import load_plugins
from unirep_feast.sequences import fit_vocabulary
from unirep_feast.snapshot import read_vectors
from unirep_feast.trio import build_encoder, choose

HERE = Path(__file__).resolve().parent
RESULT = HERE.parent / "results" / "clue_profile.json"
WORK = HERE.parent / "work" / "clue_profile"
AS_OF = parse_instant("2003-03-01")

#: Keys of the spec beside this script that a variant changes.
VARIANTS: dict[str, dict[str, dict[str, object]]] = {
    "gru": {"encoder": {"backbone": "gru", "dropout": 0.5}, "training": {"max_steps": 200}},
    # Full windows only: the number of events survives any dropout, and is all that is learnt else.
    "sasrec": {
        "encoder": {"backbone": "sasrec", "dropout": 0.1},
        "sampler": {"min_events": 50},
        "training": {"max_steps": 600},
    },
}

Vectors = tuple[pa.Array, np.ndarray]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--seeds", type=int, default=5)
    data = Path(os.environ.get("UNIREP_DATA", HERE.parents[1] / ".." / "shared" / "data"))
    arguments.add_argument("--data", type=Path, default=data / "ml-1m")
    options = arguments.parse_args()
    torch.set_num_threads(1)
    producers: dict[str, Callable[[int], Vectors]] = {
        "TF-IDF + SVD": lambda seed: tfidf(spec_of(options.data, "gru", seed), seed),
    }
    for name in VARIANTS:
        producers[f"untrained {name}"] = partial(untrained, options.data, name)
        producers[f"clue {name}"] = partial(trained, options.data, name)
    results = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    for name, produce in producers.items():
        for seed in range(options.seeds):
            key = f"{name}, seed {seed}"
            if key in results:
                continue
            began = time.perf_counter()
            ids, vectors = produce(seed)
            results[key] = probe(options.data, ids, vectors)
            results[key]["seconds"] = round(time.perf_counter() - began, 1)
            save(results)
            print(key, results[key], flush=True)
    for name in producers:
        for metric in ("auc", "accuracy", "majority"):
            values = [results[f"{name}, seed {seed}"][metric] for seed in range(options.seeds)]
            print(f"{name:18} {metric:9} {np.mean(values):.4f} ± {np.std(values):.4f}")


def spec_of(data: Path, variant: str, seed: int) -> RepresentationSpec:
    """The spec beside this script, pointed at the data."""
    spec = yaml.safe_load((HERE / "clue_ml1m.yaml").read_text())
    changes = VARIANTS[variant]
    spec["encoder"]["settings"] |= changes["encoder"]
    spec["sampler"] = {"settings": changes.get("sampler", {})}
    spec["training"] |= {**changes["training"], "seed": seed}
    spec["events"]["path"] = str((data / "events.parquet").resolve())
    spec["storage"] = str(WORK / f"{variant}-{seed}")
    WORK.mkdir(parents=True, exist_ok=True)
    path = WORK / f"{variant}-{seed}.yaml"
    path.write_text(yaml.safe_dump(spec))
    return read_spec(path)


def trained(data: Path, variant: str, seed: int) -> Vectors:
    """Train and encode as `unirep train` and `unirep encode --out` do."""
    spec = spec_of(data, variant, seed)
    run = train(spec, resume=True)
    result = encode(spec, AS_OF, out=WORK / f"{variant}-{seed}.parquet", run=run.run)
    return read_vectors(result.path)


def untrained(data: Path, variant: str, seed: int) -> Vectors:
    """Encode with the weights that training would start from."""
    spec = spec_of(data, variant, seed)
    packed = read_log(spec, AS_OF, lambda line: None)
    vocabulary = fit_vocabulary(packed, AS_OF)
    sequences = sequences_of(spec, packed, vocabulary)
    torch.manual_seed(seed)
    encoder = build_encoder(choose(spec, load_plugins()), vocabulary, sequences.items, {})
    blocks = list(Inference(encoder, spec.encode).encode(sequences, AS_OF))
    users = pa.concat_arrays([block.users for block in blocks])
    return users, np.concatenate([block.vectors for block in blocks])


def tfidf(spec: RepresentationSpec, seed: int) -> Vectors:
    """Bag of items, TF-IDF, 64 singular vectors."""
    from scipy.sparse import csr_matrix

    packed = read_log(spec, AS_OF, lambda line: None)
    rows = np.repeat(np.arange(len(packed.users)), np.diff(packed.offsets))
    shape = (len(packed.users), len(packed.item_ids))
    counts = csr_matrix((np.ones(len(rows)), (rows, packed.items)), shape)
    weighted = TfidfTransformer(sublinear_tf=True).fit_transform(counts)
    vectors = TruncatedSVD(64, random_state=seed).fit_transform(weighted)
    return packed.users, vectors.astype(np.float32)


def probe(data: Path, ids: pa.Array, vectors: np.ndarray) -> dict[str, float]:
    """Ten-fold logistic probe of gender on frozen vectors."""
    labels = pq.read_table(data / "users.parquet", columns=["user_id", "gender"]).to_pandas()
    gender = labels.set_index("user_id").gender.loc[ids.to_pylist()]
    female = (gender == "F").to_numpy().astype(int)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
    folds = StratifiedKFold(10, shuffle=True, random_state=0)
    score = cross_val_predict(model, vectors, female, cv=folds, method="predict_proba")[:, 1]
    return {
        "auc": round(float(roc_auc_score(female, score)), 4),
        "accuracy": round(float(accuracy_score(female, score > 0.5)), 4),
        "majority": round(float(max(female.mean(), 1 - female.mean())), 4),
        "users": len(female),
        "finite": bool(np.isfinite(vectors).all()),
    }


def save(results: dict[str, object]) -> None:
    with atomic_path(RESULT) as temporary:
        temporary.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
