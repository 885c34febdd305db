"""`unirep encode SPEC --as-of T`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from unirep_feast.cli import spec as spec_options


@click.command()
@spec_options.spec_arguments
@click.option(
    "--as-of",
    type=spec_options.Instant(),
    multiple=True,
    required=True,
    metavar="TIME",
    help="Use events strictly before it; ISO date or date-time, UTC. May be repeated.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Write one plain parquet (user id, vector) here instead; no feature store is needed.",
)
@click.option("--run", metavar="RUN", help="Encode with this run, not the promoted one.")
@click.option(
    "--allow-model-leakage",
    is_flag=True,
    help="Accept a model that has seen events at or after TIME; it is recorded.",
)
@click.option(
    "--incremental",
    is_flag=True,
    help="Encode only users whose history changed since the run's latest earlier snapshot.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
def command(
    spec: str,
    overrides: tuple[str, ...],
    drop_invalid: bool,
    as_of: tuple[int, ...],
    out: Path | None,
    run: str | None,
    allow_model_leakage: bool,
    incremental: bool,
    as_json: bool,
) -> None:
    """Write a snapshot of all users' vectors as of a time, from events strictly before it.

    Beside it, where the encoder has them, one of the vectors of all items seen by then (see
    `view.items` in the spec), and one with a row per interest (`view.per_interest`).
    """
    from unirep_feast.instants import format_instant
    from unirep_feast.pipeline import encode
    from unirep_feast.progress import bar

    if out is not None and len(as_of) > 1:
        raise click.ClickException("--out holds one snapshot: give one --as-of, or call it twice")
    parsed = spec_options.read(spec, overrides, drop_invalid)
    results = []
    for when in as_of:
        with bar(f"encoding as of {format_instant(when)}") as advance:
            result = encode(
                parsed,
                when,
                out,
                run,
                allow_model_leakage,
                lambda done, total: advance(done, total, "users"),
                spec_options.notify,
                spec_options.reader(parsed),
                incremental,
            )
        results.append(
            {
                "path": str(result.path),
                "run": result.run,
                "as_of": format_instant(result.as_of),
                "users": result.users,
                "num_vectors": result.num_vectors,
                "dim": result.dim,
                "existed": result.existed,
                "carried": result.carried,
                **{
                    name: None if part is None else {"path": str(part.path), "rows": part.rows}
                    for name, part in (("items", result.items), ("interests", result.interests))
                },
            }
        )
        if not as_json:
            click.echo(
                f"{result.path}: {result.users:,} users x {result.num_vectors * result.dim} as of "
                f"{format_instant(when)}, run {result.run}"
                + (" (was there already)" if result.existed else "")
            )
            for name, part in (("items", result.items), ("interests", result.interests)):
                if part is not None:
                    click.echo(f"{part.path}: {part.rows:,} {name} x {result.dim}")
    if as_json:
        click.echo(json.dumps(results))
