"""Settings that swallow misspelt keys."""

from __future__ import annotations

from pydantic import BaseModel, Field

from unirep_feast import hookimpl


class Settings(BaseModel):
    """One setting, and whatever else."""

    dim: int = Field(8, description="numbers per vector")


@hookimpl
def unirep_register_samplers(register: object) -> None:
    register("bad.sampler", lambda settings: None, Settings)
