"""Registers one name twice."""

from __future__ import annotations

from pydantic import BaseModel

from unirep_feast import hookimpl


class Settings(BaseModel, extra="forbid"):
    """None."""


@hookimpl
def unirep_register_samplers(register: object) -> None:
    register("bad.sampler", lambda settings: None, Settings)
    register("bad.sampler", lambda settings: None, Settings)
