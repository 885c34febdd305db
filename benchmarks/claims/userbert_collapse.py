"""Why matching against medium-hard negatives teaches little here: what becomes of the users.

The pre-trainings of userbert.py and userbert_negatives.py, with the BERT4Rec preset (its user is
the last hidden state) and with attentive pooling in its place. Told are the mean and the standard
deviation of the cosine between the vectors of any two users (1 and 0: all users are one point),
how often the last steps found the sequence and the behaviors among their five candidates, and what
fine-tuning on a tenth of the labels comes to.

    python benchmarks/claims/userbert_collapse.py [--seeds 1] [--data ../shared/data]

Resumable; kept in benchmarks/results/userbert_collapse.json.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from userbert import RESULTS, WORK, save
from userbert_tasks import SETTINGS, Task, finetune, task_of, training_of, trio_of

from unirep_feast.trainer import Trainer

RESULT = RESULTS / "userbert_collapse.json"
AGGREGATORS = ("last", "attentive")
#: Steps whose metrics are averaged.
LAST = 100

_RANDOM = {"negatives": "random"}
STARTS: dict[str, dict[str, Any]] = {
    "MBP only": {"bsm": False},
    "BSM only": {"mbp": False},
    "both": {},
    "MBP only, random": {"bsm": False, **_RANDOM},
    "BSM only, random": {"mbp": False, **_RANDOM},
    "both, random": _RANDOM,
}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--seeds", type=int, default=1)
    data = Path(os.environ.get("UNIREP_DATA", RESULTS.parents[1] / ".." / "shared" / "data"))
    arguments.add_argument("--data", type=Path, default=data)
    options = arguments.parse_args()
    torch.set_num_threads(1)
    results: dict[str, Any] = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    task = task_of("recommendation", options.data, WORK)
    for aggregator in AGGREGATORS:
        SETTINGS["encoder"]["aggregator"] = aggregator
        for seed in range(options.seeds):
            for start, objective in STARTS.items():
                key = f"{aggregator}: {start}, seed {seed}"
                if results.get(key, {}).get("settings") != SETTINGS:
                    found = run(task, objective, seed)
                    results[key] = {"settings": json.loads(json.dumps(SETTINGS)), **found}
                    save(RESULT, results)
                shown = {k: v for k, v in results[key].items() if k != "settings"}
                print(key, shown, flush=True)


def run(task: Task, objective: dict[str, Any], seed: int) -> dict[str, float]:
    """Pre-train, look at the users, fine-tune."""
    torch.manual_seed(seed)
    trio = trio_of(task, {"objective": {"settings": objective}})
    config = training_of("pretraining", seed).model_copy(update={"log_every": 1})
    steps = [r.values for r in Trainer(trio, task.past, config).run() if r.kind == "step"]
    assert isinstance(trio.encoder, nn.Module)
    trio.encoder.eval()
    past = task.past.limit(trio.encoder.window)
    with torch.inference_mode():
        users = trio.encoder(past.histories(past.all_users())).users.flatten(1)
    unit = F.normalize(users, dim=1)
    rows, columns = torch.triu_indices(len(unit), len(unit), 1)
    cosine = (unit @ unit.T)[rows, columns]
    hits = {
        name: round(float(np.mean([step[name] for step in steps[-LAST:]])), 3)
        for name in ("mbp_accuracy", "bsm_accuracy")
        if name in steps[-1]
    }
    return {
        "cosine": round(float(cosine.mean()), 4),
        "cosine_std": round(float(cosine.std()), 4),
        **hits,
        "auc": finetune(task, 0.1, seed, trio.encoder.state_dict())["auc"],
    }


if __name__ == "__main__":
    main()
