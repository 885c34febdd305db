"""A setting without a default: a name alone is not enough in a spec."""

from __future__ import annotations

from pydantic import BaseModel, Field

from unirep_feast import hookimpl


class Settings(BaseModel, extra="forbid"):
    """One setting."""

    dim: int = Field(description="numbers per vector")


@hookimpl
def unirep_register_samplers(register: object) -> None:
    register("bad.sampler", lambda settings: None, Settings)
