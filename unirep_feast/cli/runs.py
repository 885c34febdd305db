"""`unirep runs`: what has been trained, what came of it, and which run serves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from unirep_feast.cli.options import catalog_option

if TYPE_CHECKING:
    from unirep_feast.catalog import Promotion


@click.group(name="runs")
def command() -> None:
    """List the runs of a catalog, look at one, or let one serve.

    RUN is a run's id or as much of its beginning as no other run shares.
    """


@command.command(name="list")
@click.option("--representation", metavar="NAME", help="Only the runs of this representation.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON list.")
@catalog_option
def list_runs(representation: str | None, as_json: bool, catalog_url: str) -> None:
    """List the runs, latest first; the one that serves is marked."""
    from unirep_feast.catalog import Catalog
    from unirep_feast.cli import runs_output

    runs = Catalog(catalog_url, create=False).list_runs(representation)
    if as_json:
        click.echo(json.dumps([runs_output.run_object(run) for run in runs], indent=2))
    else:
        runs_output.print_runs(runs)


@command.command()
@click.argument("run")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, the spec included.")
@catalog_option
def show(run: str, as_json: bool, catalog_url: str) -> None:
    """Show a run: its spec and plugins, metrics, checkpoints, snapshots and promotions."""
    from unirep_feast.catalog import Catalog
    from unirep_feast.cli import runs_output

    catalog = Catalog(catalog_url, create=False)
    lineage = catalog.lineage(catalog.find_run(run).id)
    if as_json:
        click.echo(json.dumps(runs_output.lineage_object(lineage), indent=2))
    else:
        runs_output.print_lineage(lineage)


@command.command()
@click.argument("run")
@click.option(
    "--repo",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Feature repo whose online store is brought to the run at once, with its own engine.",
)
@catalog_option
def promote(run: str, repo: Path | None, catalog_url: str) -> None:
    """Let a run serve its representation, in place of the one that does.

    Every run is a vector space of its own. With --repo the views of that feature repo are
    materialized again, over the times they had been, and hold vectors of this run only; without it
    run `feast materialize` yourself. Going back is the same command with the run before.
    """
    promotion = promote_run(run, catalog_url)
    click.echo(f"{promotion.representation} is served by run {promotion.run_id} now")
    if promotion.previous_run_id is None:
        click.echo("no run served it before")
    else:
        click.echo(
            f"before it was {promotion.previous_run_id}; to go back: "
            f"unirep runs promote {promotion.previous_run_id}"
            + ("" if repo is None else f" --repo {repo}")
            + _catalog_flag(catalog_url)
        )
    if repo is not None:
        _materialize(repo, promotion.representation)


def _materialize(repo: Path, representation: str) -> None:
    """Bring a feature repo's online store to the promoted run; Feast's own talk goes to stderr."""
    import contextlib
    import sys

    from unirep_feast.cli import spec as spec_options
    from unirep_feast.feature_store.promoting import serve_promoted

    with contextlib.redirect_stdout(sys.stderr):
        views = serve_promoted(repo.resolve(), representation, spec_options.notify)
    for view in views:
        click.echo(f"{view} is served online by it")


def _catalog_flag(catalog_url: str) -> str:
    """Repeat ``--catalog`` where it was given by hand; a default or a variable holds anyway."""
    source = click.get_current_context().get_parameter_source("catalog_url")
    if source is not ParameterSource.COMMANDLINE:
        return ""
    from unirep_feast.catalog.connect import read_url, show_url

    return f" --catalog {show_url(read_url(catalog_url))}"


def promote_run(run: str, catalog_url: str) -> Promotion:
    """Promote a run in the catalog, and repoint the folder that feature views read.

    Args:
        run: the run's id, or a beginning of it that no other run shares.
        catalog_url: the catalog it is in.

    Raises:
        CatalogError: there is no such run, it has not finished, or its folder is not here.
    """
    from unirep_feast.catalog import Catalog
    from unirep_feast.errors import CatalogError
    from unirep_feast.snapshot import point_promoted

    catalog = Catalog(catalog_url, create=False)
    found = catalog.find_run(run)
    folder = Path(found.folder)
    if not folder.is_dir():
        raise CatalogError(
            f"run {found.id} lies in {folder}, which is not here; promote it from the folder "
            "and machine it was trained in"
        )
    home = folder.parent.parent  # <home>/runs/<run_id>
    return catalog.promote(found.id, switch=lambda: point_promoted(home, found.id))
