"""Fills in what the code says: the command line's help, and the keys of a representation spec."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import click
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from unirep_feast.cli import main
from unirep_feast.config import RepresentationSpec


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace ``<!-- generated: NAME -->`` by what NAME stands for."""
    for name, make in _MAKERS.items():
        mark = f"<!-- generated: {name} -->"
        if mark in markdown:
            markdown = markdown.replace(mark, make())
    return markdown


def command_line() -> str:
    """Every command's help, as `--help` prints it."""
    return "\n".join(_commands(main, click.Context(main, info_name="unirep", max_content_width=90)))


def _commands(command: click.Command, context: click.Context) -> Iterator[str]:
    path = context.command_path
    yield f"## {path}\n\n```text\n{command.get_help(context)}\n```\n"
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            if below is not None:
                yield from _commands(below, click.Context(below, info_name=name, parent=context))


def spec_keys() -> str:
    """A table per section of a spec."""
    return "\n".join(_tables(RepresentationSpec, ""))


def _tables(model: type[BaseModel], path: str) -> Iterator[str]:
    title = f"`{path}`" if path else "The spec itself"
    yield f"## {title}\n\n| key | default | what it is |\n|---|---|---|"
    below: list[tuple[str, type[BaseModel]]] = []
    for name, field in model.model_fields.items():
        if name == "folder":  # set by the loader
            continue
        nested = _model_of(field.annotation)
        if nested is not None:
            below.append((f"{path}.{name}" if path else name, nested))
        yield f"| `{name}` | {_default(field)} | {_text(field.description, nested)} |"
    yield ""
    for key, nested in below:
        yield from _tables(nested, key)


def _model_of(annotation: Any) -> type[BaseModel] | None:
    candidates = [annotation, *getattr(annotation, "__args__", ())]
    models = [one for one in candidates if isinstance(one, type) and issubclass(one, BaseModel)]
    return models[0] if models else None


def _default(field: Any) -> str:
    if field.default is PydanticUndefined:
        return "" if field.default_factory is None else "`{}`"
    if isinstance(field.default, BaseModel):
        return ""
    return f"`{'null' if field.default is None else field.default}`"


def _text(description: str | None, nested: type[BaseModel] | None) -> str:
    text = description or (nested.__doc__ or "").strip().split("\n")[0] if nested else description
    return (text or "").replace("|", "\\|")


_MAKERS: dict[str, Callable[[], str]] = {"command line": command_line, "spec": spec_keys}
