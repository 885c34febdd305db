"""What the document of an evaluation says of its tasks and runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from unirep_feast.config import RepresentationSpec
from unirep_feast.evaluation.candidates import Trained
from unirep_feast.evaluation.chance import chance
from unirep_feast.evaluation.examples import SplitExamples
from unirep_feast.evaluation.metrics import higher_is_better
from unirep_feast.instants import format_instant


def about_task(made: SplitExamples) -> dict[str, Any]:
    """A task: what is asked of whom, and what knowing nothing comes to."""
    loaded = made.loaded
    metric = loaded.task.metrics[0]
    return {
        "name": loaded.config.name,
        "kind": loaded.config.kind,
        "cut_off": format_instant(loaded.cut_off),
        "as_of": [format_instant(when) for when in loaded.times],
        "metric": metric,
        "higher_is_better": higher_is_better(metric),
        "description": loaded.config.description,
        "outputs": list(made.examples.outputs),
        "rows": len(made.examples),
        "train": len(made.train),
        "valid": len(made.valid),
        "test": len(made.test),
        "users": len(np.unique(made.examples.users)),
        "chance": {name: chance(made, name) for name in loaded.task.metrics},
    }


def about_run(run: Trained) -> dict[str, Any]:
    """A representation and run: what was trained, where it lies, how long it took."""
    manifest, spec = run.manifest, run.spec
    as_of = min(run.encoded)
    items = run.item_snapshot(as_of)
    return {
        "name": run.name,
        "spec": str(Path(run.path).resolve()),
        "run": run.run.id,
        "run_seed": run.run_seed,
        "encoder": manifest.identity["encoder"]["name"],
        "num_vectors": manifest.num_vectors,
        "dim": manifest.dim,
        "trained_until": format_instant(manifest.trained_until),
        "folder": str(spec.home / "runs" / run.run.id),
        "snapshot": str(run.snapshot(as_of)),
        "as_of": format_instant(as_of),
        "item_snapshot": None if items is None else str(items),
        "join_key": spec.view.join_key,
        "item_key": spec.view.item_key,
        "train_seconds": round(run.seconds, 1),
        "encode_seconds": round(sum(run.encoded.values()), 1),
        "leakage_allowed": any(run.leaks(when) for when in run.encoded),
        "events": _path(spec),
        "items": None if spec.items is None else spec.resolve(spec.items.path),
    }


def _path(spec: RepresentationSpec) -> str | None:
    return None if spec.events.path is None else spec.resolve(spec.events.path)
