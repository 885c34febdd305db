"""`unirep report [SPEC]`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from unirep_feast.cli import spec as spec_options

if TYPE_CHECKING:
    from unirep_feast.report.population import Labels


@click.command()
@click.argument("spec", required=False, metavar="[SPEC]")
@click.option("--run", metavar="RUN", help="Of this run, not the promoted one.")
@click.option(
    "--evaluation",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Folder that `unirep evaluate` wrote: adds its leaderboard.",
)
@click.option(
    "--labels",
    metavar="FILE:COLUMN",
    help="Colour users by a column of a parquet file with their ids; by the category they turn to "
    "most by default.",
)
@click.option(
    "--sample",
    type=click.IntRange(2),
    default=3_000,
    show_default=True,
    help="Users on the map.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("report.html"),
    show_default=True,
    help="The page.",
)
@click.option("--json", "as_json", is_flag=True, help="Print what it shows; write no page.")
def command(
    spec: str | None,
    run: str | None,
    evaluation: Path | None,
    labels: str | None,
    sample: int,
    out: Path,
    as_json: bool,
) -> None:
    """Write one self-contained HTML page about a representation, an evaluation, or both."""
    if spec is None and evaluation is None:
        raise click.ClickException(
            "nothing to report; name a SPEC, an --evaluation FOLDER, or both"
        )
    if spec is None and (run is not None or labels is not None):
        raise click.ClickException("--run and --labels are about a representation; name its SPEC")
    from unirep_feast.evaluation.results import finite
    from unirep_feast.files import atomic_path
    from unirep_feast.progress import bar
    from unirep_feast.report.contents import About, gather

    about = None
    if spec is not None:
        parsed = spec_options.read(spec, (), False)
        reader = spec_options.reader(parsed)
        about = About(parsed, run, _labels(labels), sample, reader)
    with bar("reporting") as advance:
        contents = gather(about, evaluation, advance, spec_options.notify)
        if as_json:
            click.echo(json.dumps(finite(contents)))
            return
        from unirep_feast.report.page import render

        html = render(contents)
    try:
        with atomic_path(out) as temporary:
            temporary.write_text(html, encoding="utf-8")
    except OSError as error:
        raise click.ClickException(
            f"--out {out} cannot be written: {error.strerror or error}; name another file"
        ) from None
    click.echo(f"{out}: open it in a browser")


def _labels(given: str | None) -> Labels | None:
    from unirep_feast.report.population import Labels

    if given is None:
        return None
    path, colon, column = given.rpartition(":")
    if not (path and colon and column):
        raise click.ClickException(f"--labels {given}: wanted FILE:COLUMN")
    return Labels(Path(path), column)
