"""`unirep tune SPEC`."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from unirep_feast.cli import spec as spec_options
from unirep_feast.cli.telling import telling

if TYPE_CHECKING:
    from unirep_feast.evaluation.tuning import Tuned

_SHOWN = 10


@click.command()
@spec_options.spec_arguments
@click.option(
    "--trials",
    type=click.IntRange(1),
    default=20,
    show_default=True,
    help="Finished trials there should be, those of earlier calls included.",
)
@click.option("--tasks", type=click.Path(), help="Judge by a task of this file ...")
@click.option("--task", metavar="NAME", help="... of this name, on its validation split.")
@click.option(
    "--work",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the search; default: data/tune/NAME beside SPEC.",
)
@click.option("--prune", is_flag=True, help="Stop trials whose validation loss lags behind.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the search.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(
    spec: str,
    overrides: tuple[str, ...],
    drop_invalid: bool,
    trials: int,
    tasks: str | None,
    task: str | None,
    work: Path | None,
    prune: bool,
    seed: int,
    as_json: bool,
) -> None:
    """Search the space that SPEC names under `search`, judged by validation loss or by a task.

    Every trial is a run in the search's own catalog. Call it again to go on, also after a kill.
    """
    if (tasks is None) != (task is None):
        raise click.ClickException("--tasks FILE and --task NAME go together")
    from unirep_feast.evaluation.config import load_evaluation
    from unirep_feast.evaluation.trials import Judge, TuneOptions
    from unirep_feast.evaluation.tuning import tune

    parsed = spec_options.read(spec, overrides, drop_invalid)
    more = ("events.drop_invalid=true", "events.drop_future=true") if drop_invalid else ()
    judge = None
    if tasks is not None and task is not None:
        judge = Judge(load_evaluation(tasks), task)
    folder = work or Path(spec).parent / "data" / "tune" / parsed.name
    options = TuneOptions(spec, (*overrides, *more), folder, trials, judge, prune, seed)
    with telling("tuning", trials, ", step ") as told:
        found = tune(parsed, options, told)
    if as_json:
        click.echo(json.dumps(_as_object(found)))
    else:
        _print(found)


def _as_object(found: Tuned) -> dict[str, object]:
    trials = [
        {"number": t.number, "run": t.run, "value": t.value, "settings": t.settings}
        for t in found.trials
    ]
    return {
        "metric": found.metric,
        "best": trials[0],
        "trials": trials,
        "failed": found.failed,
        "pruned": found.pruned,
        "catalog": found.catalog,
    }


def _print(found: Tuned) -> None:
    from unirep_feast.evaluation.trials import as_override

    for trial in found.trials[:_SHOWN]:
        settings = " ".join(as_override(key, value) for key, value in trial.settings.items())
        click.echo(f"{trial.value:10.5g}  trial {trial.number:<3} run {trial.run}  {settings}")
    more = f", {found.failed} failed" if found.failed else ""
    more += f", {found.pruned} pruned" if found.pruned else ""
    click.echo(f"{len(found.trials)} trials by {found.metric}{more}; runs in {found.catalog}")
    best = found.best.settings.items()
    flags = " ".join(f"--set {shlex.quote(as_override(key, value))}" for key, value in best)
    click.echo(f"the best: unirep train SPEC {flags}")
