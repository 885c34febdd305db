"""Registers a name of somebody else."""

from __future__ import annotations

from pydantic import BaseModel

from unirep_feast import hookimpl


class Settings(BaseModel, extra="forbid"):
    """None."""


@hookimpl
def unirep_register_samplers(register: object) -> None:
    register("good.sampler", lambda settings: None, Settings)
