"""`unirep evaluate TASKS SPEC...`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from unirep_feast.cli import spec as spec_options
from unirep_feast.cli.telling import telling

_PIPE_WIDTH = 200


@click.command()
@click.argument("tasks", type=click.Path())
@click.argument("specs", nargs=-1, metavar="SPEC...", type=click.Path())
@click.option(
    "--work",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of results, runs and snapshots; default: data/evaluation/NAME beside TASKS.",
)
@click.option("--task", "only", multiple=True, metavar="NAME", help="Only this task; may repeat.")
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override a key of TASKS, such as seeds=5.",
)
@click.option("--control", is_flag=True, help="Also train on shuffled labels: must sit at chance.")
@click.option(
    "--serving", is_flag=True, help="Evaluate the runs that serve; train nothing before cut-offs."
)
@click.option(
    "--allow-model-leakage",
    is_flag=True,
    help="Accept models that have seen the labels; it is recorded in every row.",
)
@click.option("--no-intrinsic", is_flag=True, help="Leave out measures that need no label.")
@click.option("--csv", "csv_path", type=click.Path(path_type=Path), help="Also write rows here.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as one JSON object.")
def command(
    tasks: str,
    specs: tuple[str, ...],
    work: Path | None,
    only: tuple[str, ...],
    overrides: tuple[str, ...],
    control: bool,
    serving: bool,
    allow_model_leakage: bool,
    no_intrinsic: bool,
    csv_path: Path | None,
    as_json: bool,
) -> None:
    """Evaluate representations on tasks: train before each cut-off, encode as of it, probe.

    TASKS is a YAML of tasks over one event log, each SPEC a representation. What is done is kept:
    run it again, with more specs, tasks or seeds, and only what is missing is computed.
    """
    if not specs:
        raise click.ClickException("no SPEC is given; name the representations to evaluate")
    from unirep_feast.evaluation.candidates import Candidate
    from unirep_feast.evaluation.config import load_evaluation
    from unirep_feast.evaluation.evaluating import Options, evaluate

    config = load_evaluation(tasks, overrides)
    candidates = [Candidate(one, spec_options.read(one, (), False), serving) for one in specs]
    folder = work or Path(tasks).parent / "data" / "evaluation" / config.name
    options = Options(
        folder,
        only,
        control,
        allow_model_leakage,
        not no_intrinsic,
        " ".join(["unirep", *sys.argv[1:]]),
    )
    with telling("evaluating", 1, " ") as told:
        found = evaluate(config, candidates, options, told)
    if csv_path is not None:
        _copy(folder / "results.csv", csv_path)
    if as_json:
        from unirep_feast.evaluation.results import finite

        click.echo(json.dumps(finite(found)))
    else:
        _print(found, folder)
    if found["failures"]:
        lines = "; ".join(found["failures"].values())
        raise click.ClickException(f"{len(found['failures'])} of {len(specs)} failed: {lines}")


def _copy(source: Path, target: Path) -> None:
    from unirep_feast.files import atomic_path

    try:
        with atomic_path(target) as temporary:
            temporary.write_bytes(source.read_bytes())
    except OSError as error:
        raise click.ClickException(f"--csv {target}: {error.strerror or error}") from None


def _print(found: dict[str, Any], folder: Path) -> None:
    """One line per representation, best mean rank first; one column per task."""
    from rich.console import Console
    from rich.table import Table

    from unirep_feast.evaluation.leaderboard import mean_ranks

    console = Console(markup=True, emoji=False, highlight=False)
    if not console.is_terminal:
        console.width = _PIPE_WIDTH
    entries = found["leaderboard"]
    for fraction in sorted({entry["label_fraction"] for entry in entries}, reverse=True):
        shown = [entry for entry in entries if entry["label_fraction"] == fraction]
        title = found["name"] + ("" if fraction == 1 else f", {fraction:.0%} of the labels")
        table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0))
        table.add_column("representation", no_wrap=True)
        table.add_column("rank", justify="right")
        cells = {(entry["task"], entry["representation"]): entry for entry in shown}
        tasks = [task for task in found["tasks"] if task["name"] in {e["task"] for e in shown}]
        for task in tasks:
            table.add_column(f"{task['name']}\n{task['metric']}", justify="right")
        for name, rank in mean_ranks(shown).items():
            line = [_cell(cells.get((task["name"], name))) for task in tasks]
            table.add_row(name, f"{rank:.1f}", *line)
        chances = [f"[dim]{task['chance'][task['metric']]:.3f}[/]" for task in tasks]
        table.add_row("[dim]chance[/]", "", *chances)
        console.print(table)
    console.print(
        "test split, mean ± std over seeds, the probe that is best on the validation split; * best "
        "or not significantly worse (paired bootstrap over users, p >= 0.05)",
        soft_wrap=True,
    )
    for told in _controls(found["rows"]):
        console.print(told, soft_wrap=True)
    console.print(f"{folder / 'leaderboard.json'}, {folder / 'results.csv'}", soft_wrap=True)


def _controls(rows: list[dict[str, Any]]) -> list[str]:
    """What probes made of shuffled labels, mean over shuffles."""
    found: dict[tuple[str, str, str], dict[str, list[float]]] = {}
    for row in rows:
        if row["control"] and row["primary"] and row["split"] == "test":
            probes = found.setdefault((row["representation"], row["task"], row["metric"]), {})
            probes.setdefault(row["probe"], []).append(row["value"])
    return [
        f"control: {name}, {task}, {metric} on shuffled labels: "
        + ", ".join(f"{probe} {sum(values) / len(values):.3f}" for probe, values in probes.items())
        for (name, task, metric), probes in found.items()
    ]


def _cell(entry: dict[str, Any] | None) -> str:
    if entry is None:
        return "-"
    text = f"{entry['mean']:.3f}"
    if entry["n"] > 1:
        text += f"±{entry['std']:.3f}"
    return f"[bold]{text}*[/]" if entry["best"] else f"{text} "
