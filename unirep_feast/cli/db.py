"""`unirep db`: the catalog's database."""

from __future__ import annotations

import json

import click

from unirep_feast.cli.options import catalog_option


@click.group(name="db")
def command() -> None:
    """Look at the catalog's database, or bring it up to date."""


@command.command()
@catalog_option
def upgrade(catalog_url: str) -> None:
    """Bring the catalog to the latest revision, keeping what is in it.

    A new or empty database needs no such call: any command that writes sets it up. Nothing changes
    unless everything does; a copy of the database before is a good habit all the same.
    """
    from unirep_feast.catalog import schema
    from unirep_feast.catalog.connect import read_url, show_url

    before = schema.upgrade(catalog_url)
    shown = show_url(read_url(catalog_url))
    if before.kind == "current":
        click.echo(f"catalog {shown} was at revision {schema.HEAD} already")
    else:
        click.echo(
            f"catalog {shown} is at revision {schema.HEAD} now; it was {before.found or 'empty'}"
        )


@command.command()
@catalog_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def current(catalog_url: str, as_json: bool) -> None:
    """Say which revision the catalog is at, and which one this version wants.

    Changes and creates nothing, and succeeds whatever it finds, as long as there is a database to
    look at.
    """
    from unirep_feast.catalog import schema
    from unirep_feast.catalog.connect import read_url, show_url

    state = schema.current(catalog_url)
    shown = show_url(read_url(catalog_url))
    if as_json:
        found = {"catalog": shown, "state": state.kind}
        click.echo(json.dumps(found | {"found": state.found, "wanted": schema.HEAD}))
    else:
        click.echo(
            f"catalog {shown}: {state.kind}, found {state.found or 'none'}, wanted {schema.HEAD}"
        )
