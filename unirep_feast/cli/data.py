"""`unirep data synth`: events with known truth."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from unirep_feast.cli.spec import Instant

if TYPE_CHECKING:
    from unirep_feast.synthetic import WorldReport

#: A bar that is gone at once only flickers.
SECONDS_BEFORE_BAR = 2.0


@click.group(name="data")
def command() -> None:
    """Make event data to try things on."""


@command.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--users", default=10_000, show_default=True)
@click.option("--items", default=2_000, show_default=True)
@click.option(
    "--events-per-user", default=60.0, show_default=True, help="Mean; a few users have far more."
)
@click.option("--start", type=Instant(), default="2023-01-01", show_default=True, help="First day.")
@click.option("--days", default=731, show_default=True, help="Length of the log.")
@click.option("--personas", default=8, show_default=True, help="Kinds of interest users mix.")
@click.option(
    "--categories", type=int, help="Categories of items.  [default: 40, or as many as items]"
)
@click.option(
    "--drift", default=0.5, show_default=True, help="Share of a user's interests that is replaced."
)
@click.option("--seasonality", default=0.8, show_default=True, help="Swing over the year, 0 to 1.")
@click.option(
    "--churn", default=0.03, show_default=True, help="Share of users who leave, per 30 days."
)
@click.option("--seed", default=0, show_default=True, help="Another seed, another world.")
@click.option("--string-ids", is_flag=True, help="User and item ids as text instead of int64.")
@click.option("--overwrite", is_flag=True, help="Replace the synthetic world that is in OUT.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as one JSON object.")
def synth(
    out: Path,
    start: int,
    days: int,
    categories: int | None,
    overwrite: bool,
    as_json: bool,
    **settings: Any,
) -> None:
    """Write a synthetic world into the folder OUT.

    events.parquet, items.parquet and users.parquet, the latter with labels and the truth (interest
    mixtures, the day of leaving) that vectors learnt from the events can be measured against. The
    same settings give the same bytes. Any number of users fits in memory.
    """
    from unirep_feast.instants import MICROSECONDS_PER_DAY
    from unirep_feast.synthetic import parse_world, write_world

    world = parse_world(
        start=start,
        end=start + days * MICROSECONDS_PER_DAY,
        categories=max(1, min(40, settings["items"])) if categories is None else categories,
        **settings,
    )
    with ExitStack() as stack:
        report = write_world(world, out, _Bar(stack).show, overwrite)
    click.echo(report.model_dump_json() if as_json else _line(report))


class _Bar:
    """A progress bar that opens only where the work takes long enough for one."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._started = time.monotonic()
        self._advance: Any = None

    def show(self, done: int, total: int) -> None:
        if self._advance is None:
            if time.monotonic() - self._started < SECONDS_BEFORE_BAR:
                return
            from unirep_feast.progress import bar

            self._advance = self._stack.enter_context(bar("writing"))
        self._advance(done, total, "users")


def _line(report: WorldReport) -> str:
    from unirep_feast.instants import format_instant

    span = ""
    if report.first_event is not None and report.last_event is not None:
        span = f" from {format_instant(report.first_event)} to {format_instant(report.last_event)}"
    return (
        f"{report.folder}: {report.events:,} events ({report.purchases:,} purchases){span}, "
        f"{report.users:,} users ({report.churned:,} left), {report.items:,} items, "
        f"{report.size_bytes / 1e6:,.1f} MB"
    )
