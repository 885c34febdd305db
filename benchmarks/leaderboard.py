"""Write what `make evaluate` found into RESULTS.md, and what it says of papers and baselines.

    python benchmarks/leaderboard.py     # reads what lies in examples/evaluation/*/data

Of every data set a table of all representations and tasks, and three counts: on how many tasks the
best paper leads every baseline, where a paper is behind an encoder of random weights, on how many
tasks `universal` is at or above the best single producer (the one that turns out best on the test
split, and the one that validation users would have made one take); and where probes of shuffled
labels come out. Figures are kept in benchmarks/results/leaderboard.json, so that a table outlives
the folder of the evaluation.
"""

from __future__ import annotations

import json
from itertools import product
from typing import Any

from measuring import ROOT

RESULTS = ROOT / "benchmarks" / "RESULTS.md"
KEPT = ROOT / "benchmarks" / "results" / "leaderboard.json"
BEGIN, END = "<!-- leaderboard: begin (written by leaderboard.py) -->", "<!-- leaderboard: end -->"
DATA_SETS = ("online-retail", "ml-1m", "dunnhumby")

PAPERS = ("clue", "guim", "icl", "lurm", "userbert")
UNTRAINED = ("random_init", "random_init_gru")
UNIVERSAL = "universal"
#: Differences with a larger p are not told apart.
SIGNIFICANT = 0.05

Board = dict[str, Any]


def main() -> None:
    kept: dict[str, Board] = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    for name in DATA_SETS:
        folder = ROOT / "examples" / "evaluation" / name / "data" / "evaluation" / name
        path = folder / "leaderboard.json"
        if path.exists():
            found = board_of(json.loads(path.read_text()))
            kept[name] = {**kept.get(name, {}), **found}  # a control of before stays
        control = folder.parents[1] / "control" / "leaderboard.json"
        if control.exists() and name in kept:
            kept[name]["control"] = control_of(json.loads(control.read_text()))
    KEPT.write_text(json.dumps(kept, indent=1) + "\n")
    boards = [kept[name] for name in DATA_SETS if name in kept]
    text = RESULTS.read_text()
    before, after = text[: text.index(BEGIN)], text[text.index(END) :]
    sections = "\n".join(section(board) for board in boards)
    RESULTS.write_text(f"{before}{BEGIN}\n\n{sections}\n{after}")
    print(f"{len(boards)} tables in {RESULTS}, figures in {KEPT}")


def board_of(document: dict[str, Any]) -> Board:
    """What is told of an evaluation: figures with all labels, and who differs from whom."""
    whole = [e for e in document["leaderboard"] if e["label_fraction"] == 1]
    figures: dict[str, dict[str, Any]] = {}
    for entry in whole:
        shown = {key: entry[key] for key in ("mean", "std", "probe", "best", "valid")}
        figures.setdefault(entry["representation"], {})[entry["task"]] = shown
    return {
        "name": document["name"],
        "created": document["created"],
        "seconds": document["seconds"],
        "tasks": {
            task["name"]: {
                "metric": task["metric"],
                "chance": task["chance"][task["metric"]],
                "test": task["test"],
            }
            for task in document["tasks"]
        },
        "train_seconds": {r["name"]: r["train_seconds"] for r in document["representations"]},
        "probe_seconds": _probe_seconds(document["rows"]),
        "figures": figures,
        "p_values": {
            f"{pair['task']}: {pair['first']}, {pair['second']}": pair["p_value"]
            for pair in document["pairs"]
            if pair["label_fraction"] == 1
        },
    }


def _probe_seconds(rows: list[dict[str, Any]]) -> float:
    """Of all cells; every row of a cell tells the same."""
    names = ("representation", "run", "task", "probe", "label_fraction", "seed", "control")
    cells = {tuple(row[name] for name in names): row["seconds"] for row in rows}
    return round(sum(cells.values()), 1)


def control_of(document: dict[str, Any]) -> dict[str, list[float]]:
    """Of each task what probes of shuffled labels came to, mean over seeds, from least to most."""
    found: dict[str, dict[str, list[float]]] = {}
    for row in document["rows"]:
        if row["control"] and row["primary"] and row["split"] == "test":
            found.setdefault(row["task"], {}).setdefault(row["probe"], []).append(row["value"])
    return {
        task: sorted(sum(values) / len(values) for values in by_probe.values())
        for task, by_probe in found.items()
    }


def section(board: Board) -> str:
    """A data set's table and what it comes to."""
    figures, tasks = board["figures"], board["tasks"]
    ranks = {name: _mean_rank(name, figures, tasks) for name in figures}
    head = "| | mean rank | " + " | ".join(f"{t}, {tasks[t]['metric']}" for t in tasks) + " |"
    lines = [f"### {board['name']}, {board['created'][:10]}", "", head]
    lines.append("|---" * (2 + len(tasks)) + "|")
    for name in sorted(ranks, key=lambda name: ranks[name]):
        cells = [_cell(figures[name].get(task)) for task in tasks]
        lines.append(f"| {name} | {ranks[name]:.1f} | " + " | ".join(cells) + " |")
    chance = " | ".join(f"{task['chance']:.3f}" for task in tasks.values())
    lines += [f"| *knowing nothing* | | {chance} |", ""]
    counts = [*took(board), *papers(board), *untrained(board), *universal(board), *control(board)]
    return "\n".join([*lines, *counts, ""])


def took(board: Board) -> list[str]:
    """How long it took, over all calls that it was done in."""
    training, probes = sum(board["train_seconds"].values()) / 60, board["probe_seconds"] / 60
    return [
        f"- Wall time of {len(board['figures'])} representations on one thread: {training:.0f} "
        f"minutes of training, {probes:.0f} minutes of probes."
    ]


def papers(board: Board) -> list[str]:
    """On how many tasks the best paper leads every baseline."""
    ours = [name for name in PAPERS if name in board["figures"]]
    baselines = [name for name in board["figures"] if name not in (*PAPERS, UNIVERSAL)]
    if not ours or not baselines:
        return ["- No paper was put to these tasks yet, or no baseline."]
    won, lost = _duel(board, ours, baselines)
    chosen, _ = _duel(board, ours, baselines, by="valid")
    return [
        f"- **The best paper is ahead of every baseline on {len(won)} of {len(won) + len(lost)} "
        f"tasks**{_listed('ahead', won)}{_listed('behind', lost)}.",
        "- The paper that is best on validation users is at or above the baseline that is best "
        f"there on {len(chosen)} of {len(won) + len(lost)} tasks{_named(chosen)}.",
    ]


def untrained(board: Board) -> list[str]:
    """Where a paper is behind the better of the encoders with random weights."""
    if not set(PAPERS) & set(board["figures"]):
        return []
    figures, behind = board["figures"], []
    for task, paper in product(board["tasks"], PAPERS):
        others = [name for name in UNTRAINED if name in figures]
        if paper not in figures or not others:
            continue
        other = max(others, key=lambda name: figures[name][task]["mean"])
        mine, theirs = figures[paper][task]["mean"], figures[other][task]["mean"]
        if theirs > mine:
            p = board["p_values"].get(f"{task}: {other}, {paper}", 1.0)
            mark = "" if p < SIGNIFICANT else ", not significantly"
            behind.append(f"{paper} on {task} ({mine:.3f}, {other} {theirs:.3f}{mark})")
    told = "; ".join(behind) if behind else "nowhere"
    return [f"- Papers behind an encoder of random weights: {told}."]


def universal(board: Board) -> list[str]:
    """Where `universal` is at or above the best single producer, and where it is told from it."""
    if UNIVERSAL not in board["figures"]:
        return []
    singles = [name for name in board["figures"] if name != UNIVERSAL]
    won, lost = _duel(board, [UNIVERSAL], singles)
    chosen, missed = _duel(board, [UNIVERSAL], singles, by="valid")
    of = len(won) + len(lost)
    return [
        "- `universal` is at or above the single producer that turns out best on the test split on "
        f"{len(won)} of {of} tasks, and significantly below it on {_far(board, lost)}"
        f"{_listed('below', lost)}.",
        f"- `universal` is at or above the single producer that is best on validation users on "
        f"{len(chosen)} of {of} tasks, and significantly below it on {_far(board, missed)}"
        f"{_listed('below', missed)}.",
    ]


def _far(board: Board, lost: list[Outcome]) -> str:
    """How many of the tasks are lost significantly, and which."""
    far = [
        task
        for task, mine, theirs in lost
        if board["p_values"].get(f"{task}: {theirs[0]}, {mine[0]}", 1.0) < SIGNIFICANT
    ]
    return f"{len(far)} ({', '.join(far)})" if far else "none"


def control(board: Board) -> list[str]:
    """Where labels dealt out anew come out, beside knowing nothing."""
    told = [
        f"{task} {found[0]:.3f} to {found[-1]:.3f} ({board['tasks'][task]['chance']:.3f})"
        for task, found in board.get("control", {}).items()
        if task in board["tasks"]
    ]
    if not told:
        return []
    return [
        "- Control: TF-IDF with the labels of each split dealt out anew, least and most of its "
        f"probes (knowing nothing): {', '.join(told)}."
    ]


Outcome = tuple[str, tuple[str, float], tuple[str, float]]


def _duel(
    board: Board, ours: list[str], others: list[str], by: str = "mean"
) -> tuple[list[Outcome], list[Outcome]]:
    """Tasks on which the best of ours is at or above the best of the others, and the rest.

    The best are those of the test split, or, with ``by="valid"``, of the validation split; compared
    are figures of the test split either way.
    """
    won: list[Outcome] = []
    lost: list[Outcome] = []
    for task in board["tasks"]:
        figures = {name: found[task] for name, found in board["figures"].items()}
        best = [_best(figures, names, by) for names in (ours, others)]
        mine, theirs = (figures[name]["mean"] for name in best)
        # Equal to four digits is equal: a block is the producer's own vector, scaled.
        ahead = round(mine, 4) >= round(theirs, 4)
        (won if ahead else lost).append((task, (best[0], mine), (best[1], theirs)))
    return won, lost


def _listed(word: str, outcomes: list[Outcome]) -> str:
    if not outcomes:
        return ""
    told = (
        f"{task} ({mine[0]} {mine[1]:.3f}, {theirs[0]} {theirs[1]:.3f})"
        for task, mine, theirs in outcomes
    )
    return f"; {word}: " + ", ".join(told)


def _best(figures: dict[str, dict[str, Any]], names: list[str], by: str) -> str:
    return max(names, key=lambda name: float(figures[name][by]))


def _named(outcomes: list[Outcome]) -> str:
    return f" ({', '.join(task for task, *_ in outcomes)})" if outcomes else ""


def _mean_rank(name: str, figures: dict[str, Any], tasks: dict[str, Any]) -> float:
    ranks = []
    for task in tasks:
        values = [one[task]["mean"] for one in figures.values() if task in one]
        ranks.append(1 + sum(value > figures[name][task]["mean"] for value in values))
    return sum(ranks) / len(ranks)


def _cell(entry: dict[str, Any] | None) -> str:
    if entry is None:
        return ""
    text = f"{entry['mean']:.3f}" + (f" ± {entry['std']:.3f}" if entry["std"] >= 0.0005 else "")
    return f"**{text}**" if entry["best"] else text


if __name__ == "__main__":
    main()
