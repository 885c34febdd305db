"""What the catalog knows of a run, in words: its lineage."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import yaml

from unirep_feast.catalog import Lineage
from unirep_feast.config import RepresentationSpec
from unirep_feast.instants import format_instant


def facts_of(spec: RepresentationSpec, lineage: Lineage) -> dict[str, Any]:
    """Say how a run came about, and what came of it.

    Returns:
        ``run``: pairs of names and texts; ``spec``: YAML; ``checkpoints snapshots
        materializations promotions``: lists of flat objects.
    """
    run = lineage.run
    by_id = {row.id: row for row in lineage.snapshots}
    return {
        "run": [[name, _text(value)] for name, value in _about(spec, lineage) if value is not None],
        "spec": yaml.safe_dump(json.loads(run.spec), sort_keys=False, allow_unicode=True),
        "checkpoints": [
            {
                "step": row.step,
                "validation loss": row.validation_loss,
                "best": row.best,
                "checksum": row.checksum[:12],
                "created": _text(row.created_at),
            }
            for row in lineage.checkpoints
        ],
        "snapshots": [
            {
                "of": f"{row.entity}s",
                "as of": format_instant(row.as_of),
                "rows": row.rows,
                "vectors": f"{row.num_vectors} x {row.dim}",
                "model leakage": row.allow_model_leakage,
                "checksum": row.checksum[:12],
            }
            for row in lineage.snapshots
        ],
        "materializations": [
            {
                "feature view": row.feature_view,
                "store": row.store,
                "as of": format_instant(by_id[row.snapshot_id].as_of),
                "status": row.status,
            }
            for row in lineage.materializations
            if row.snapshot_id in by_id
        ],
        "promotions": [
            {"at": _text(row.at), "run": row.run_id, "in place of": row.previous_run_id or ""}
            for row in lineage.promotions
        ],
    }


def _about(spec: RepresentationSpec, lineage: Lineage) -> list[tuple[str, Any]]:
    run = lineage.run
    return [
        ("run", run.id),
        ("status", run.status),
        ("serves since", run.promoted_at),
        ("trained on events before", run.trained_until and format_instant(run.trained_until)),
        ("events", run.events),
        ("users", run.users),
        ("steps", run.steps),
        *((role, _part(part)) for role, part in run.plugins.items()),
        *((name, value) for name, value in run.metrics.items()),
        ("spec hash", run.spec_hash[:12]),
        ("events from", spec.events.path or spec.events.feast),
        ("started", run.created_at),
        ("finished", run.finished_at),
    ]


def _part(part: Any) -> str:
    if not isinstance(part, dict):
        return str(part)
    name, source = part.get("name"), f"{part.get('distribution')} {part.get('version')}"
    return f"{name} ({source})" if name else source


def _text(value: Any) -> str:
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%d %H:%M:%S UTC")
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
