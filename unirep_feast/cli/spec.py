"""What every command with a spec takes: the file and values to override in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from unirep_feast.config import RepresentationSpec
    from unirep_feast.pipeline.loading import ReadEvents


def spec_arguments(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add SPEC, ``--set`` and ``--drop-invalid`` to a command."""
    function = click.option(
        "--drop-invalid", is_flag=True, help="Drop and count rows with nulls or future times."
    )(function)
    function = click.option(
        "--set",
        "overrides",
        multiple=True,
        metavar="KEY=VALUE",
        help="Override a key of the spec, such as training.max_steps=100.",
    )(function)
    return click.argument("spec", type=click.Path())(function)


def read(spec: str, overrides: tuple[str, ...], drop_invalid: bool) -> RepresentationSpec:
    """Read the spec with its overrides."""
    from unirep_feast.pipeline import read_spec

    more = ("events.drop_invalid=true", "events.drop_future=true") if drop_invalid else ()
    return read_spec(spec, overrides + more)


def reader(spec: RepresentationSpec) -> ReadEvents:
    """Return what reads the spec's events; Feast is imported only where they come from it."""
    from unirep_feast.events import read_events

    if spec.events.feast is None:
        return read_events
    from unirep_feast.feature_store.source_events import read_feast_events

    return read_feast_events


def notify(line: str) -> None:
    """Say one line on stderr."""
    click.echo(line, err=True)


class Instant(click.ParamType[int]):
    """A point in time: an ISO date or date-time, UTC where it says nothing else."""

    name = "time"

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        """Read the text as microseconds since 1970 UTC."""
        from unirep_feast.instants import parse_instant

        try:
            return parse_instant(value)
        except ValueError as error:
            raise click.ClickException(f"--{param.name.replace('_', '-')}: {error}") from None
