"""One HTML file out of what a report shows; it loads nothing, and runs no script."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from unirep_feast.evaluation.leaderboard import mean_ranks
from unirep_feast.report.figures import (
    curves_figure,
    drift_figure,
    leaderboard_figure,
    map_figure,
)

#: Measures over snapshots: what stands above the figure, and where it is in the data.
_DRIFT = (
    ("users with a vector", "users"),
    ("distance of the mean from the first snapshot, in spreads", "mean_shift"),
    ("Fréchet distance from the first snapshot, relative", "frechet"),
    ("share of the ten nearest kept since the snapshot before", "neighbors_kept"),
    ("directions in use (effective rank)", "effective_rank"),
)


def render(contents: dict[str, Any]) -> str:
    """Turn what :func:`unirep_feast.report.contents.gather` gathered into HTML.

    Everything is escaped: a title of an item may well hold a tag.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    pages = Environment(
        loader=PackageLoader("unirep_feast.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    representation, evaluation = contents["representation"], contents["evaluation"]
    about = representation or evaluation or {}
    html: str = pages.get_template("page.html.j2").render(
        contents,
        title=about.get("name", ""),
        boards=[] if evaluation is None else _boards(evaluation, Markup),
        controls=[] if evaluation is None else _controls(evaluation),
        intrinsic=None if evaluation is None else _intrinsic(evaluation),
        curves=[] if representation is None else _curves(representation["curves"], Markup),
        drift=[] if representation is None else _drift(representation["drift"], Markup),
        map_svg=_map(representation, Markup),
    )
    return html


def _boards(evaluation: dict[str, Any], markup: Any) -> list[dict[str, Any]]:
    """Per share of the labels, all of them first: a table and a figure for each task."""
    entries = evaluation["leaderboard"]
    boards = []
    for fraction in sorted({entry["label_fraction"] for entry in entries}, reverse=True):
        shown = [entry for entry in entries if entry["label_fraction"] == fraction]
        there = {entry["task"] for entry in shown}
        tasks = [task for task in evaluation["tasks"] if task["name"] in there]
        by_task = {task["name"]: _of_task(shown, task["name"]) for task in tasks}
        boards.append(
            {
                "fraction": fraction,
                "tasks": tasks,
                "ranks": mean_ranks(shown),
                "cells": {
                    (entry["task"], entry["representation"]): {
                        **entry,
                        "shade": _shade(entry, by_task),
                    }
                    for entry in shown
                },
                "figures": [
                    (task, markup(leaderboard_figure(task, by_task[task["name"]])))
                    for task in tasks
                ],
            }
        )
    return boards


def _of_task(entries: Sequence[dict[str, Any]], task: str) -> list[dict[str, Any]]:
    found = [entry for entry in entries if entry["task"] == task]
    return sorted(found, key=lambda entry: int(entry["rank"]))


def _shade(entry: dict[str, Any], by_task: dict[str, list[dict[str, Any]]]) -> float:
    """0 for the worst of a task, 1 for the best, by value: gaps show."""
    values = [other["mean"] for other in by_task[entry["task"]]]
    best, worst = values[0], values[-1]
    return 1.0 if best == worst else float((entry["mean"] - worst) / (best - worst))


def _controls(evaluation: dict[str, Any]) -> list[dict[str, Any]]:
    """Per task, where shuffled labels came out, over all representations and probes."""
    found: dict[str, list[float]] = {}
    for row in evaluation["rows"]:
        if row["control"] and row["primary"] and row["split"] == "test":
            found.setdefault(row["task"], []).append(row["value"])
    return [
        {
            "task": task["name"],
            "metric": task["metric"],
            "knowing nothing": (task.get("chance") or {}).get(task["metric"]),
            "lowest": min(found[task["name"]]),
            "mean": sum(found[task["name"]]) / len(found[task["name"]]),
            "highest": max(found[task["name"]]),
            "figures": len(found[task["name"]]),
        }
        for task in evaluation["tasks"]
        if task["name"] in found
    ]


def _intrinsic(evaluation: dict[str, Any]) -> dict[str, Any] | None:
    """Measures that need no label: a row per representation, the mean over its runs."""
    found: dict[tuple[str, str], list[float]] = {}
    for entry in evaluation["intrinsic"]:
        if entry["value"] is not None:
            found.setdefault((entry["representation"], entry["measure"]), []).append(entry["value"])
    if not found:
        return None
    names = list(dict.fromkeys(name for name, _ in found))
    measures = list(dict.fromkeys(measure for _, measure in found))
    means = {key: sum(values) / len(values) for key, values in found.items()}
    return {
        "measures": [measure.replace("_", " ") for measure in measures],
        "rows": [(name, [means.get((name, measure)) for measure in measures]) for name in names],
    }


def _curves(curves: Sequence[dict[str, Any]], markup: Any) -> list[Any]:
    """Curves with something to see, training and validation of one measure together."""
    by_name: dict[str, list[dict[str, Any]]] = {}
    for curve in curves:
        if len(curve["steps"]) > 1:
            by_name.setdefault(curve["name"], []).append(curve)
    return [markup(curves_figure(name, found)) for name, found in by_name.items()]


def _drift(entries: Sequence[dict[str, Any]], markup: Any) -> list[Any]:
    if len(entries) < 2:
        return []
    there = [
        (title, measure)
        for title, measure in _DRIFT
        if any(entry[measure] is not None for entry in entries)
    ]
    return [markup(drift_figure(title, entries, measure)) for title, measure in there]


def _map(representation: dict[str, Any] | None, markup: Any) -> Any:
    if representation is None or representation["map"] is None:
        return None
    return markup(map_figure(representation["map"]))
