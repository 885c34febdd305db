"""What a report shows, as plain data: what `--json` prints and the page is made of."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from unirep_feast import __version__
from unirep_feast.catalog import Lineage, Snapshot
from unirep_feast.config import RepresentationSpec
from unirep_feast.errors import EvaluationError, SnapshotError, one_line
from unirep_feast.events import read_events
from unirep_feast.instants import format_instant
from unirep_feast.pipeline.loading import Notify, ReadEvents, open_catalog, serving_run
from unirep_feast.report.curves import read_curves
from unirep_feast.report.drift import drift_of
from unirep_feast.report.facts import facts_of
from unirep_feast.report.neighbors import neighbors_of
from unirep_feast.report.population import Labels, Population, read_population
from unirep_feast.report.users_map import map_of
from unirep_feast.snapshot import snapshot_path

#: Of `leaderboard.json`, see :mod:`unirep_feast.evaluation.results`.
_FORMAT = 1

#: Called with (done, total, what is being done).
Advance = Callable[[int, int, str], None]


@dataclass(frozen=True)
class About:
    """Which representation, and what of it.

    Attributes:
        spec: of the representation.
        run: id or unique prefix; None takes the promoted run.
        labels: colours users by a column of a table; None takes the category they turn to most.
        sample: users that the map and the neighbors are drawn from.
        read: reads the events of a Feast source.
    """

    spec: RepresentationSpec
    run: str | None = None
    labels: Labels | None = None
    sample: int = 3_000
    read: ReadEvents = read_events


def gather(
    about: About | None,
    evaluation: Path | None,
    advance: Advance = lambda done, total, what: None,
    notify: Notify = lambda line: None,
) -> dict[str, Any]:
    """Gather what a report shows.

    Args:
        about: a representation with a run; None leaves out all but the evaluation.
        evaluation: folder of `unirep evaluate`, or its leaderboard.json; None leaves it out.
        advance: called before each part.
        notify: called with lines for people: what is left out, and why.

    Returns:
        Plain data: ``created version evaluation representation``, the last two None where they
        are left out.

    Raises:
        UnirepError: no such run, or a file cannot be read; in one line.
    """
    return {
        "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "version": __version__,
        "evaluation": None if evaluation is None else read_evaluation(evaluation),
        "representation": None if about is None else _representation(about, advance, notify),
    }


def read_evaluation(path: Path) -> dict[str, Any]:
    """Read what `unirep evaluate` left.

    Raises:
        EvaluationError: it is not there, damaged, or of another version.
    """
    file = path / "leaderboard.json" if path.is_dir() else path
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EvaluationError(
            f"{file} cannot be read: {one_line(error)}; name a folder that `unirep evaluate` wrote"
        ) from None
    if not isinstance(found, dict) or found.get("format") != _FORMAT:
        raise EvaluationError(
            f"{file} is not of format {_FORMAT}; run `unirep evaluate` of this version again"
        )
    return found


def _representation(about: About, advance: Advance, notify: Notify) -> dict[str, Any]:
    spec = about.spec
    catalog = open_catalog(spec, create=False)
    run = serving_run(catalog, spec, about.run)
    lineage = catalog.lineage(run.id)
    snapshots = _snapshots(spec, lineage)
    parts = 4
    advance(0, parts, "reading vectors")
    population = _population(about, snapshots[-1]) if snapshots else None
    if population is None:
        notify(f"run {run.id} has no snapshot: no map, no neighbors; run `unirep encode SPEC`")
    advance(1, parts, "drawing the map")
    drawn = None if population is None else map_of(population, notify)
    advance(2, parts, "finding neighbors")
    near = None if population is None else neighbors_of(about.spec, run.id, population, about.read)
    advance(3, parts, "comparing snapshots")
    drifted = drift_of(spec, run.id, snapshots)
    advance(parts, parts, "")
    return {
        "name": spec.name,
        "run": run.id,
        "facts": facts_of(spec, lineage),
        "curves": read_curves(spec.home / "runs" / run.id),
        "map": drawn,
        "neighbors": near,
        "drift": drifted,
    }


def _snapshots(spec: RepresentationSpec, lineage: Lineage) -> list[Snapshot]:
    """Snapshots of users that are there, earlier first."""
    found = [row for row in lineage.snapshots if row.entity == "user"]
    there = [row for row in found if snapshot_path(spec.home, row.run_id, row.as_of).exists()]
    return sorted(there, key=lambda row: row.as_of)


def _population(about: About, snapshot: Snapshot) -> Population:
    path = snapshot_path(about.spec.home, snapshot.run_id, snapshot.as_of)
    found = read_population(
        about.spec, path, snapshot.as_of, about.sample, about.labels, about.read
    )
    if len(found.ids) == 0:
        when = format_instant(snapshot.as_of)
        raise SnapshotError(f"{path} holds no user as of {when}; encode again")
    return found
