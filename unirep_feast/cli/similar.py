"""`unirep similar SPEC USER…`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, TextIO

import click

from unirep_feast.cli import spec as spec_options

if TYPE_CHECKING:
    from unirep_feast.pipeline.similar import Similar

_PIPE_WIDTH = 200  # a pipe has no width: enough that few titles are folded


@click.command()
@spec_options.spec_arguments
@click.argument("users", nargs=-1, metavar="[USER]...")
@click.option(
    "--seeds",
    "seed_file",
    type=click.File("r", encoding="utf-8"),
    metavar="FILE",
    help="More users to be like, one id a line; - reads stdin.",
)
@click.option("--items", is_flag=True, help="Find items for the user, not users.")
@click.option(
    "--new-only", is_flag=True, help="With --items: none that the user has had; else they are told."
)
@click.option("--top", type=click.IntRange(1), default=10, show_default=True, metavar="M")
@click.option(
    "--score",
    "merge",
    type=click.Choice(["max", "mean"]),
    default="max",
    show_default=True,
    help="Of several users: a candidate's score is its best, or its mean, over them.",
)
@click.option(
    "--as-of",
    type=spec_options.Instant(),
    metavar="TIME",
    help="Search the snapshot as of then; the newest by default.",
)
@click.option("--run", metavar="RUN", help="Search vectors of this run, not the promoted one.")
@click.option(
    "--metric",
    type=click.Choice(["cosine", "inner_product", "l2"]),
    help="How vectors are compared; view.metric of the spec by default.",
)
@click.option(
    "--exact/--index",
    default=None,
    help="Compare with every vector, or search through an index. By default an index is built, "
    "once, where there are 20,000 vectors or more.",
)
@click.option(
    "--recall",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.95,
    show_default=True,
    help="Share of the exact top 100 that an index must find when it is built.",
)
@click.option(
    "--latest",
    type=click.IntRange(0),
    default=0,
    metavar="N",
    help="Show the N latest items of every user that is found.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(
    spec: str,
    overrides: tuple[str, ...],
    drop_invalid: bool,
    users: tuple[str, ...],
    seed_file: TextIO | None,
    items: bool,
    new_only: bool,
    top: int,
    merge: Any,
    as_of: int | None,
    run: str | None,
    metric: Any,
    exact: bool | None,
    recall: float,
    latest: int,
    as_json: bool,
) -> None:
    """Find users like USER, or like all of several; with --items, items that suit USER."""
    seeds = [*users, *_lines(seed_file)]
    if not seeds:
        raise click.ClickException("no user is given; name one, or a file of them with --seeds")
    if items and len(seeds) > 1:
        raise click.ClickException(f"--items takes one user, found {len(seeds)}")
    if new_only and not items:
        raise click.ClickException("--new-only is about items; add --items")
    from unirep_feast.pipeline.similar import Where, similar_items, similar_users
    from unirep_feast.pipeline.space import How
    from unirep_feast.progress import bar

    parsed = spec_options.read(spec, overrides, drop_invalid)
    with bar("building the index") as advance:
        where = Where(
            as_of,
            run,
            How(metric or parsed.view.metric, exact, recall),
            advance,
            spec_options.notify,
            spec_options.reader(parsed),
        )
        if items:
            found = similar_items(parsed, seeds[0], top, new_only, where)
        else:
            found = similar_users(parsed, seeds, top, merge, latest, where)
    if as_json:
        click.echo(json.dumps(_as_object(found, items)))
    else:
        _print(found, items, latest)


def _lines(file: TextIO | None) -> list[str]:
    try:
        return [] if file is None else [line.strip() for line in file if line.strip()]
    except UnicodeDecodeError:
        raise click.ClickException(
            f"--seeds {file.name if file else ''} is no text; wanted one id a line, in UTF-8"
        ) from None


def _as_object(found: Similar, items: bool) -> dict[str, Any]:
    from unirep_feast.instants import format_instant

    told = ("title", "had") if items else ("latest",)
    return {
        "run": found.run,
        "as_of": format_instant(found.as_of),
        "metric": found.metric,
        "recall": found.recall,
        "seeds": found.seeds,
        "items" if items else "users": [
            {"id": hit.id, "score": hit.score, **{name: getattr(hit, name) for name in told}}
            for hit in found.hits
        ],
    }


def _print(found: Similar, items: bool, latest: int) -> None:
    from rich.console import Console
    from rich.table import Table

    from unirep_feast.instants import format_instant

    console = Console(markup=False, emoji=False, highlight=False)
    if not console.is_terminal:
        console.width = _PIPE_WIDTH
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("", justify="right")
    table.add_column("item" if items else "user", no_wrap=True)
    table.add_column(found.metric, justify="right")
    titled = any(hit.title is not None for hit in found.hits)
    if titled:
        table.add_column("title", overflow="fold")
    if items:
        table.add_column("had")
    if latest:
        table.add_column("latest items", overflow="fold")
    for place, hit in enumerate(found.hits, 1):
        cells = [str(place), str(hit.id), f"{hit.score:.4f}"]
        cells += [hit.title or ""] if titled else []
        cells += [("yes" if hit.had else "")] if items else []
        cells += ["; ".join(hit.latest)] if latest else []
        table.add_row(*cells)
    console.print(table)
    way = "exact" if found.recall is None else f"through an index of recall {found.recall:.3f}"
    seeds = "" if items or found.seeds == 1 else f", {found.seeds:,} seeds"
    # No wrapping: a script may look for the run.
    console.print(
        f"as of {format_instant(found.as_of)}, run {found.run}{seeds}, {way}", soft_wrap=True
    )
