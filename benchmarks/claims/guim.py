"""Claim: several vectors are better than one, and better than one as long as all of them (Table 2).

GUIM with C vectors per user against GUI-EDI, one vector C times as long for users and items, and
against GUIM-MH, C heads on a model with one token [CLS] (section 4.3). On Online Retail: which of
all items a customer buys in the next 30 days (CMP-L), on the next day (CMP-S) and next (CMP-N),
recall@100. On ML-1M: gender, age group and occupation by a three-layer network on frozen vectors
(the paper's three profile tasks have labels that no public data have). Smaller than the paper's
models (d = 32 instead of 128), so that a run takes three minutes of one core; every model trains
for the same number of steps. A most-popular list stands beside them.

    python benchmarks/claims/guim.py [--seeds 3] [--only ml-1m] [--variants "guim 4" "edi 4"]

Resumable: every (data, variant, seed) is kept in benchmarks/results/guim.json; delete it to start
over. A line per variant at the end gives mean and standard deviation over seeds.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
import yaml
from guim_tasks import Matching, profile

from unirep_feast.config import RepresentationSpec
from unirep_feast.encoder import Encoder
from unirep_feast.files import atomic_path
from unirep_feast.inference import Inference
from unirep_feast.pipeline.loading import read_log, sequences_of
from unirep_feast.plugins import load_plugins
from unirep_feast.sequences import Sequences, fit_vocabulary
from unirep_feast.trainer import Trainer
from unirep_feast.trio import build_trio, choose, prepare_encoder

HERE = Path(__file__).resolve().parent
RESULT = HERE.parent / "results" / "guim.json"
LABELS = ("gender", "age_group", "occupation")

#: Encoder settings of each variant. With one vector GUIM and GUI-EDI are the same model.
VARIANTS: dict[str, dict[str, Any]] = {
    "guim 1": {"vectors": 1},
    "guim 2": {"vectors": 2},
    "guim 4": {"vectors": 4},
    "edi 2": {"vectors": 2, "variant": "edi"},
    "edi 4": {"vectors": 4, "variant": "edi"},
    "mh 2": {"vectors": 2, "variant": "mh"},
    "mh 4": {"vectors": 4, "variant": "mh"},
}
SPECS = {"online-retail": "guim_online_retail.yaml", "ml-1m": "guim_ml1m.yaml"}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--seeds", type=int, default=3)
    arguments.add_argument("--only", choices=SPECS, help="one of the data sets")
    arguments.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    arguments.add_argument("--runs", type=int, help="stop after so many trainings")
    data = Path(os.environ.get("UNIREP_DATA", HERE.parents[1] / ".." / "shared" / "data"))
    arguments.add_argument("--data", type=Path, default=data)
    options = arguments.parse_args()
    torch.set_num_threads(1)
    results: dict[str, dict[str, float]] = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    done = 0
    for seed in range(options.seeds):
        for name in [options.only] if options.only else list(SPECS):
            wanted = [v for v in options.variants if f"{name}, {v}, seed {seed}" not in results]
            log = load(options.data, name) if wanted else None
            for variant in wanted:
                assert log is not None
                if done == options.runs:
                    return
                done += 1
                began = time.process_time()
                scores = run(options.data, name, log, variant, seed)
                seconds = time.process_time() - began
                results[f"{name}, {variant}, seed {seed}"] = {**scores, "cpu_seconds": seconds}
                save(results)
                print(f"{name}, {variant}, seed {seed}", rounded(scores), f"{seconds:.0f} s")
            key = f"{name}, popular"
            if log is not None and name == "online-retail" and key not in results:
                results[key] = Matching(log, until_of(options.data, name)).popular()
                save(results)
    report(results)


def spec_of(data: Path, name: str, variant: str = "guim 1", seed: int = 0) -> RepresentationSpec:
    """A spec beside this script, pointed at the data."""
    spec = yaml.safe_load((HERE / SPECS[name]).read_text())
    spec["events"]["path"] = str((data / name / "events.parquet").resolve())
    spec["items"]["path"] = str((data / name / "items.parquet").resolve())
    spec["encoder"]["settings"] |= VARIANTS[variant]
    spec["training"]["seed"] = seed
    spec["folder"] = str(HERE)
    return RepresentationSpec.model_validate(spec)


def load(data: Path, name: str) -> Sequences:
    """All histories of a data set, coded by what was known when training ends."""
    spec = spec_of(data, name)
    packed = read_log(spec, None, lambda line: None)
    return sequences_of(spec, packed, fit_vocabulary(packed, until_of(data, name)))


def until_of(data: Path, name: str) -> int:
    """When training ends and the tasks begin, microseconds."""
    until = spec_of(data, name).training.until
    assert until is not None
    return until


def run(data: Path, name: str, log: Sequences, variant: str, seed: int) -> dict[str, float]:
    """Train one variant with the host's loop and score it on the data set's tasks."""
    spec = spec_of(data, name, variant, seed)
    until = until_of(data, name)
    past = log.before(until)
    choice = choose(spec, load_plugins())
    torch.manual_seed(seed)
    prepared = prepare_encoder(choice, log.vocabulary, past, _no_fit)
    trio = build_trio(choice, log.vocabulary, log.items, prepared)
    losses = {}
    for record in Trainer(trio, past, spec.training).run():
        if record.kind == "validation":
            losses = {f"valid_{k}": v for k, v in record.values.items() if k.endswith("per_item")}
    if name == "online-retail":
        return {**Matching(log, until).scores(trio.encoder), **losses}
    ids, vectors = encode(trio.encoder, spec, log, until)
    path = data / name / "users.parquet"
    found = {label: profile(path, label, ids.to_pylist(), vectors, seed) for label in LABELS}
    return {**found, "users": len(ids), **losses}


def _no_fit(*args: Any, **kwargs: Any) -> Any:
    raise NotImplementedError("guim prepares vocabularies only")


def encode(
    encoder: Encoder, spec: RepresentationSpec, log: Sequences, as_of: int
) -> tuple[pa.Array, np.ndarray]:
    """(n,) user ids and (n, C * d) vectors as of the end of the training data."""
    blocks = list(Inference(encoder, spec.encode, "guim").encode(log, as_of))
    users = pa.concat_arrays([block.users for block in blocks])
    return users, np.concatenate([block.vectors for block in blocks])


def rounded(scores: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in scores.items()}


def report(results: dict[str, dict[str, float]]) -> None:
    """Print mean and standard deviation over seeds."""
    for name, tasks in (("online-retail", ("CMP-L", "CMP-S", "CMP-N")), ("ml-1m", LABELS)):
        for variant in VARIANTS:
            runs = [r for key, r in results.items() if key.startswith(f"{name}, {variant}, seed")]
            if not runs:
                continue
            cells = []
            for task in tasks:
                values = [r[task] for r in runs]
                cells.append(f"{task} {np.mean(values):.4f} ± {np.std(values):.4f}")
            print(f"{name:14} {variant:7} {len(runs)} seeds: {', '.join(cells)}")
        if f"{name}, popular" in results:
            print(f"{name:14} popular", rounded(results[f"{name}, popular"]))


def save(results: dict[str, Any]) -> None:
    with atomic_path(RESULT) as temporary:
        temporary.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
