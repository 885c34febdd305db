"""The command line: one module per command, loaded when it is called."""

from __future__ import annotations

import importlib
import signal
from typing import Any

import click

from unirep_feast import UnirepError, __version__

#: Command name to its line in ``unirep --help``; each lives in ``unirep_feast.cli.<name>``.
COMMANDS = {
    "train": "Train a representation on events before a time.",
    "encode": "Write a snapshot of all users' vectors as of a time.",
    "similar": "Find users like a user, or items for one.",
    "evaluate": "Compare representations on tasks, beside each other.",
    "tune": "Search a spec's settings, judged by a loss or a task.",
    "report": "Write a page about a representation and its leaderboard.",
    "plugins": "See which plugins are installed and what they offer.",
    "runs": "List and show runs, and choose the one that serves.",
    "db": "See or upgrade the catalog's schema.",
    "data": "Make a synthetic world of events.",
}


class LazyGroup(click.Group):
    """Loads a command's module when the command is called: ``--help`` needs none of them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return command names in the order one meets them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the module of a command."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"unirep_feast.cli.{cmd_name}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the command list from the table, without importing anything."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; an expected failure becomes one line and exit code 1."""
        try:
            return super().invoke(ctx)
        except UnirepError as error:
            if ctx.params.get("verbose"):
                raise
            # Whatever a plugin or a library put into the message: it stays one line.
            raise click.ClickException(" ".join(str(error).split())) from None


@click.group(cls=LazyGroup)
@click.option("-v", "--verbose", is_flag=True, help="Log more, and show tracebacks.")
@click.version_option(__version__, prog_name="unirep")
def main(verbose: bool) -> None:
    """Universal user vectors that live in Feast: train, encode, then serve them with Feast."""
    # A polite kill is treated like Ctrl-C: the run is marked as interrupted and can be resumed.
    signal.signal(signal.SIGTERM, _interrupt)
    if verbose:
        import logging

        logging.basicConfig(level=logging.DEBUG, format="%(name)s: %(message)s")
        logging.getLogger("alembic").setLevel(logging.WARNING)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
