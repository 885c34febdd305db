"""`unirep plugins`: which plugins are installed, in what state, and what they offer."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click


@click.group(name="plugins")
def command() -> None:
    """See which plugins are installed, in what state, and what they offer."""


@command.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON list.")
def list_plugins(as_json: bool) -> None:
    """List every installed plugin; a broken one with its reason."""
    from unirep_feast.plugins import load_plugins

    registry = load_plugins()
    if as_json:
        click.echo(json.dumps([asdict(plugin) for plugin in registry.plugins]))
        return
    if not registry.plugins:
        click.echo("no plugin is installed; pip install unirep-feast-clue, for instance")
    for plugin in registry.plugins:
        click.echo(f"{plugin.name}  {plugin.distribution} {plugin.version}  {plugin.state}")
        if plugin.reason:
            click.echo(f"    {plugin.reason}")
        for offer in plugin.offers:
            click.echo(f"    {offer}")
    for (role, name), rivals in registry.contested.items():
        who = " and ".join(plugin.distribution for plugin in rivals)
        click.echo(f"clash: {role} {name!r} is registered by {who}")


@command.command()
@click.argument("name")
@click.option("--encoder", is_flag=True, help="With an encoder.")
@click.option("--objective", is_flag=True, help="With an objective.")
@click.option("--sampler", is_flag=True, help="With a sampler.")
@click.option("--task", is_flag=True, help="With a task for `unirep evaluate`.")
@click.option(
    "--into",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(),
    metavar="DIR",
    help="Make the folder there; default: here.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def new(name: str, into: Path, as_json: bool, **parts: bool) -> None:
    """Write a plugin called NAME, ready to install: unirep-feast-NAME.

    With an encoder, an objective and a sampler, unless some parts are asked for. Its tests, the
    compliance kit among them, pass at once; then change what you came for.
    """
    from unirep_feast.plugins import load_plugins
    from unirep_feast.scaffold import new_plugin

    for plugin in load_plugins().plugins:
        if plugin.name == name:
            raise click.ClickException(
                f"plugin {name!r} is installed already, by {plugin.distribution} "
                f"{plugin.version}; choose another name"
            )
    folder = new_plugin(name, into, [part for part, wanted in parts.items() if wanted])
    if as_json:
        click.echo(json.dumps({"name": name, "folder": str(folder)}))
        return
    click.echo(f"{folder}: a plugin whose tests pass; next:")
    click.echo(f"  pip install -e '{folder}[testing]'")
    click.echo(f"  python -m pytest {folder}")


@command.command()
@click.argument("name")
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="A setting for the check, such as encoder.dropout=0.1; defaults may be too large.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def check(name: str, overrides: tuple[str, ...], as_json: bool) -> None:
    """Check that plugin NAME keeps the contracts; exit code 1 if it does not.

    Runs the compliance kit on small made-up worlds, one line per promise.
    """
    from unirep_feast.testing.check import check_plugin

    report = check_plugin(name, overrides)
    if as_json:
        click.echo(json.dumps(report.to_json()))
    else:
        for line in report.lines():
            click.echo(line)
    if not report.passed:
        raise click.exceptions.Exit(1)
