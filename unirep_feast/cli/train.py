"""`unirep train SPEC`."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

import click

from unirep_feast.cli import spec as spec_options

if TYPE_CHECKING:
    from unirep_feast.trainer import Record


@click.command()
@spec_options.spec_arguments
@click.option("--resume", is_flag=True, help="Continue the latest unfinished run of the spec.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.pass_context
def command(
    ctx: click.Context,
    spec: str,
    overrides: tuple[str, ...],
    drop_invalid: bool,
    resume: bool,
    as_json: bool,
) -> None:
    """Train the representation that SPEC describes, on events before `training.until`.

    The first run that finishes serves the representation; later ones wait for
    `unirep runs promote`.
    """
    from unirep_feast.instants import format_instant
    from unirep_feast.pipeline import train
    from unirep_feast.progress import bar
    from unirep_feast.ranks import first_rank

    parsed = spec_options.read(spec, overrides, drop_invalid)
    verbose = bool(ctx.find_root().params.get("verbose"))
    validated = ""
    with bar("training") as advance:

        def show(record: Record) -> None:
            nonlocal validated
            if record.kind == "start":
                spec_options.notify(_eligible(record))
            elif record.kind == "validation":
                validated = f", validation {record.values['loss']:.4f}"
            if record.kind in ("step", "prepare"):
                speed = record.values["units_per_second"]
                text = f"loss {record.values['loss']:.4f}{validated}, {speed:,.0f} users/s"
                text = f"preparing, {text}" if record.kind == "prepare" else text
                advance(record.step, record.total, text)
            if verbose and record.values:
                values = " ".join(f"{name}={value:.5g}" for name, value in record.values.items())
                spec_options.notify(f"{record.kind} {record.step}: {values}")

        read = spec_options.reader(parsed)
        result = train(parsed, resume, show, spec_options.notify, read)
    if not first_rank():
        return  # under torchrun one process speaks for all
    if as_json:
        finite = {k: v if math.isfinite(v) else None for k, v in result.metrics.items()}
        click.echo(
            json.dumps(
                {
                    "run": result.run,
                    "folder": str(result.folder),
                    "trained_until": format_instant(result.trained_until),
                    "steps": result.steps,
                    "metrics": finite,
                    "promoted": result.promoted,
                }
            )
        )
        return
    until = format_instant(result.trained_until)
    click.echo(f"run {result.run}: {result.steps:,} steps on events before {until}")
    for name, value in result.metrics.items():
        click.echo(f"  {name} {value:.6g}")
    if result.promoted:
        click.echo("it serves the representation now")
    else:
        click.echo(f"to let it serve: unirep runs promote {result.run}")


def _eligible(record: Record) -> str:
    values = {name: int(value) for name, value in record.values.items()}
    return (
        f"{values['units']:,} training units of {values['users']:,} users "
        f"({values['train']:,} train, {values['validation']:,} validation, {values['test']:,} "
        f"test), {values['parameters']:,} parameters"
    )
