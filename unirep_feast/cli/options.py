"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

#: Where a catalog is looked for by commands that have no spec to ask.
DEFAULT_CATALOG = "sqlite:///data/unirep/catalog.db"


def catalog_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--catalog URL`` to a command."""
    return click.option(
        "--catalog",
        "catalog_url",
        metavar="URL",
        envvar="UNIREP_CATALOG",
        default=DEFAULT_CATALOG,
        show_default=True,
        show_envvar=True,
        help="The catalog's database: sqlite:///FILE or postgresql://USER@HOST/DATABASE.",
    )(function)
