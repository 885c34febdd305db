"""How runs look: tables for people, objects for scripts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.table import Table

from unirep_feast.catalog import Lineage, Materialization, Run
from unirep_feast.instants import format_instant

#: Columns that hold microseconds since 1970; scripts and people read ISO 8601 instead.
_INSTANTS = frozenset({"trained_until", "as_of"})
_PIPE_WIDTH = 200  # a pipe has no width: enough that no id is cut


def run_object(run: Run) -> dict[str, Any]:
    """Describe a run for a script, without its spec."""
    row = _row_object(run)
    del row["spec"]
    return row


def lineage_object(lineage: Lineage) -> dict[str, Any]:
    """Describe a run and everything that came of it for a script."""
    return {
        **run_object(lineage.run),
        "spec": json.loads(lineage.run.spec),
        "checkpoints": [_row_object(row) for row in lineage.checkpoints],
        "snapshots": [_row_object(row) for row in lineage.snapshots],
        "indexes": [_row_object(row) for row in lineage.indexes],
        "materializations": [_row_object(row) for row in lineage.materializations],
        "promotions": [_row_object(row) for row in lineage.promotions],
    }


def print_runs(runs: Sequence[Run]) -> None:
    """Print one line per run."""
    console = _console()
    if not runs:
        console.print("no runs yet")
        return
    about = ("representation", "status", "serves", "trained until", "steps", "users", "events")
    table = _table("run", *about, "created")
    for run in runs:
        table.add_row(
            *_cells(run.id, run.representation, run.status, _yes(run.promoted)),
            *_cells(_instant(run.trained_until), run.steps, run.users, run.events, run.created_at),
        )
    console.print(table)


def print_lineage(lineage: Lineage) -> None:
    """Print a run, then a table for each kind of thing that came of it."""
    run, console = lineage.run, _console()
    facts = Table.grid(padding=(0, 2))
    for name, value in (
        ("run", run.id),
        ("representation", run.representation),
        ("status", run.status),
        ("error", run.error),
        ("serves since", run.promoted_at),
        ("spec hash", run.spec_hash),
        ("trained until", _instant(run.trained_until)),
        ("steps", run.steps),
        ("events", run.events),
        ("users", run.users),
        ("created", run.created_at),
        ("finished", run.finished_at),
        ("folder", run.folder),
        *((role, _plugin(part)) for role, part in run.plugins.items()),
        *((f"metric {name}", value) for name, value in run.metrics.items()),
    ):
        if value is not None:
            facts.add_row(*_cells(name, value))
    console.print(facts)
    _section(
        console,
        _table("checkpoint", "validation loss", "best", "path", "checksum", "created"),
        (
            [row.step, row.validation_loss, _yes(row.best), row.path, row.checksum, row.created_at]
            for row in lineage.checkpoints
        ),
    )
    written = {row.snapshot_id: row for row in lineage.materializations}  # the latest of each
    _section(
        console,
        _table("snapshot as of", "entity", "rows", "vectors", "materialized", "path", "checksum"),
        (
            [
                *(_instant(row.as_of), row.entity, row.rows, f"{row.num_vectors} x {row.dim}"),
                *(_destination(written.get(row.id)), row.path, row.checksum),
            ]
            for row in lineage.snapshots
        ),
        notes=[
            f"as of {format_instant(row.as_of)}: the weights have seen later events (model leakage)"
            for row in lineage.snapshots
            if row.allow_model_leakage
        ],
    )
    of = {row.id: f"{row.entity} as of {_instant(row.as_of)}" for row in lineage.snapshots}
    _section(
        console,
        _table("index of", "metric", "recall", "trees", "search_k", "bytes", "path", "checksum"),
        (
            [
                *(of[row.snapshot_id], row.metric, f"{row.recall:.3f} at {row.recall_at}"),
                *(row.n_trees, row.search_k, row.size, row.path, row.checksum),
            ]
            for row in lineage.indexes
        ),
    )
    _section(
        console,
        _table("promotion", "run", "in place of"),
        ((row.at, row.run_id, row.previous_run_id) for row in lineage.promotions),
    )


def _section(
    console: Console, table: Table, rows: Iterable[Sequence[Any]], notes: Sequence[str] = ()
) -> None:
    for row in rows:
        table.add_row(*_cells(*row))
    if table.row_count:
        console.print()
        console.print(table)
    for note in notes:
        console.print(note)


def _console() -> Console:
    # No markup: a path or an error may well contain [brackets] or :colons:.
    console = Console(markup=False, emoji=False, highlight=False)
    if not console.is_terminal:
        console.width = _PIPE_WIDTH
    return console


def _table(first: str, *columns: str) -> Table:
    table = Table(first, box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.columns[0].no_wrap = True  # what one copies from the table
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _cells(*values: Any) -> list[str]:
    return [_cell(value) for value in values]


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%dT%H:%M:%SZ")
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _yes(value: bool) -> str:
    return "yes" if value else ""


def _instant(microseconds: int | None) -> str | None:
    return None if microseconds is None else format_instant(microseconds)


def _plugin(part: Any) -> str:
    if not isinstance(part, dict):
        return str(part)
    name, source = part.get("name"), f"{part.get('distribution')} {part.get('version')}"
    return f"{name} ({source})" if name else source


def _destination(row: Materialization | None) -> str | None:
    if row is None:
        return None
    return f"{row.store}/{row.feature_view}" + (
        "" if row.status == "finished" else f" {row.status}"
    )


def _row_object(row: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for column in row.__table__.columns.keys():  # noqa: SIM118  # iterating yields columns
        value = getattr(row, column)
        if column in _INSTANTS and value is not None:
            value = format_instant(value)
        found[column] = value.isoformat() if isinstance(value, datetime) else value
    return found
